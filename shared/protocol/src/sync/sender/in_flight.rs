//! The batches under way, and how many there may be.

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

/// One batch that was handed out and is not acknowledged yet.
pub(super) struct InFlightBatch {
    pub(super) first: Seq,
    pub(super) through: Seq,
    pub(super) tally: Tally,
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) sent_at: Instant,
    pub(super) marks: Vec<TrimPoint>,
    /// The copy hears of losses by it.
    pub(super) tells: bool,
}

/// Those of one connection, in order.
pub(super) struct InFlight {
    flights: VecDeque<InFlightBatch>,
    bytes: usize,
    /// How many bytes there may be: adapted so that what is under way takes the link seconds, not
    /// minutes.
    window: usize,
    /// How much there may be of it on a path that showed to carry less.
    limit: Option<PathLimit>,
    /// When the last flight came home, or the first of them left.
    progress_at: Option<Instant>,
}

impl InFlight {
    pub(super) fn new() -> Self {
        let flights = VecDeque::new();
        Self { flights, bytes: 0, window: WINDOW_BYTES_MIN, limit: None, progress_at: None }
    }

    /// None of them is under way any more.
    pub(super) fn clear(&mut self) {
        (self.bytes, self.progress_at) = (0, None);
        self.flights.clear();
    }

    /// On a path that carries no more than this.
    pub(super) fn set_limit(&mut self, limit: Option<PathLimit>) {
        self.limit = limit;
    }

    /// The limit as it has grown.
    pub(super) fn limit(&self) -> Option<PathLimit> {
        self.limit
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether one of them ends there.
    pub(super) fn end_at(&self, seq: Seq) -> bool {
        self.flights.iter().any(|flight| flight.through == seq)
    }

    /// The first entry under way.
    pub(super) fn first(&self) -> Option<Seq> {
        self.flights.front().map(|flight| flight.first)
    }

    /// How many entries are under way.
    pub(super) fn entries(&self) -> u64 {
        self.flights.iter().map(|flight| flight.entries as u64).sum()
    }

    /// All of them together.
    pub(super) fn unacked(&self) -> Option<UnackedAtEnd> {
        let (front, back) = (self.flights.front()?, self.flights.back()?);
        let entries = self.flights.iter().map(|flight| flight.entries).sum();
        let (first, through) = (front.first, back.through);
        Some(UnackedAtEnd { first, through, entries, bytes: self.bytes })
    }

    /// How many bytes there may be.
    pub(super) fn window(&self) -> usize {
        self.limit.map_or(self.window, |limit| limit.bytes.min(self.window))
    }

    /// How many entries there may be.
    pub(super) fn window_entries(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| limit.entries)
    }

    /// Whether one more of so many entries and bytes may leave.
    pub(super) fn has_room(&self, batches: usize, (entries, bytes): (usize, usize)) -> bool {
        let all = || self.entries() as usize + entries;
        self.is_empty()
            || (self.flights.len() < batches
                && self.bytes + bytes <= self.window()
                && (self.limit.is_none() || all() <= self.window_entries()))
    }

    pub(super) fn push(&mut self, flight: InFlightBatch) {
        self.bytes += flight.bytes;
        self.progress_at.get_or_insert(flight.sent_at);
        self.flights.push_back(flight);
    }

    /// The next one that is acknowledged by a cursor at `acked`.
    pub(super) fn acknowledge(&mut self, acked: Seq, now: Instant) -> Option<InFlightBatch> {
        let flight = self.flights.pop_front_if(|flight| flight.through <= acked)?;
        self.bytes -= flight.bytes;
        self.limit = self.limit.and_then(|limit| limit.grown(flight.entries, flight.bytes));
        self.adapt(now.duration_since(flight.sent_at));
        self.progress_at = (!self.is_empty()).then_some(now);
        Some(flight)
    }

    /// Since when nothing came home, while something is under way.
    pub(super) fn progress_at(&self) -> Option<Instant> {
        self.progress_at
    }

    /// How much longer than usual an answer may take, while something is under way: one entry larger
    /// than what the link has shown it can carry is given time by its size.
    pub(super) fn extra_timeout(&self) -> Option<Duration> {
        let oversize = self.flights.front()?.bytes.saturating_sub(self.window);
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
