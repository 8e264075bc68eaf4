//! The parts of a service process around the protocol and the store: settings, command line, HTTP server, start
//! and shutdown. [`daemon`] and [`cli`] show how they fit together.

#![warn(unnameable_types)]

pub mod limits;
pub mod api_error;
mod bearer;
pub mod cli;
pub mod config;
pub mod daemon;
mod last_activity;
mod log_summary;
pub mod logging;
pub mod preflight;
pub mod redis_metrics;
pub mod reload;
pub mod server;
mod service_config;
mod session_metrics;
mod shutdown;
pub mod systemd;

pub use bearer::bearer_token;
pub use last_activity::{LastActivity, ObservedStream, StreamObserver};
pub use log_summary::sum_up;
pub use service_config::ServiceConfig;
pub use session_metrics::{BacklogSummary, DirectionMetrics, SessionMetrics, SessionObserver};
pub use shutdown::Shutdown;
