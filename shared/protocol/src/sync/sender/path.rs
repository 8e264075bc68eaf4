//! Limits what is in flight to what the path to the copy carries, as earlier sessions showed it.
//!
//! A mobile gateway or a proxy may break each connection after a number of bytes, or refuse messages above a
//! size. A session that begins like the one before then breaks like it, for ever. So the origin's side keeps
//! a [`LinkPath`] over its sessions.
//!
//! A session made no progress if it broke with entries in flight and the copy's cursor had not moved when
//! the next one began; an acknowledgement that got lost is progress. Each session without progress leaves a
//! quarter of its entries in flight to the next, down to one entry, and each acknowledgement adds as much
//! again. A session that carried something and broke only halves the limit.
//!
//! Both directions share a WebSocket, which may carry one entry and not two. Once a single entry has broken
//! two sessions, every other session gives the other direction a moment for itself.
//!
//! Rejected: searching for the size that just passes, since what breaks links is seldom that exact, and both
//! directions share one connection.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{
    limits::{FIELD_BYTES_MIN, SINGLE_ENTRY_DELAY, STUCK_SESSIONS, WINDOW_BYTES_MIN},
    seq::{Epoch, Seq},
};

/// The divisor of the limit after a session without progress.
const SHRINK: usize = 4;
/// The number of sessions that a single entry breaks before the other direction is given its turn: one may be
/// bad luck.
const DELAY_SESSIONS: u32 = 2;

/// The maximum in flight. One entry always may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathLimit {
    /// Entries.
    pub entries: usize,
    /// Bytes of their names and values.
    pub bytes: usize,
}

/// What was in flight when a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnackedAtEnd {
    /// The first entry.
    pub first: Seq,
    /// The end of the last batch.
    pub through: Seq,
    /// The number of entries.
    pub entries: usize,
    /// Bytes of their names and values.
    pub bytes: usize,
}

/// A session that has ended, as its origin's end saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSummary {
    /// The epoch and the seq after which it began.
    pub start: (Epoch, Seq),
    /// The last acknowledged seq.
    pub acked: Seq,
    /// The limit, as it had grown.
    pub limit: Option<PathLimit>,
    /// What was in flight.
    pub unacked: Option<UnackedAtEnd>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnding {
    /// The link broke, timed out or acknowledged nothing.
    Broken,
    /// One side closed it, or its Redis failed. That says nothing about the path.
    Closed,
}

/// What a handshake showed about the session before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFinding {
    /// Nothing was in flight when it ended.
    Untested,
    /// The copy's cursor has moved since.
    Progress,
    /// The copy's cursor has not moved since.
    NoProgress,
}

/// An entry that does not pass although it is alone in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StuckEntry {
    /// Its ID in the origin.
    pub seq: Seq,
    /// Bytes of its names and values.
    pub bytes: usize,
    /// The number of sessions in a row in which it was alone in flight.
    pub sessions: u32,
}

/// The limit of one path, as its sessions showed it. A path without a weakness is [`Self::default`] and limits
/// nothing. A hub keeps one for each client whose path limits something.
///
/// Call [`Self::handle_start`] where a handshake placed the sender, [`Self::handle_acked`] for each
/// acknowledgement, and [`Self::handle_end`] after the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkPath {
    limit: Option<PathLimit>,
    /// The start of a session that broke, and what was in flight. The next handshake shows whether it arrived.
    last_attempt: Option<((Epoch, Seq), UnackedAtEnd)>,
    /// The entry that was alone in flight in the last sessions, which made no progress.
    single: Option<StuckEntry>,
}

impl PathLimit {
    /// Returns the limit after an acknowledgement; none once it is what every session begins with.
    pub(super) fn grown(self, entries: usize, bytes: usize) -> Option<Self> {
        let bytes = self.bytes.saturating_add(weight(entries, bytes));
        let grown = Self { entries: self.entries.saturating_add(entries), bytes };
        (bytes < WINDOW_BYTES_MIN).then_some(grown)
    }

    fn divided(self, by: usize) -> Self {
        Self { entries: (self.entries / by).max(1), bytes: (self.bytes / by).max(1) }
    }
}

impl UnackedAtEnd {
    fn within(&self, limit: Option<PathLimit>) -> PathLimit {
        let own = PathLimit { entries: self.entries, bytes: weight(self.entries, self.bytes) };
        let limit = limit.unwrap_or(own);
        PathLimit { entries: own.entries.min(limit.entries), bytes: own.bytes.min(limit.bytes) }
    }
}

impl SessionSummary {
    /// Returns whether the copy acknowledged anything.
    pub fn has_progress(&self) -> bool {
        self.acked > self.start.1
    }
}

impl LinkPath {
    /// Takes the start of a session: the copy's cursor.
    pub fn handle_start(&mut self, at: (Epoch, Seq)) -> PathFinding {
        let Some((start, unacked)) = self.last_attempt.take() else {
            return PathFinding::Untested;
        };
        if at == start {
            self.handle_no_progress(&unacked);
            return PathFinding::NoProgress;
        }
        if at.0 == start.0 && at.1 >= unacked.through {
            let UnackedAtEnd { entries, bytes, .. } = unacked;
            self.limit = self.limit.and_then(|limit| limit.grown(entries, bytes));
        }
        self.single = None;
        PathFinding::Progress
    }

    /// Takes an acknowledgement.
    pub fn handle_acked(&mut self, acked: Seq) {
        self.single = self.single.filter(|entry| entry.seq > acked);
    }

    /// Takes the end of a session.
    pub fn handle_end(&mut self, summary: &SessionSummary, ending: SessionEnding) {
        if summary.has_progress() {
            (self.limit, self.last_attempt, self.single) = (summary.limit, None, None);
            if ending == SessionEnding::Broken && summary.unacked.is_some() {
                self.limit = self.limit.map(|limit| limit.divided(2));
            }
        } else if ending == SessionEnding::Broken {
            self.last_attempt = summary.unacked.map(|unacked| (summary.start, unacked));
        }
    }

    /// Returns the limit for the next session; none if only the usual ones apply.
    pub fn limit(&self) -> Option<PathLimit> {
        self.limit
    }

    /// Returns the entry that does not pass, once that is certain.
    pub fn stuck(&self) -> Option<StuckEntry> {
        self.single.filter(|entry| entry.sessions >= STUCK_SESSIONS)
    }

    /// Returns until when a session that begins now is left to the other direction. `random` is in 0..1: each
    /// side draws its own, and half of the time one of them waits and the other does not.
    pub fn delay_until(&self, now: Instant, random: f64) -> Option<Instant> {
        let stuck = self.single.filter(|entry| entry.sessions >= DELAY_SESSIONS);
        (stuck.is_some() && random < 0.5).then(|| now + SINGLE_ENTRY_DELAY)
    }

    /// Returns whether there is nothing to remember.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn handle_no_progress(&mut self, unacked: &UnackedAtEnd) {
        self.limit = Some(unacked.within(self.limit).divided(SHRINK));
        let before = self.single.filter(|entry| entry.seq == unacked.first);
        let sessions = before.map_or(0, |entry| entry.sessions).saturating_add(1);
        let UnackedAtEnd { first: seq, bytes, .. } = *unacked;
        self.single = (unacked.entries == 1).then_some(StuckEntry { seq, bytes, sessions });
    }
}

/// Returns the charged bytes: empty entries are charged, too.
fn weight(entries: usize, bytes: usize) -> usize {
    bytes.max(entries.saturating_mul(FIELD_BYTES_MIN))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests use the real clock")]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch::FIRST;

    fn seq(n: usize) -> Seq {
        Seq::new(n as u64, 0)
    }

    /// Sends entries of `size` bytes over a path that breaks each session after `breaks_after` bytes. Returns how
    /// many sessions broke until all entries were acknowledged, or `None` if they never are.
    fn broken_sessions(entries: usize, size: usize, breaks_after: usize) -> Option<usize> {
        let (mut path, mut cursor) = (LinkPath::default(), 0);
        for session in 0..1000 {
            path.handle_start((EPOCH, seq(cursor)));
            let (begun, mut limit, mut left) = (cursor, path.limit(), breaks_after);
            let unacked = loop {
                if cursor == entries {
                    return Some(session);
                }
                let bound = limit.unwrap_or(PathLimit { entries: 1000, bytes: WINDOW_BYTES_MIN });
                let most = (bound.bytes / size).min(bound.entries).clamp(1, entries - cursor);
                let (first, through) = (seq(cursor + 1), seq(cursor + most));
                if most * size > left {
                    break UnackedAtEnd { first, through, entries: most, bytes: most * size };
                }
                (cursor, left) = (cursor + most, left - most * size);
                limit = limit.and_then(|limit| limit.grown(most, most * size));
            };
            let begun = (EPOCH, seq(begun));
            let summary =
                SessionSummary { start: begun, acked: seq(cursor), limit, unacked: Some(unacked) };
            path.handle_end(&summary, SessionEnding::Broken);
        }
        None
    }

    #[test]
    fn progress_is_guaranteed_if_a_single_entry_gets_through() {
        for (entries, size, breaks_after, most) in [
            (200, 4096, 40_000, 80),
            (200, 4096, 4096, 210),
            (30, 1024, 6000, 20),
            (1000, 10, 64, 600),
            (200, 4096, 300_000, 20),
            (10, 60_000, 65_000, 20),
            (200, 4096, usize::MAX, 0),
        ] {
            let broken = broken_sessions(entries, size, breaks_after).unwrap();
            assert!(broken <= most, "{entries} of {size} after {breaks_after}: {broken} sessions");
        }
        assert_eq!(broken_sessions(3, 4096, 4095), None);
    }

    fn summary(
        begun: usize,
        acked: usize,
        entries: usize,
        limit: Option<PathLimit>,
    ) -> SessionSummary {
        let (first, through) = (seq(acked + 1), seq(acked + entries));
        let unacked = UnackedAtEnd { first, through, entries, bytes: entries * 1000 };
        let unacked = Some(unacked).filter(|_| entries > 0);
        SessionSummary { start: (EPOCH, seq(begun)), acked: seq(acked), limit, unacked }
    }

    #[test]
    fn a_lost_acknowledgement_counts_as_progress() {
        let mut path = LinkPath::default();
        for n in 0..10 {
            let found = path.handle_start((EPOCH, seq(10 * n)));
            assert_eq!(found, if n == 0 { PathFinding::Untested } else { PathFinding::Progress });
            assert_eq!((path.limit(), path.stuck()), (None, None));
            path.handle_end(&summary(10 * n, 10 * n, 10, None), SessionEnding::Broken);
        }
        path.handle_start((EPOCH, seq(100)));
        assert!(path.is_default());
    }

    #[test]
    fn an_end_that_is_not_the_fault_of_the_path_does_not_set_a_limit() {
        let mut path = LinkPath::default();
        for summary in [summary(0, 0, 10, None), summary(0, 5, 10, None)] {
            path.handle_end(&summary, SessionEnding::Closed);
            assert_eq!(path.handle_start((EPOCH, summary.acked)), PathFinding::Untested);
        }
        // A session with nothing in flight, and one that made progress.
        for summary in [summary(0, 0, 0, None), summary(0, 50, 10, None)] {
            path.handle_end(&summary, SessionEnding::Broken);
            assert_eq!(path.handle_start((EPOCH, summary.acked)), PathFinding::Untested);
        }
        assert!(path.is_default());
    }

    #[test]
    fn a_successful_session_raises_the_limit_until_it_is_removed() {
        let mut path = LinkPath::default();
        path.handle_end(&summary(0, 0, 16, None), SessionEnding::Broken);
        assert_eq!(path.handle_start((EPOCH, seq(0))), PathFinding::NoProgress);
        let mut limit = path.limit();
        assert_eq!(limit, Some(PathLimit { entries: 4, bytes: 4000 }));
        let mut windows = 0;
        while let Some(PathLimit { entries, bytes }) = limit {
            limit = limit.and_then(|limit| limit.grown(entries, bytes));
            windows += 1;
        }
        assert_eq!(windows, 5, "the limit doubles");
        path.handle_end(&summary(0, 100, 0, limit), SessionEnding::Closed);
        assert!(path.is_default());
    }

    #[test]
    fn an_entry_that_fails_alone_repeatedly_is_stuck_until_acknowledged() {
        let mut path = LinkPath::default();
        let fail = |path: &mut LinkPath| {
            path.handle_end(&summary(0, 0, 1, path.limit()), SessionEnding::Broken);
            path.handle_start((EPOCH, seq(0)));
        };
        for _ in 1..STUCK_SESSIONS {
            fail(&mut path);
            assert_eq!(path.stuck(), None);
        }
        fail(&mut path);
        let stuck = StuckEntry { seq: seq(1), bytes: 1000, sessions: STUCK_SESSIONS };
        assert_eq!(path.stuck(), Some(stuck));
        let now = Instant::now();
        assert_eq!(
            (path.delay_until(now, 0.4), path.delay_until(now, 0.6)),
            (Some(now + SINGLE_ENTRY_DELAY), None)
        );
        path.handle_acked(seq(0));
        assert_eq!(path.stuck(), Some(stuck));
        path.handle_acked(seq(1));
        assert_eq!((path.stuck(), path.delay_until(now, 0.0)), (None, None));
    }
}
