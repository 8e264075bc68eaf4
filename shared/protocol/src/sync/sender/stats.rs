//! The counters of one sender.

use std::time::Duration;

use super::in_flight::InFlightBatch;
use crate::{message::Push, seq::Seq};

/// A batch that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckedBatch {
    /// Its first entry.
    pub first: Seq,
    /// The time from its sending to its acknowledgement.
    pub round_trip: Duration,
}

/// The counters of one session.
#[derive(Default)]
pub(super) struct SenderStats {
    /// The number of entries ever added to the origin, at the last read.
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

    pub(super) fn handle_acked(&mut self, batch: &InFlightBatch, round_trip: Duration) {
        self.acked_entries += batch.entries as u64;
        self.last_acked = Some(AckedBatch { first: batch.first, round_trip });
    }
}

/// Returns the first entry of a batch, or its end if it has none.
pub(super) fn first_seq(push: &Push) -> Seq {
    push.entries.first().map_or(push.through, |entry| entry.seq)
}
