//! [`RateMeter`]: the used units or failures of one key.
//!
//! The generic cell rate algorithm (ITU-T I.371): its state is a single instant, at which all used units are refilled.
//! A meter past that instant equals a new one, so it can be dropped.

use std::time::{Duration, Instant};

/// A rate: used units are refilled one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct RefillRate {
    /// Until one unit is refilled.
    pub(super) unit: Duration,
    /// Units that may be used at once.
    pub(super) burst: u32,
}

/// Failures beyond the free ones add a wait, each twice as long as the one before.
#[derive(Debug, Clone, Copy)]
pub(super) struct FailurePenalty {
    /// Until one failure is forgiven.
    pub(super) forgiven_after: Duration,
    /// Failures without a wait.
    pub(super) free: u32,
    /// The longest wait; the first is [`FIRST_WAIT`].
    pub(super) longest: Duration,
}

/// The wait after the first failure that is not free.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Failures beyond the free ones that are counted; the longest wait is reached long before.
const COUNTED_MAX: u32 = 20;

/// The state of one key.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateMeter {
    /// When all used units are refilled, or all failures forgiven.
    pub(super) clear_at: Instant,
    blocked_until: Instant,
}

impl RateMeter {
    pub(super) fn new(now: Instant) -> Self {
        Self { clear_at: now, blocked_until: now }
    }

    /// Returns the time until `units` may be used; zero for now.
    pub(super) fn rate_wait(&self, rate: RefillRate, units: u32, now: Instant) -> Duration {
        let used = self.clear_at.saturating_duration_since(now);
        (used + rate.unit * units).saturating_sub(rate.unit * rate.burst)
    }

    /// Returns the time to wait for failures; zero for none.
    pub(super) fn failure_wait(&self, now: Instant) -> Duration {
        self.blocked_until.saturating_duration_since(now)
    }

    /// Uses `units`.
    pub(super) fn charge(&mut self, rate: RefillRate, units: u32, now: Instant) {
        self.clear_at = self.clear_at.max(now) + rate.unit * units;
    }

    /// Counts a failure.
    pub(super) fn fail(&mut self, penalty: FailurePenalty, now: Instant) {
        let max = penalty.forgiven_after * (penalty.free + COUNTED_MAX);
        self.clear_at = (self.clear_at.max(now) + penalty.forgiven_after).min(now + max);
        if let Some(beyond) = self.failures(penalty, now).checked_sub(penalty.free + 1) {
            let wait = FIRST_WAIT.saturating_mul(1 << beyond.min(COUNTED_MAX)).min(penalty.longest);
            self.blocked_until = self.blocked_until.max(now + wait);
        }
    }

    /// Forgives one failure, and ends the wait if only free ones are left.
    pub(super) fn forgive(&mut self, penalty: FailurePenalty, now: Instant) {
        let earlier = self.clear_at.checked_sub(penalty.forgiven_after);
        self.clear_at = earlier.unwrap_or(now).max(now);
        if self.failures(penalty, now) <= penalty.free {
            self.blocked_until = now;
        }
    }

    /// Returns the failures that are not forgiven yet.
    pub(super) fn failures(&self, penalty: FailurePenalty, now: Instant) -> u32 {
        let left = self.clear_at.saturating_duration_since(now).as_nanos();
        let failures = left.div_ceil(penalty.forgiven_after.as_nanos().max(1));
        u32::try_from(failures).unwrap_or(u32::MAX)
    }

    /// Returns whether the meter equals a new one.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.clear_at <= now && self.blocked_until <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: RefillRate = RefillRate { unit: Duration::from_secs(6), burst: 5 };
    const PENALTY: FailurePenalty = FailurePenalty {
        forgiven_after: Duration::from_secs(600),
        free: 3,
        longest: Duration::from_secs(50),
    };

    #[test]
    fn a_burst_is_admitted_and_then_one_per_unit() {
        let start = Instant::now();
        let mut meter = RateMeter::new(start);
        for _ in 0..RATE.burst {
            assert_eq!(meter.rate_wait(RATE, 1, start), Duration::ZERO);
            meter.charge(RATE, 1, start);
        }
        assert_eq!(meter.rate_wait(RATE, 1, start), RATE.unit);
        let later = start + RATE.unit;
        assert_eq!(meter.rate_wait(RATE, 1, later), Duration::ZERO);
        assert_eq!(meter.rate_wait(RATE, 2, later), RATE.unit);
    }

    #[test]
    fn waits_double_after_the_free_failures_up_to_the_maximum() {
        let mut now = Instant::now();
        let mut meter = RateMeter::new(now);
        let waits: Vec<_> = (0..11)
            .map(|_| {
                meter.fail(PENALTY, now);
                let wait = meter.failure_wait(now);
                now += wait;
                wait.as_secs()
            })
            .collect();
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16, 32, 50, 50]);
    }

    #[test]
    fn a_failure_is_forgiven_after_its_period() {
        let now = Instant::now();
        let mut meter = RateMeter::new(now);
        (0..3).for_each(|_| meter.fail(PENALTY, now));
        assert_eq!(meter.failures(PENALTY, now), 3);
        assert_eq!(meter.failures(PENALTY, now + Duration::from_secs(601)), 2);
        assert!(!meter.is_idle(now + Duration::from_secs(1799)));
        assert!(meter.is_idle(now + Duration::from_secs(1800)));
    }

    #[test]
    fn a_forgiven_failure_leaves_no_wait() {
        let now = Instant::now();
        let mut meter = RateMeter::new(now);
        (0..4).for_each(|_| meter.fail(PENALTY, now));
        assert!(!meter.failure_wait(now).is_zero());
        meter.forgive(PENALTY, now);
        assert_eq!((meter.failures(PENALTY, now), meter.failure_wait(now)), (3, Duration::ZERO));
        (0..9).for_each(|_| meter.forgive(PENALTY, now));
        assert!(meter.is_idle(now));
    }

    proptest! {
        #[test]
        fn no_time_window_admits_more_than_the_burst_and_its_refills(
            // Bursts with pauses between: a pause must not refill more than the burst.
            gaps in prop::collection::vec(prop_oneof![9 => 0u64..500, 1 => 0u64..200_000], 1..200)
        ) {
            let mut now = Instant::now();
            let mut meter = RateMeter::new(now);
            let mut admitted = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                if meter.rate_wait(RATE, 1, now).is_zero() {
                    meter.charge(RATE, 1, now);
                    admitted.push(now);
                }
            }
            for (first, from) in admitted.iter().enumerate() {
                for (last, to) in admitted.iter().enumerate().skip(first) {
                    let refilled = (*to - *from).as_secs_f64() / RATE.unit.as_secs_f64();
                    prop_assert!((last - first) as f64 <= f64::from(RATE.burst) + refilled);
                }
            }
        }

        #[test]
        fn the_returned_wait_is_enough_and_not_a_nanosecond_too_long(
            gaps in prop::collection::vec(0u64..2_000, 1..100)
        ) {
            let mut now = Instant::now();
            let mut meter = RateMeter::new(now);
            for gap in gaps {
                now += Duration::from_millis(gap);
                let wait = meter.rate_wait(RATE, 1, now);
                if !wait.is_zero() {
                    let sooner = now + wait - Duration::from_nanos(1);
                    prop_assert!(!meter.rate_wait(RATE, 1, sooner).is_zero());
                    prop_assert!(meter.rate_wait(RATE, 1, now + wait).is_zero());
                    now += wait;
                }
                meter.charge(RATE, 1, now);
            }
        }

        #[test]
        fn a_wait_never_exceeds_the_maximum(
            gaps in prop::collection::vec(0u64..100_000, 1..300)
        ) {
            let mut now = Instant::now();
            let mut meter = RateMeter::new(now);
            for gap in gaps {
                now += Duration::from_millis(gap);
                meter.fail(PENALTY, now);
                prop_assert!(meter.failure_wait(now) <= PENALTY.longest);
                prop_assert!(meter.failures(PENALTY, now) <= PENALTY.free + COUNTED_MAX);
            }
        }
    }
}
