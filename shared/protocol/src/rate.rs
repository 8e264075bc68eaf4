//! A rate limit with a burst: the generic cell rate algorithm.
//!
//! Its only state is the time at which the whole burst is available again.

use std::time::{Duration, Instant};

/// A rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The number of units that may be taken at once.
    pub burst: u32,
    /// The time after which one more unit is available.
    pub interval: Duration,
}

/// What one client has taken of a [`Rate`].
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    clear_at: Instant,
}

impl Allowance {
    /// Creates an allowance with the whole burst available.
    pub fn new(now: Instant) -> Self {
        Self { clear_at: now }
    }

    /// Takes `units`, even if fewer are available: the next call waits for all of them.
    ///
    /// # Errors
    /// The time to wait, if no unit is available; nothing is taken then.
    pub fn take(&mut self, units: u32, rate: Rate, now: Instant) -> Result<(), Duration> {
        let begun = self.clear_at.max(now);
        let over =
            (begun + rate.interval).duration_since(now).checked_sub(rate.interval * rate.burst);
        match over {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.clear_at = begun + rate.interval * units;
                Ok(())
            }
        }
    }

    /// Returns whether the whole burst is available.
    pub fn is_full(&self, now: Instant) -> bool {
        self.clear_at <= now
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests use the real clock")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RATE: Rate = Rate { burst: 3, interval: SECOND };

    #[test]
    fn a_burst_may_be_taken_at_once_and_then_one_per_interval() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        for _ in 0..3 {
            allowance.take(1, RATE, now).unwrap();
        }
        assert_eq!(allowance.take(1, RATE, now), Err(SECOND));
        assert_eq!(allowance.take(1, RATE, now + SECOND), Ok(()));
        assert_eq!(allowance.take(1, RATE, now + SECOND), Err(SECOND));
        assert!(!allowance.is_full(now + 3 * SECOND) && allowance.is_full(now + 4 * SECOND));
    }

    #[test]
    fn taking_more_than_the_burst_delays_the_next_take() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        allowance.take(10, RATE, now).unwrap();
        assert_eq!(allowance.take(1, RATE, now), Err(8 * SECOND));
        assert_eq!(allowance.take(1, RATE, now + 8 * SECOND), Ok(()));
    }
}
