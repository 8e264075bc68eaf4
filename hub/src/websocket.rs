//! WebSockets: the `spoke.v1` sessions of agents, and the `spoke.v1.json` sessions of other programs.

pub mod admission;
pub mod agent;
mod charged_stream;
mod close;
pub mod context;
pub mod frames;
pub mod json;
pub mod socket;
