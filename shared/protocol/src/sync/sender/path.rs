//! What the sessions before showed of the path to the copy: how much of the origin gets through at a time.
//!
//! A mobile gateway or a proxy may break each connection after so many bytes, or refuse messages above a
//! size. A session that begins like the one before then breaks like it, for ever. So the origin's side
//! keeps a `Path` over its sessions. A session is fruitless if it broke with entries under way and the
//! copy's cursor had not moved when the next one began; an acknowledgement that got lost is progress. Each
//! fruitless session leaves a quarter of what was under way for the next, down to one entry, and each
//! acknowledgement adds as much again. A session that carried something and broke only halves what had
//! grown back. Both directions share a WebSocket, which may hold one entry and not two: once an entry that
//! went alone has broken two, every other session gives the other direction a moment for itself. A path that has shown no weakness is `LinkPath::default()` and limits nothing.
//!
//! Order of calls: `handle_begin` where a handshake placed the sender, `limit` for it, `handle_acked`
//! while the session lives, and `handle_end` once it is over. Rejected: searching for the size that just
//! passes, since what breaks links is seldom that exact, and both directions share one connection.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{
    limits::{FIELD_BYTES_MIN, SINGLE_ENTRY_DELAY, STUCK_SESSIONS, WINDOW_BYTES_MIN},
    seq::{Epoch, Seq},
};

/// How much of what was under way the session after a fruitless one has.
const SHRINK: usize = 4;
/// In how many sessions an entry went alone until the other direction is given its turn: one may be bad luck.
const HOLD_SESSIONS: u32 = 2;

/// What may be under way at a time; one entry always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathLimit {
    /// Entries.
    pub entries: usize,
    /// Bytes of their names and values.
    pub bytes: usize,
}

/// What was under way when a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnackedAtEnd {
    /// The first entry.
    pub first: Seq,
    /// Where the last batch ends.
    pub through: Seq,
    /// How many entries.
    pub entries: usize,
    /// Bytes of their names and values.
    pub bytes: usize,
}

/// A session that is over, as its origin's end saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSummary {
    /// Where it began.
    pub start: (Epoch, Seq),
    /// Up to where the copy acknowledged.
    pub acked: Seq,
    /// The limit, as it had grown by then.
    pub limit: Option<PathLimit>,
    /// What was not acknowledged.
    pub unacked: Option<UnackedAtEnd>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnding {
    /// The link broke, fell silent or acknowledged nothing.
    Broken,
    /// One side said so, or its Redis failed: that says nothing of the path.
    Closed,
}

/// What a handshake showed of the session before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFinding {
    /// Nothing of it was under way.
    Untested,
    /// The copy's cursor moved.
    Progress,
    /// It did not.
    NoProgress,
}

/// An entry that did not pass although it went alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StuckEntry {
    /// Its ID in the origin.
    pub seq: Seq,
    /// Bytes of its names and values.
    pub bytes: usize,
    /// In how many sessions in a row it went alone.
    pub sessions: u32,
}

/// What is known of one path. Small: a hub keeps one for each client whose path limits something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkPath {
    limit: Option<PathLimit>,
    /// Where a session began that broke, and what was under way: the next handshake tells whether it
    /// arrived.
    last_attempt: Option<((Epoch, Seq), UnackedAtEnd)>,
    /// The entry that went alone in the last fruitless sessions.
    single: Option<StuckEntry>,
}

impl PathLimit {
    /// No limit once it is what every session begins with.
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
    /// Whether the copy acknowledged anything.
    pub fn has_progress(&self) -> bool {
        self.acked > self.start.1
    }
}

impl LinkPath {
    /// A session begins where the copy's cursor stands.
    pub fn handle_start(&mut self, at: (Epoch, Seq)) -> PathFinding {
        let Some((begun, under_way)) = self.last_attempt.take() else {
            return PathFinding::Untested;
        };
        if at == begun {
            self.handle_no_progress(&under_way);
            return PathFinding::NoProgress;
        }
        if at.0 == begun.0 && at.1 >= under_way.through {
            let UnackedAtEnd { entries, bytes, .. } = under_way;
            self.limit = self.limit.and_then(|limit| limit.grown(entries, bytes));
        }
        self.single = None;
        PathFinding::Progress
    }

    /// The copy acknowledged up to there.
    pub fn handle_acked(&mut self, acked: Seq) {
        self.single = self.single.filter(|alone| alone.seq > acked);
    }

    /// A session is over.
    pub fn handle_end(&mut self, trip: &SessionSummary, parting: SessionEnding) {
        if trip.has_progress() {
            (self.limit, self.last_attempt, self.single) = (trip.limit, None, None);
            if parting == SessionEnding::Broken && trip.unacked.is_some() {
                self.limit = self.limit.map(|limit| limit.divided(2));
            }
        } else if parting == SessionEnding::Broken {
            self.last_attempt = trip.unacked.map(|under_way| (trip.start, under_way));
        }
    }

    /// What the next session may have under way; none where there is no bound but the usual ones.
    pub fn limit(&self) -> Option<PathLimit> {
        self.limit
    }

    /// The entry that does not pass, once that is sure.
    pub fn stuck(&self) -> Option<StuckEntry> {
        self.single.filter(|alone| alone.sessions >= STUCK_SESSIONS)
    }

    /// Until when a session that begins now is left to the other direction. `random` out of 0..1: both
    /// sides draw for themselves, and half of the time one of them waits and the other does not.
    pub fn delay_until(&self, now: Instant, random: f64) -> Option<Instant> {
        let alone = self.single.filter(|alone| alone.sessions >= HOLD_SESSIONS);
        (alone.is_some() && random < 0.5).then(|| now + SINGLE_ENTRY_DELAY)
    }

    /// Whether there is nothing to remember.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn handle_no_progress(&mut self, under_way: &UnackedAtEnd) {
        self.limit = Some(under_way.within(self.limit).divided(SHRINK));
        let before = self.single.filter(|alone| alone.seq == under_way.first);
        let sessions = before.map_or(0, |alone| alone.sessions).saturating_add(1);
        let UnackedAtEnd { first: seq, bytes, .. } = *under_way;
        self.single = (under_way.entries == 1).then_some(StuckEntry { seq, bytes, sessions });
    }
}

/// Entries of no bytes cost something all the same.
fn weight(entries: usize, bytes: usize) -> usize {
    bytes.max(entries.saturating_mul(FIELD_BYTES_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch::FIRST;

    fn seq(n: usize) -> Seq {
        Seq::new(n as u64, 0)
    }

    /// A path of entries of this size that breaks each session after so many bytes: how many sessions
    /// broke until all were acknowledged, or none.
    fn sessions(entries: usize, size: usize, breaks_after: usize) -> Option<usize> {
        let (mut path, mut cursor) = (LinkPath::default(), 0);
        for session in 0..1000 {
            path.handle_start((EPOCH, seq(cursor)));
            let (begun, mut limit, mut left) = (cursor, path.limit(), breaks_after);
            let under_way = loop {
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
            let trip = SessionSummary {
                start: begun,
                acked: seq(cursor),
                limit,
                unacked: Some(under_way),
            };
            path.handle_end(&trip, SessionEnding::Broken);
        }
        None
    }

    #[test]
    fn progress_is_certain_where_one_entry_fits_through() {
        for (entries, size, breaks_after, most) in [
            (200, 4096, 40_000, 80),
            (200, 4096, 4096, 210),
            (30, 1024, 6000, 20),
            (1000, 10, 64, 600),
            (200, 4096, 300_000, 20),
            (10, 60_000, 65_000, 20),
            (200, 4096, usize::MAX, 0),
        ] {
            let broken = sessions(entries, size, breaks_after).unwrap();
            assert!(broken <= most, "{entries} of {size} after {breaks_after}: {broken} sessions");
        }
        assert_eq!(sessions(3, 4096, 4095), None);
    }

    fn trip(
        begun: usize,
        acked: usize,
        entries: usize,
        limit: Option<PathLimit>,
    ) -> SessionSummary {
        let (first, through) = (seq(acked + 1), seq(acked + entries));
        let under_way = UnackedAtEnd { first, through, entries, bytes: entries * 1000 };
        let under_way = Some(under_way).filter(|_| entries > 0);
        SessionSummary { start: (EPOCH, seq(begun)), acked: seq(acked), limit, unacked: under_way }
    }

    #[test]
    fn an_acknowledgement_that_is_lost_is_progress() {
        let mut path = LinkPath::default();
        for n in 0..10 {
            let found = path.handle_start((EPOCH, seq(10 * n)));
            assert_eq!(found, if n == 0 { PathFinding::Untested } else { PathFinding::Progress });
            assert_eq!((path.limit(), path.stuck()), (None, None));
            path.handle_end(&trip(10 * n, 10 * n, 10, None), SessionEnding::Broken);
        }
        path.handle_start((EPOCH, seq(100)));
        assert!(path.is_default());
    }

    #[test]
    fn what_is_no_fault_of_the_path_shrinks_nothing() {
        let mut path = LinkPath::default();
        for trip in [trip(0, 0, 10, None), trip(0, 5, 10, None)] {
            path.handle_end(&trip, SessionEnding::Closed);
            assert_eq!(path.handle_start((EPOCH, trip.acked)), PathFinding::Untested);
        }
        // Nothing was under way; and one that carried something.
        for trip in [trip(0, 0, 0, None), trip(0, 50, 10, None)] {
            path.handle_end(&trip, SessionEnding::Broken);
            assert_eq!(path.handle_start((EPOCH, trip.acked)), PathFinding::Untested);
        }
        assert!(path.is_default());
    }

    #[test]
    fn a_session_that_carries_grows_the_limit_back_until_there_is_none() {
        let mut path = LinkPath::default();
        path.handle_end(&trip(0, 0, 16, None), SessionEnding::Broken);
        assert_eq!(path.handle_start((EPOCH, seq(0))), PathFinding::NoProgress);
        let mut limit = path.limit();
        assert_eq!(limit, Some(PathLimit { entries: 4, bytes: 4000 }));
        let mut windows = 0;
        while let Some(PathLimit { entries, bytes }) = limit {
            limit = limit.and_then(|limit| limit.grown(entries, bytes));
            windows += 1;
        }
        assert_eq!(windows, 5, "it doubles");
        path.handle_end(&trip(0, 100, 0, limit), SessionEnding::Closed);
        assert!(path.is_default());
    }

    #[test]
    fn an_entry_that_fails_alone_again_and_again_is_stuck_until_it_has_passed() {
        let mut path = LinkPath::default();
        let fail = |path: &mut LinkPath| {
            path.handle_end(&trip(0, 0, 1, path.limit()), SessionEnding::Broken);
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
