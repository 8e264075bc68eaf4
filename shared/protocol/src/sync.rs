//! The state machines of the protocol. They do no I/O: the time and the results of reads are arguments.
//!
//! In the order to read: [`accounting`] (what is lost), [`resume`] (where a sender begins), [`sender`] (the
//! origin's end), [`receiver`] (the copy's end), [`dedup`] (entries that the copy has from an older epoch),
//! and [`session`], which has a sender and a receiver for one connection.

pub mod accounting;
pub mod dedup;
pub mod resume;
pub mod receiver;
pub mod sender;
pub mod session;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at some time")]
mod simulation;
