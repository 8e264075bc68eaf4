//! The protocol, pure: no I/O, no clock, no randomness; `now` and what was read are arguments.
//!
//! Read `account` (what is carried and what is missing), `partner` (whom
//! that was agreed with), `position` (where to begin), `sender` (the
//! origin's end), `receiver` (the copy's end), `held` (what the copy has from another life), then
//! `session`, which holds a sender and a receiver for one connection.

pub mod accounting;
pub mod dedup;
pub mod resume;
pub mod receiver;
pub mod sender;
pub mod session;

#[cfg(test)]
mod simulation;
