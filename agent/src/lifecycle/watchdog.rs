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

    /// The hub acknowledged something. What comes down proves nothing of the way up.
    pub fn handle_acknowledged(&mut self) {
        self.stalls = 0;
    }

    /// Why the watchdog is not to be fed, where it is not.
    pub fn complaint(&self, now: Instant) -> Option<String> {
        if now > self.due {
            return Some("what the agent is at takes longer than it ever should".to_owned());
        }
        (self.stalls >= STALLS_MAX).then(|| {
            format!(
                "{} sessions in a row were given up since nothing was acknowledged",
                self.stalls
            )
        })
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
        assert_eq!(progress.complaint(now + second), None);
        assert!(progress.complaint(now + 2 * second).unwrap().contains("longer"));
        progress.handle_move(now + 2 * second, second);
        assert_eq!(progress.complaint(now + 3 * second), None);
    }

    #[test]
    fn one_stalled_session_is_mended_by_the_next_and_many_are_not() {
        let now = Instant::now();
        let mut progress = Progress::new(now, Duration::from_secs(1));
        for _ in 1..STALLS_MAX {
            progress.handle_stalled();
        }
        assert_eq!(progress.complaint(now), None);
        progress.handle_acknowledged();
        for _ in 0..STALLS_MAX {
            progress.handle_stalled();
        }
        assert!(progress.complaint(now).unwrap().contains("5 sessions"));
    }
}
