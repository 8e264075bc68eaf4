//! What a session asks its driver for, and how it ends.

use std::time::Duration;

use crate::{
    message::Goaway,
    sync::{receiver::Append, sender::OriginTask},
};

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The other side said so.
    #[error("the other side ended the session: {} ({})", .0.message, .0.reason.word())]
    ClosedByPeer(Goaway),
    /// This side says so.
    #[error("ended the session: {} ({})", .0.message, .0.reason.word())]
    Closed(Goaway),
    /// Nothing was heard for too long.
    #[error("nothing was heard from the other side for {} s", .0.as_secs())]
    IdleTimeout(Duration),
    /// Entries were sent and none was acknowledged for too long.
    #[error("entries were sent, but none was acknowledged in time")]
    AckTimeout,
}

/// A thing for the driver to do at a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionWork {
    /// At the origin; the answer goes to the `handle_*` that the task names.
    Origin(OriginTask),
    /// At the copy; the answers go to `handle_appended` in the order of these.
    Append(Append),
    /// Look whether the copy can be used again; then `handle_probed`.
    Probe,
}

/// Which end keeps the link alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// Pings when it has heard nothing for this long.
    Pings(Duration),
    /// Answers.
    Answers,
}
