//! The protocol, pure: no I/O, no clock, no randomness; `now` and what was read are arguments.
//!
//! Read `position` (where to begin), `sender` (the origin's end), `receiver` (the copy's end), then
//! `session`, which holds one of each for one connection.

pub mod position;
pub mod receiver;
pub mod sender;
pub mod session;

#[cfg(test)]
mod model;
