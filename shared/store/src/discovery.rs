//! Asks the servers that know the primary: Sentinels, or the nodes of a cluster.

mod ask;
mod belief;
mod sentinels;

pub use self::belief::PrimarySurvey;
pub(crate) use self::{
    ask::Discovery,
    belief::{DiscoveryAnswer, believe},
    sentinels::Sentinels,
};
