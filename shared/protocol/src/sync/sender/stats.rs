//! What a sender has done and what it has before it, in numbers.

use std::time::Duration;

use super::in_flight::InFlightBatch;
use crate::{message::Push, seq::Seq};

/// A batch that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckedBatch {
    /// Its first entry.
    pub first: Seq,
    /// From its leaving to its acknowledgement.
    pub round_trip: Duration,
}

/// Of one session.
#[derive(Default)]
pub(super) struct SenderStats {
    /// How many entries were added to the origin by the last read.
    pub(super) added: u64,
    pub(super) lost_entries: u64,
    pub(super) acked_entries: u64,
    pub(super) sent_batches: u64,
    pub(super) sent_bytes: u64,
    pub(super) last_acked: Option<AckedBatch>,
}

impl SenderStats {
    pub(super) fn new(added: u64) -> Self {
        Self { added, ..Self::default() }
    }

    pub(super) fn handle_sent(&mut self, bytes: usize) {
        self.sent_batches += 1;
        self.sent_bytes += bytes as u64;
    }

    pub(super) fn handle_landed(&mut self, flight: &InFlightBatch, round_trip: Duration) {
        self.acked_entries += flight.entries as u64;
        self.last_acked = Some(AckedBatch { first: flight.first, round_trip });
    }
}

/// The first entry of a batch; where all of it are gone, where it ends.
pub(super) fn first_seq(push: &Push) -> Seq {
    push.entries.first().map_or(push.through, |entry| entry.seq)
}
