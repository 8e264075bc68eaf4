//! What a sender has done and what it has before it, in numbers.

use std::time::Duration;

use super::{Sender, in_flight::InFlightBatch};
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
    pub(super) lost: u64,
    carried: u64,
    sent_batches: u64,
    sent_bytes: u64,
    landed: Option<AckedBatch>,
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
        self.carried += flight.entries as u64;
        self.landed = Some(AckedBatch { first: flight.first, round_trip });
    }
}

impl Sender {
    /// How many entries were acknowledged in this session.
    pub fn acked_entries(&self) -> u64 {
        self.figures.carried
    }

    /// How many entries were found lost in this session.
    pub fn lost_entries(&self) -> u64 {
        self.figures.lost
    }

    /// How many batches were sent in this session, and the bytes of their entries.
    pub fn sent(&self) -> (u64, u64) {
        (self.figures.sent_batches, self.figures.sent_bytes)
    }

    /// The last batch that was acknowledged in this session.
    pub fn last_acked_batch(&self) -> Option<AckedBatch> {
        self.figures.landed
    }

    /// What the origin held by the last read and the copy has not acknowledged: how many entries, and
    /// the first of them. Where an app deleted some it may be too many until the end is reached.
    pub fn backlog(&self) -> (u64, Option<Seq>) {
        let next = self.ready.front().map(first);
        let in_hand = self.flights.first().or(next);
        if in_hand.is_none() && !self.has_news && !self.is_reading {
            return (0, None);
        }
        let entries = match self.acked_tally.is_unknown() {
            true => {
                let ready = self.ready.iter().map(|push| push.entries.len() as u64);
                self.flights.entries() + ready.sum::<u64>()
            }
            false => self.figures.added.saturating_sub(self.acked_tally.added),
        };
        // Between a batch and the read of the next the last one is the best guess.
        let before = self.figures.landed.filter(|_| entries > 0).map(|landed| landed.first);
        (entries, in_hand.or(before))
    }
}

/// The first entry of a batch; where all of it are gone, where it ends.
pub(super) fn first(push: &Push) -> Seq {
    push.entries.first().map_or(push.through, |entry| entry.seq)
}
