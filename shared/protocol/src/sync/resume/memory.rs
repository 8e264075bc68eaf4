//! The sender's state: what is kept about an origin stream, in its state hash and by its process.

use super::{Position, ResumeFinding};
use crate::{
    limits::EPOCHS_REMEMBERED_MAX,
    loss::Checkpoint,
    message::OriginState,
    partner::Partner,
    seal::SealKey,
    seq::{Epoch, Seq},
    sync::loss_accounting::{Extent, RecordedLosses},
};

/// The sender's state, kept in the Redis of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OriginMemory {
    /// The current epoch of the stream.
    pub epoch: Epoch,
    /// The starts of the last epochs, oldest first; the last is that of `epoch`.
    pub epochs: Vec<EpochStart>,
    /// The end of the stream when it was last read for sending.
    pub high_water_mark: HighWaterMark,
    /// The last acknowledgement of the copy.
    pub acked: Checkpoint,
    /// The last dead letter that was written in this epoch.
    pub dead_lettered: Seq,
    /// The last entry that was in the stream before this epoch began, and may have been carried in an
    /// older one.
    pub inherited: Seq,
    /// Losses in this side's ledger that the copy has not acknowledged.
    pub recorded_losses: Option<RecordedLosses>,
    /// The key that seals the cursors of this epoch.
    pub seal_key: Option<SealKey>,
    /// The position of the consumer group when it was last moved; none before the group existed. The
    /// group itself must stand there.
    pub last_delivered: Option<Seq>,
    /// The peer that all this was agreed with, if it is known.
    pub partner: Option<Partner>,
}

impl OriginMemory {
    /// Returns the state once the epoch of `position` begins in a stream of this extent. Only the starts of
    /// older epochs are kept. `key` is a new one.
    #[must_use]
    pub fn begin_epoch(&self, position: &Position, extent: &Extent, key: SealKey) -> Self {
        let &Position { epoch, after, tally, inherited, .. } = position;
        // The start of an epoch that is only adopted from the copy is not known.
        let is_replaced = matches!(
            position.finding,
            ResumeFinding::OriginReplaced
                | ResumeFinding::ForeignCursor
                | ResumeFinding::NewPartner
        );
        let acked = Checkpoint::new(after, tally);
        let start = if is_replaced { acked } else { Checkpoint::START };
        let mut epochs = self.epochs.clone();
        epochs.push(EpochStart { epoch, start });
        epochs.drain(..epochs.len().saturating_sub(EPOCHS_REMEMBERED_MAX));
        let has_group = extent.last_delivered.is_some() || !extent.last.is_zero();
        Self {
            epoch,
            epochs,
            high_water_mark: HighWaterMark { seq: extent.last, added: extent.added },
            acked,
            dead_lettered: Seq::ZERO,
            inherited,
            recorded_losses: None,
            seal_key: Some(key),
            last_delivered: has_group.then_some(after),
            partner: self.partner.clone(),
        }
    }
}

/// The end of a stream when it was last read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HighWaterMark {
    /// The last ID that the stream had generated.
    pub seq: Seq,
    /// The number of entries ever added to it.
    pub added: u64,
}

/// The start of an epoch of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The epoch begins after this entry. Everything up to it was carried before.
    pub start: Checkpoint,
}

/// The state of an out stream, as its own side knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OriginStanding {
    /// The extent of the stream.
    pub extent: Extent,
    /// The sender's state.
    pub memory: OriginMemory,
    /// The number of dead letters ever written.
    pub dead: u64,
    /// The number of entries ever found lost here.
    pub lost: u64,
    /// The last read of this process, whatever has happened to the sender's state since.
    pub last_read: Option<LastRead>,
    /// Whether its key has the wrong type now, so that only the sender's state is known.
    pub is_unreadable: bool,
}

/// The last read of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    /// The epoch that the stream was in.
    pub epoch: Epoch,
    /// The end of the stream.
    pub high_water_mark: HighWaterMark,
}

impl OriginStanding {
    /// Returns what the handshake tells the peer.
    pub fn origin_state(&self) -> OriginState {
        let Self { extent, memory, .. } = self;
        let current = memory.epochs.last().filter(|start| start.epoch == memory.epoch);
        OriginState {
            epoch: memory.epoch,
            start: current.map_or(Seq::ZERO, |epoch| epoch.start.seq),
            first: extent.first,
            last: extent.last,
            added: extent.added,
            acked: memory.acked.seq,
        }
    }

    /// Returns whether the stream is still the one that the sender's state is about: the consumer group stands
    /// where it was left, and the stream is not shorter.
    pub fn is_intact(&self) -> bool {
        let HighWaterMark { seq, added } = self.memory.high_water_mark;
        let Extent { last, added: added_now, last_delivered, .. } = self.extent;
        last_delivered == self.memory.last_delivered && last >= seq && added_now >= added
    }

    /// Returns the end of the stream when it was last read in this epoch, if it is known.
    pub(super) fn high_water_mark_in(&self, epoch: Epoch) -> Option<HighWaterMark> {
        if self.memory.epoch == epoch {
            return Some(self.memory.high_water_mark);
        }
        let last_read = self.last_read.filter(|_| !self.memory.epoch.is_known());
        last_read.filter(|read| read.epoch == epoch).map(|read| read.high_water_mark)
    }
}
