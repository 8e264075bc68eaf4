//! The traffic of a hostile client: frames, bodies and bytes that no regular client would send.

pub mod arsenal;
pub mod bodies;
pub mod frames;
pub mod raw;
