//! Decides whether the agent makes progress, for the systemd watchdog and `/healthz`. Pure.
//!
//! Two conditions are watched. Each stage sets a deadline for its next progress, so a loop that
//! hangs is detected. Consecutive sessions in which nothing was acknowledged are counted: a new
//! connection repairs a dead link, and if it does not, a new process may.

use std::time::{Duration, Instant};

/// Consecutive stalled sessions that count as a fault of this process.
const STALLS_MAX: u32 = 5;

/// The deadline of the current stage and the count of stalled sessions.
#[derive(Debug)]
pub(crate) struct Watchdog {
    due: Instant,
    stalls: u32,
}

impl Watchdog {
    /// Starts with a deadline `within` from `now`.
    pub(crate) fn new(now: Instant, within: Duration) -> Self {
        Self { due: now + within, stalls: 0 }
    }

    /// Moves the deadline to `within` from `now`.
    pub(crate) fn handle_progress(&mut self, now: Instant, within: Duration) {
        self.due = now + within;
    }

    /// Counts a session that was closed because nothing was acknowledged.
    pub(crate) fn handle_stalled(&mut self) {
        self.stalls += 1;
    }

    /// Resets the count. Only acknowledgements of the hub count: entries received prove nothing
    /// about the way up.
    pub(crate) fn handle_acknowledged(&mut self) {
        self.stalls = 0;
    }

    /// Returns why a restart may help, if it may: there is no progress.
    pub(crate) fn problem(&self, now: Instant) -> Option<String> {
        if now > self.due {
            return Some("the current step exceeded its time limit".to_owned());
        }
        (self.stalls >= STALLS_MAX).then(|| {
            format!(
                "{} sessions in a row were closed because nothing was acknowledged",
                self.stalls
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_without_progress_past_its_time_limit_is_unhealthy() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut watchdog = Watchdog::new(now, second);
        assert_eq!(watchdog.problem(now + second), None);
        assert!(watchdog.problem(now + 2 * second).unwrap().contains("time limit"));
        watchdog.handle_progress(now + 2 * second, second);
        assert_eq!(watchdog.problem(now + 3 * second), None);
    }

    #[test]
    fn a_few_stalled_sessions_are_healthy_and_many_in_a_row_are_not() {
        let now = Instant::now();
        let mut watchdog = Watchdog::new(now, Duration::from_secs(1));
        for _ in 1..STALLS_MAX {
            watchdog.handle_stalled();
        }
        assert_eq!(watchdog.problem(now), None);
        watchdog.handle_acknowledged();
        for _ in 0..STALLS_MAX {
            watchdog.handle_stalled();
        }
        assert!(watchdog.problem(now).unwrap().contains("5 sessions"));
    }
}
