//! WebSockets: the `spoke.v1` sessions of agents, and the `spoke.v1.json` sessions of other
//! programs.

mod admission;
pub(crate) mod agent;
mod charged_stream;
mod close;
pub(crate) mod context;
mod frame_sink;
mod frames;
pub(crate) mod json;
mod read_ahead;
pub(crate) mod socket;
