//! What a session asks its driver for, and how it ends.

use std::time::Duration;

use crate::{
    message::Goaway,
    sync::{receiver::Append, sender::OriginTask},
};

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The peer sent GOAWAY.
    #[error("the peer ended the session: {} ({})", .0.message, .0.reason.word())]
    ClosedByPeer(Goaway),
    /// This side sent GOAWAY.
    #[error("ended the session: {} ({})", .0.message, .0.reason.word())]
    Closed(Goaway),
    /// Nothing was received for this long.
    #[error("received nothing from the peer for {} s", .0.as_secs())]
    IdleTimeout(Duration),
    /// Entries were sent and none was acknowledged for too long.
    #[error("entries were sent, but none was acknowledged in time")]
    AckTimeout,
}

/// A task for the driver at a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionWork {
    /// A task at the origin. Its result goes to the method that the [`OriginTask`] names.
    Origin(OriginTask),
    /// A batch for the copy. The results go to [`handle_appended`](super::Session::handle_appended), in
    /// the order of the batches.
    Append(Append),
    /// Check whether the copy can be used again; then
    /// [`handle_copy_probed`](super::Session::handle_copy_probed).
    Probe,
}

/// Which end keeps the link alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// This end sends PING when it has received nothing for this long.
    Pings(Duration),
    /// This end answers PING.
    Answers,
}
