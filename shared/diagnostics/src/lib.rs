//! What a process reports about itself: metrics, errors with their causes, bounded logs.

pub mod limits;
pub mod clock;
pub mod error_chain;
pub mod log_limit;
pub mod metrics;
pub mod suggest;
pub mod tls_error;
