//! The words, the protocol and the store that every Spoke service shares; modules in the order to read them.

pub mod allowance;
pub mod chain;
pub mod client;
pub mod instance;
pub mod preflight;
pub mod redis_metrics;
pub mod suggest;
pub mod summary;
pub mod seq;
pub mod entry;
pub mod limits;
pub mod loss;
pub mod partner;
pub mod seal;
pub mod message;
pub mod wire;
pub mod sync;
pub mod store;
pub mod proof;
pub mod heard;
pub mod link;
pub mod traffic;

pub mod cli;
pub mod config;
pub mod exposition;
pub mod notify;
pub mod refusal;
pub mod reload;
pub mod repeats;
pub mod retry;
pub mod serve;
pub mod shutdown;
pub mod telemetry;
pub mod trust;
