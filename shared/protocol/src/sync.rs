//! The state machines of the protocol. They do no I/O: the time and the results of reads are arguments.
//!
//! In the order to read: `loss_accounting` (what is lost), `resume` (where a sender begins), `sender` (the
//! origin's end), `receiver` (the copy's end), `dedup` (entries that the copy has from an older epoch),
//! and `session`, which has a sender and a receiver for one connection.

mod loss_accounting;
mod dedup;
mod resume;
mod receiver;
mod sender;
mod session;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests use the real clock")]
mod simulation;

pub use dedup::{CopiedEntry, CopyIndex, Deduplicated, UncertainRange};
pub use loss_accounting::{Extent, RecordedLosses};
pub use receiver::{Append, AppendResult, BadBatch, Receiver, UncheckedBatch, plan_append};
pub use resume::{
    EpochStart, HighWaterMark, LastRead, OriginMemory, OriginStanding, Position, ResumeFinding,
    SenderStart, find_position,
};
pub use sender::{
    AckedBatch, BadAck, LinkPath, OriginRead, OriginTask, PathFinding, PathLimit, PeerClock,
    ReadSize, Sender, SessionEnding, SessionSummary, StuckEntry, TrimMode, UnackedAtEnd,
};
pub use session::{Heartbeat, Session, SessionEnd, SessionWork};
