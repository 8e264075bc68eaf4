//! The batches in flight, and the window that limits them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    path::{PathLimit, UnackedAtEnd},
    trim::TrimPoint,
};
use crate::{
    limits::{
        SLOWEST_LINK, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, WINDOW_GROW_BELOW, WINDOW_SHRINK_ABOVE,
    },
    loss::Tally,
    seq::Seq,
};

/// A batch that was handed out and is not acknowledged yet.
pub(super) struct InFlightBatch {
    pub(super) first: Seq,
    pub(super) through: Seq,
    pub(super) tally: Tally,
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) sent_at: Instant,
    pub(super) trim_points: Vec<TrimPoint>,
    /// Whether it carries losses for the copy's ledger.
    pub(super) has_losses: bool,
}

/// The batches in flight on one connection, in order.
pub(super) struct InFlight {
    batches: VecDeque<InFlightBatch>,
    bytes: usize,
    /// The maximum number of bytes, adapted so that they take the link seconds and not minutes.
    window: usize,
    /// The limit of a path that was found to carry less.
    limit: Option<PathLimit>,
    /// When a batch was last acknowledged, or the first of these was sent.
    progress_at: Option<Instant>,
}

impl InFlight {
    pub(super) fn new() -> Self {
        let batches = VecDeque::new();
        Self { batches, bytes: 0, window: WINDOW_BYTES_MIN, limit: None, progress_at: None }
    }

    /// Forgets all batches.
    pub(super) fn clear(&mut self) {
        (self.bytes, self.progress_at) = (0, None);
        self.batches.clear();
    }

    /// Sets the limit of the path.
    pub(super) fn set_limit(&mut self, limit: Option<PathLimit>) {
        self.limit = limit;
    }

    /// Returns the limit, as it has grown.
    pub(super) fn limit(&self) -> Option<PathLimit> {
        self.limit
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Returns whether one of the batches ends there.
    pub(super) fn ends_at(&self, seq: Seq) -> bool {
        self.batches.iter().any(|batch| batch.through == seq)
    }

    /// Returns the first entry in flight.
    pub(super) fn first(&self) -> Option<Seq> {
        self.batches.front().map(|batch| batch.first)
    }

    /// Returns the number of entries in flight.
    pub(super) fn entries(&self) -> u64 {
        self.batches.iter().map(|batch| batch.entries as u64).sum()
    }

    /// Returns the range and size of everything in flight.
    pub(super) fn unacked(&self) -> Option<UnackedAtEnd> {
        let (front, back) = (self.batches.front()?, self.batches.back()?);
        let entries = self.batches.iter().map(|batch| batch.entries).sum();
        let (first, through) = (front.first, back.through);
        Some(UnackedAtEnd { first, through, entries, bytes: self.bytes })
    }

    /// Returns the maximum number of bytes in flight.
    pub(super) fn window(&self) -> usize {
        self.limit.map_or(self.window, |limit| limit.bytes.min(self.window))
    }

    /// Returns the maximum number of entries in flight.
    pub(super) fn window_entries(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| limit.entries)
    }

    /// Returns whether another batch of this size may be sent.
    pub(super) fn has_room(&self, batches_max: usize, (entries, bytes): (usize, usize)) -> bool {
        let all = || self.entries() as usize + entries;
        self.is_empty()
            || (self.batches.len() < batches_max
                && self.bytes + bytes <= self.window()
                && (self.limit.is_none() || all() <= self.window_entries()))
    }

    pub(super) fn push(&mut self, batch: InFlightBatch) {
        self.bytes += batch.bytes;
        self.progress_at.get_or_insert(batch.sent_at);
        self.batches.push_back(batch);
    }

    /// Removes and returns the next batch that a cursor at `acked` acknowledges.
    pub(super) fn acknowledge(&mut self, acked: Seq, now: Instant) -> Option<InFlightBatch> {
        let batch = self.batches.pop_front_if(|batch| batch.through <= acked)?;
        self.bytes -= batch.bytes;
        self.limit = self.limit.and_then(|limit| limit.grown(batch.entries, batch.bytes));
        self.adapt(now.duration_since(batch.sent_at));
        self.progress_at = (!self.is_empty()).then_some(now);
        Some(batch)
    }

    /// Returns since when nothing was acknowledged, while batches are in flight.
    pub(super) fn progress_at(&self) -> Option<Instant> {
        self.progress_at
    }

    /// Returns how much longer than usual an answer may take, while batches are in flight: an entry larger
    /// than the window is given time by its size.
    pub(super) fn extra_timeout(&self) -> Option<Duration> {
        let oversize = self.batches.front()?.bytes.saturating_sub(self.window);
        Some(Duration::from_secs((oversize / SLOWEST_LINK) as u64))
    }

    fn adapt(&mut self, took: Duration) {
        if took < WINDOW_GROW_BELOW {
            self.window = (self.window * 2).min(WINDOW_BYTES_MAX);
        } else if took > WINDOW_SHRINK_ABOVE {
            self.window = (self.window / 2).max(WINDOW_BYTES_MIN);
        }
    }
}
