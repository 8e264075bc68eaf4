//! The tasks that a sender asks for at the origin's store, and the result of a read.

use std::time::Instant;

use crate::{
    entry::{Entry, RejectReason},
    loss::{Checkpoint, Loss},
    seq::Seq,
    sync::loss_accounting::{Extent, RecordedLosses},
};

/// A task for the driver at the origin's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginTask {
    /// Record the end of the stream as the high-water mark and read entries after `after`, without
    /// waiting; then [`handle_read`](super::Sender::handle_read). No entry is sent before the mark covers
    /// it.
    Read {
        /// The seq after which to read.
        after: Seq,
        /// The size of one batch.
        batch: ReadSize,
        /// The high-water mark that is known. A store whose mark is behind it has gone back to an older
        /// state.
        high_water_mark: Seq,
    },
    /// Write these losses to the ledger; then
    /// [`handle_losses_recorded`](super::Sender::handle_losses_recorded).
    RecordLosses(Vec<Loss>, RecordedLosses),
    /// Copy these entries to the dead letters; then
    /// [`handle_dead_lettered`](super::Sender::handle_dead_lettered).
    DeadLetter(Vec<(Seq, RejectReason)>),
    /// Record the acknowledgement, and trim the origin; then
    /// [`handle_ack_recorded`](super::Sender::handle_ack_recorded).
    RecordAck {
        /// The acknowledged cursor.
        acked: Checkpoint,
        /// The last entry to remove from the origin, if trimming is on.
        trim_through: Option<Seq>,
        /// Whether the copy has acknowledged all losses in the origin's ledger.
        clears_recorded_losses: bool,
    },
}

/// The size of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadSize {
    /// The maximum number of entries.
    pub entries: usize,
    /// The number of charged bytes after which no more entries are read.
    pub bytes: usize,
}

/// The result of [`OriginTask::Read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRead {
    /// The entries, in order. Redis stores no entry without fields: one without them here is too large to
    /// be carried, and was not read.
    pub entries: Vec<Entry>,
    /// The extent of the stream at that moment.
    pub extent: Extent,
    /// Whether nothing followed these entries.
    pub is_end: bool,
}

/// A task that failed because a key of the origin has the wrong type or no IDs left.
pub(super) struct BlockedTask {
    pub(super) task: OriginTask,
    /// When to try again; none for at once.
    pub(super) retry_at: Option<Instant>,
    pub(super) is_running: bool,
}

impl BlockedTask {
    /// Creates the smallest read that shows whether the origin can be read.
    pub(super) fn probe(after: Seq, high_water_mark: Seq) -> Self {
        let batch = ReadSize { entries: 1, bytes: 1 };
        let task = OriginTask::Read { after, batch, high_water_mark };
        Self { task, retry_at: None, is_running: false }
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<OriginTask> {
        let is_due = !self.is_running && self.retry_at.is_none_or(|at| at <= now);
        self.is_running |= is_due;
        is_due.then(|| self.task.clone())
    }
}
