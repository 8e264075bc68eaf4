//! What a process reports about itself: metrics, errors with their causes, bounded logs.

#![warn(unnameable_types)]

pub mod limits;
mod clock;
mod error_chain;
mod log_limit;
pub mod metrics;
mod suggest;
pub mod tls_error;

pub use clock::unix_ms;
pub use error_chain::error_chain;
pub use log_limit::{LogLimiter, Outage, OutageLog, OutageSummary, SharedLogLimiter};
pub use suggest::nearest_name;
