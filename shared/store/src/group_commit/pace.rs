//! When the next group goes.
//!
//! A call costs Redis and the hub far more than one more batch in it. While few batches come, each goes at once. Above a
//! rate, calls keep a distance, so that each takes all that came meanwhile. The rate, and not the last group, decides:
//! a client that waits for each acknowledgement never sees the distance.

use std::time::{Duration, Instant};

use crate::limits::{COMMIT_DISTANCE, COMMIT_DISTANCE_MAX, COMMIT_DISTANCE_RATE};

/// How long batches are counted before the rate is known.
const WINDOW: Duration = Duration::from_millis(20);

/// The rate of batches, and when the last group went.
pub(super) struct GroupPace {
    window_start: Instant,
    counted: usize,
    /// Zero below the rate.
    distance: Duration,
    last: Instant,
}

impl GroupPace {
    pub(super) fn new(now: Instant) -> Self {
        Self { window_start: now, counted: 0, distance: Duration::ZERO, last: now }
    }

    /// Returns when the next group may go; none for now.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        Some(self.last + self.distance).filter(|next| *next > now)
    }

    /// Takes note of a group of this many batches.
    pub(super) fn handle_group(&mut self, batches: usize, now: Instant) {
        self.last = now;
        self.counted += batches;
        let elapsed = now.duration_since(self.window_start);
        if elapsed >= WINDOW {
            let times = self.counted as f64 / elapsed.as_secs_f64() / COMMIT_DISTANCE_RATE;
            self.distance = match times >= 1.0 {
                true => COMMIT_DISTANCE.mul_f64(times).min(COMMIT_DISTANCE_MAX),
                false => Duration::ZERO,
            };
            (self.window_start, self.counted) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a group of `batches` every `every`, and returns whether the next one has to wait.
    fn waits(pace: &mut GroupPace, now: &mut Instant, batches: usize, every: Duration) -> bool {
        for _ in 0..500 {
            *now += every;
            pace.handle_group(batches, *now);
        }
        pace.next_at(*now).is_some()
    }

    #[test]
    fn calls_keep_a_distance_above_a_rate_and_never_for_one_client_that_waits() {
        let mut now = Instant::now();
        let mut pace = GroupPace::new(now);
        assert_eq!(pace.next_at(now), None, "the first batch goes at once");
        let micros = Duration::from_micros;
        assert!(!waits(&mut pace, &mut now, 1, micros(400)), "2,500 a second");
        assert!(waits(&mut pace, &mut now, 1, micros(100)), "10,000 a second");
        let wait = pace.next_at(now).map(|next| next.duration_since(now).as_micros());
        assert_eq!(wait, Some(500));
        assert_eq!(pace.next_at(now + micros(500)), None);
        assert!(waits(&mut pace, &mut now, 200, micros(1000)), "200,000 a second in groups");
        assert_eq!(pace.next_at(now), Some(now + COMMIT_DISTANCE_MAX));
        now += Duration::from_secs(1);
        pace.handle_group(1, now);
        assert_eq!(pace.next_at(now), None, "after a pause the next batch goes at once");
    }
}
