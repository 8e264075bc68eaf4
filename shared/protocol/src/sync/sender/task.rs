//! What a sender asks to have done at the origin's store.

use std::time::Instant;

use crate::{
    entry::{Entry, RejectReason},
    loss::{Checkpoint, Loss},
    seq::Seq,
    sync::accounting::{Extent, RecordedLosses},
};

/// A thing for the driver to do at the origin's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginTask {
    /// Mark how far the stream reaches and read entries after `after`, without waiting; then
    /// `handle_read`. No entry leaves before the mark covers it.
    Read {
        /// After which entry.
        after: Seq,
        /// As much as one batch holds.
        batch: ReadSize,
        /// The mark as it is known to be; one that lies behind it is of an older state.
        high_water_mark: Seq,
    },
    /// Write these losses to the ledger; then `handle_written`.
    RecordLosses(Vec<Loss>, RecordedLosses),
    /// Move these entries to the dead letters; then `handle_buried`.
    DeadLetter(Vec<(Seq, RejectReason)>),
    /// Write down that all up to `acked` is acknowledged, and trim the origin up to `trim`.
    RecordAck {
        /// The cursor that was acknowledged, and the tally there.
        acked: Checkpoint,
        /// The last entry to be taken out of the origin, where trimming is on.
        trim_through: Option<Seq>,
        /// The copy has heard of all losses that stand in this side's ledger.
        clears_recorded_losses: bool,
    },
}

/// How much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadSize {
    /// Entries at the most.
    pub entries: usize,
    /// After so many bytes no more are read, as limits count them.
    pub bytes: usize,
}

/// What a read brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRead {
    /// The entries after the place that was named, in order. Redis keeps none without fields: one that
    /// comes without them is too large to be carried, and was not read.
    pub entries: Vec<Entry>,
    /// How far the stream reached at that moment.
    pub extent: Extent,
    /// Nothing came behind them then.
    pub is_end: bool,
}

/// A task that could not be done, since a key of the origin holds something else.
pub(super) struct BlockedTask {
    pub(super) task: OriginTask,
    /// None: at once.
    pub(super) again_at: Option<Instant>,
    pub(super) is_tried: bool,
}

impl BlockedTask {
    /// The least that shows whether the origin can be read.
    pub(super) fn first(after: Seq, mark: Seq) -> Self {
        let task = OriginTask::Read {
            after,
            batch: ReadSize { entries: 1, bytes: 1 },
            high_water_mark: mark,
        };
        Self { task, again_at: None, is_tried: false }
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<OriginTask> {
        let is_due = !self.is_tried && self.again_at.is_none_or(|at| at <= now);
        self.is_tried |= is_due;
        is_due.then(|| self.task.clone())
    }
}
