//! What a process needs around the protocol and the store: settings, commands, servers, start and end.

pub mod limits;
pub mod api_error;
pub mod cli;
pub mod config;
pub mod last_activity;
pub mod log_summary;
pub mod logging;
pub mod preflight;
pub mod redis_metrics;
pub mod reload;
pub mod server;
pub mod session_metrics;
pub mod shutdown;
pub mod systemd;
