//! What an origin's side knows about its stream.

use crate::{
    loss::Checkpoint,
    message::OriginState,
    partner::Partner,
    seal::SealKey,
    seq::{Epoch, Seq},
    sync::accounting::{Extent, RecordedLosses},
};

/// What an origin's side remembers, beside the stream and in the same Redis.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OriginMemory {
    /// The life that the stream is in.
    pub epoch: Epoch,
    /// How the last lives began, oldest first; the last is the one of `epoch`.
    pub epochs: Vec<EpochStart>,
    /// The last ID that the stream had given out when it was last looked at before sending, and how
    /// many entries had been added to it.
    pub high_water_mark: HighWaterMark,
    /// Up to where the copy acknowledged, and the tally there.
    pub acked: Checkpoint,
    /// Up to where dead letters were written in this epoch.
    pub dead_lettered: Seq,
    /// Entries up to here were in the stream before this life began, and may have been carried in
    /// an older one.
    pub inherited: Seq,
    /// The losses that stand in this side's ledger already.
    pub recorded_losses: Option<RecordedLosses>,
    /// What cursors of this life are sealed with.
    pub seal_key: Option<SealKey>,
    /// Up to where the stream was given out, as its group has to say too; none before there was one.
    pub last_delivered: Option<Seq>,
    /// Whom all this was agreed with; none where that is not known.
    pub partner: Option<Partner>,
}

/// The end of a stream when it was last read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HighWaterMark {
    /// The last ID that the stream had generated.
    pub seq: Seq,
    /// The number of entries ever added to it.
    pub added: u64,
}

/// How a life of a stream began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// Which one.
    pub epoch: Epoch,
    /// After this entry: all up to it were carried before.
    pub start: Checkpoint,
}

/// Where an out stream stands, as its own side sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OriginStanding {
    /// How far it reaches.
    pub extent: Extent,
    /// What is remembered of it.
    pub memory: OriginMemory,
    /// How many dead letters there ever were.
    pub dead: u64,
    /// How many of its entries were ever found lost here.
    pub lost: u64,
    /// What this process saw of the stream before, whatever has become of the memory since.
    pub last_read: Option<LastRead>,
    /// Its key holds something else now: only what is remembered is known.
    pub is_unreadable: bool,
}

/// How far a stream reached when a process last read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    /// The life it was in.
    pub epoch: Epoch,
    /// The last ID that it had given out, and how many entries had been added to it.
    pub high_water_mark: HighWaterMark,
}

impl OriginStanding {
    /// What the handshake tells the other side.
    pub fn origin_state(&self) -> OriginState {
        let Self { extent, memory, .. } = self;
        let life = memory.epochs.last().filter(|life| life.epoch == memory.epoch);
        OriginState {
            epoch: memory.epoch,
            start: life.map_or(Seq::ZERO, |life| life.start.seq),
            first: extent.first,
            last: extent.last,
            added: extent.added,
            acked: memory.acked.seq,
        }
    }

    /// Whether the stream itself is the one that the memory is of: its group says so, and no later look
    /// found it shorter.
    pub fn is_intact(&self) -> bool {
        let HighWaterMark { seq: mark, added } = self.memory.high_water_mark;
        let Extent { last, added: now, last_delivered: given, .. } = self.extent;
        given == self.memory.last_delivered && last >= mark && now >= added
    }

    /// How far the stream reached in this epoch when it was last read, as far as anyone knows.
    pub(super) fn high_water_mark_in(&self, epoch: Epoch) -> Option<HighWaterMark> {
        if self.memory.epoch == epoch {
            return Some(self.memory.high_water_mark);
        }
        let seen = self.last_read.filter(|_| !self.memory.epoch.is_known());
        seen.filter(|seen| seen.epoch == epoch).map(|seen| seen.high_water_mark)
    }
}
