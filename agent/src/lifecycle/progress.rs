//! Whether the agent gets anywhere, for the watchdog: pure.
//!
//! Two things are watched. Each stage says by when it will have moved, so a loop that hangs is
//! seen. And sessions that connect and carry nothing are counted: starting over helps against
//! a dead link, but where it does not, only a new process may.

use std::time::{Duration, Instant};

/// Stalled sessions, one after the other, that are taken for a fault of this process.
const STALLS_MAX: u32 = 5;

/// How the agent gets on.
#[derive(Debug)]
pub struct Progress {
    due: Instant,
    stalls: u32,
}

impl Progress {
    /// Begins at `now` with this much time for the first move.
    pub fn new(now: Instant, within: Duration) -> Self {
        Self { due: now + within, stalls: 0 }
    }

    /// It moved, and will again within this time.
    pub fn handle_move(&mut self, now: Instant, within: Duration) {
        self.due = now + within;
    }

    /// A session was given up since nothing was acknowledged.
    pub fn handle_stalled(&mut self) {
        self.stalls += 1;
    }

    /// Something was carried.
    pub fn handle_carried(&mut self) {
        self.stalls = 0;
    }

    /// Whether the watchdog is to be fed.
    pub fn is_healthy(&self, now: Instant) -> bool {
        now <= self.due && self.stalls < STALLS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_does_not_move_in_time_is_not_healthy() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut progress = Progress::new(now, second);
        assert!(progress.is_healthy(now + second));
        assert!(!progress.is_healthy(now + 2 * second));
        progress.handle_move(now + 2 * second, second);
        assert!(progress.is_healthy(now + 3 * second));
    }

    #[test]
    fn one_stalled_session_is_mended_by_the_next_and_many_are_not() {
        let now = Instant::now();
        let mut progress = Progress::new(now, Duration::from_secs(1));
        for _ in 1..STALLS_MAX {
            progress.handle_stalled();
        }
        assert!(progress.is_healthy(now));
        progress.handle_carried();
        for _ in 0..STALLS_MAX {
            progress.handle_stalled();
        }
        assert!(!progress.is_healthy(now));
    }
}
