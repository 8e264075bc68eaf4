//! WebSockets: the `spoke.v1` sessions of agents, and the `spoke.v1.json` sessions of other
//! programs.

mod admission;
pub(crate) mod agent;
mod charged_stream;
mod close;
pub(crate) mod context;
mod frames;
pub(crate) mod json;
pub(crate) mod socket;
