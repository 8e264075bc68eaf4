//! What a hostile client sends: frames, bodies and bytes that no library of ours would make.

pub mod arsenal;
pub mod bodies;
pub mod frames;
pub mod raw;
