//! The parts of a service process around the protocol and the store: settings, command line, HTTP server, start
//! and shutdown. [`daemon`] and [`cli`] show how they fit together.

pub mod limits;
pub mod api_error;
pub mod bearer;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod last_activity;
pub mod log_summary;
pub mod logging;
pub mod preflight;
pub mod redis_metrics;
pub mod reload;
pub mod server;
pub mod service_config;
pub mod session_metrics;
pub mod shutdown;
pub mod systemd;
