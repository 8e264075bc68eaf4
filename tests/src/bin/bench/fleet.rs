//! A fleet on one hub: what a thousand clients that say a little cost, and ten thousand that say
//! nothing; what it takes to reach one of them, and how all come back when the hub restarts.
//!
//! The clients are the agent's own dial, transport, session and stores, in processes of their own,
//! so that the files that they need and the time that they take are not those of the benchmark.
//! Rejected: ten thousand agents as processes, which would measure the machine's memory; logins,
//! which would measure bcrypt.

mod client;
mod fan_in;
mod idle;
pub(crate) mod play;
mod player;
mod published;
mod stand;
mod storm;
mod wake;

use spoke_tests::process_usage;

use crate::{
    Options,
    figure::{Figure, Goal},
    samples,
};

pub(crate) async fn fan_in(options: &Options) -> Vec<Figure> {
    fan_in::measure(options).await
}

pub(crate) async fn idle(options: &Options) -> Vec<Figure> {
    idle::measure(options).await
}

pub(crate) async fn wake(options: &Options) -> Vec<Figure> {
    wake::measure(options).await
}

pub(crate) async fn storm(options: &Options) -> Vec<Figure> {
    storm::measure(options).await
}
