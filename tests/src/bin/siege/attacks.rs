//! The implementations of the attacks.

pub(crate) mod bodies;
pub(crate) mod connections;
pub(crate) mod frames;
pub(crate) mod searches;
pub(crate) mod shares;

/// Sockets of one client.
const SOCKETS: u64 = 8;
/// Requests of one client at a time.
const REQUESTS: usize = 32;
