//! One measured thing: how much of its allowance is used, and until when it is barred.
//!
//! The generic cell rate algorithm (ITU-T I.371): a single instant, at which all that was used is
//! earned back, says all there is to know. A meter past that instant is as good as a new one, so
//! it can be forgotten and nothing is lost.

use std::time::{Duration, Instant};

/// Used units are earned back one by one; so many may be used ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Until one unit is earned back.
    pub(super) unit: Duration,
    /// Units that may be used ahead.
    pub(super) burst: u32,
}

/// Failures beyond those that are free bar the way, each for twice as long as the one before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Penalty {
    /// Until one failure is forgiven.
    pub(super) forgiven_after: Duration,
    /// Failures that cost nothing.
    pub(super) free: u32,
    /// The longest bar; the first is `FIRST_BAR`.
    pub(super) longest: Duration,
}

/// The bar after the first failure that is not free.
const FIRST_BAR: Duration = Duration::from_secs(1);
/// Failures beyond the free ones that are remembered; by then the longest bar is long reached.
const REMEMBERED: u32 = 20;

/// The state of one key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    /// When all that was used is earned back, or all failures forgiven.
    pub(super) clear_at: Instant,
    barred_until: Instant,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self { clear_at: now, barred_until: now }
    }

    /// How long until `units` may be used; zero for now.
    pub(super) fn rate_wait(&self, rate: Rate, units: u32, now: Instant) -> Duration {
        let used = self.clear_at.saturating_duration_since(now);
        (used + rate.unit * units).saturating_sub(rate.unit * rate.burst)
    }

    /// How long the way is barred; zero for not.
    pub(super) fn bar_wait(&self, now: Instant) -> Duration {
        self.barred_until.saturating_duration_since(now)
    }

    /// Uses `units`.
    pub(super) fn charge(&mut self, rate: Rate, units: u32, now: Instant) {
        self.clear_at = self.clear_at.max(now) + rate.unit * units;
    }

    /// Counts a failure.
    pub(super) fn fail(&mut self, penalty: Penalty, now: Instant) {
        let most = penalty.forgiven_after * (penalty.free + REMEMBERED);
        self.clear_at = (self.clear_at.max(now) + penalty.forgiven_after).min(now + most);
        if let Some(beyond) = self.failures(penalty, now).checked_sub(penalty.free + 1) {
            let bar = FIRST_BAR.saturating_mul(1 << beyond.min(REMEMBERED)).min(penalty.longest);
            self.barred_until = self.barred_until.max(now + bar);
        }
    }

    /// Takes one failure back, and the bar with it where no more are left than are free.
    pub(super) fn forgive(&mut self, penalty: Penalty, now: Instant) {
        let earlier = self.clear_at.checked_sub(penalty.forgiven_after);
        self.clear_at = earlier.unwrap_or(now).max(now);
        if self.failures(penalty, now) <= penalty.free {
            self.barred_until = now;
        }
    }

    /// Failures not forgiven yet.
    pub(super) fn failures(&self, penalty: Penalty, now: Instant) -> u32 {
        let left = self.clear_at.saturating_duration_since(now).as_nanos();
        let failures = left.div_ceil(penalty.forgiven_after.as_nanos().max(1));
        u32::try_from(failures).unwrap_or(u32::MAX)
    }

    /// Whether nothing is lost by forgetting it.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.clear_at <= now && self.barred_until <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { unit: Duration::from_secs(6), burst: 5 };
    const PENALTY: Penalty = Penalty {
        forgiven_after: Duration::from_secs(600),
        free: 3,
        longest: Duration::from_secs(50),
    };

    #[test]
    fn a_burst_passes_and_then_one_a_unit() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
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
    fn bars_double_from_the_first_failure_that_is_not_free_up_to_the_longest() {
        let mut now = Instant::now();
        let mut meter = Meter::new(now);
        let bars: Vec<_> = (0..11)
            .map(|_| {
                meter.fail(PENALTY, now);
                let bar = meter.bar_wait(now);
                now += bar;
                bar.as_secs()
            })
            .collect();
        assert_eq!(bars, [0, 0, 0, 1, 2, 4, 8, 16, 32, 50, 50]);
    }

    #[test]
    fn a_failure_is_forgiven_after_its_time() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        (0..3).for_each(|_| meter.fail(PENALTY, now));
        assert_eq!(meter.failures(PENALTY, now), 3);
        assert_eq!(meter.failures(PENALTY, now + Duration::from_secs(601)), 2);
        assert!(!meter.is_idle(now + Duration::from_secs(1799)));
        assert!(meter.is_idle(now + Duration::from_secs(1800)));
    }

    #[test]
    fn a_failure_that_is_taken_back_leaves_nothing_and_no_bar() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        (0..4).for_each(|_| meter.fail(PENALTY, now));
        assert!(!meter.bar_wait(now).is_zero());
        meter.forgive(PENALTY, now);
        assert_eq!((meter.failures(PENALTY, now), meter.bar_wait(now)), (3, Duration::ZERO));
        (0..9).for_each(|_| meter.forgive(PENALTY, now));
        assert!(meter.is_idle(now));
    }

    proptest! {
        #[test]
        fn no_window_of_time_admits_more_than_the_burst_and_what_it_earns(
            // Rushes with rests between: a rest must not save up more than the burst.
            gaps in prop::collection::vec(prop_oneof![9 => 0u64..500, 1 => 0u64..200_000], 1..200)
        ) {
            let mut now = Instant::now();
            let mut meter = Meter::new(now);
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
                    let earned = (*to - *from).as_secs_f64() / RATE.unit.as_secs_f64();
                    prop_assert!((last - first) as f64 <= f64::from(RATE.burst) + earned);
                }
            }
        }

        #[test]
        fn who_waits_as_told_is_admitted_and_who_comes_sooner_is_not(
            gaps in prop::collection::vec(0u64..2_000, 1..100)
        ) {
            let mut now = Instant::now();
            let mut meter = Meter::new(now);
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
        fn a_bar_is_never_longer_than_the_longest(
            gaps in prop::collection::vec(0u64..100_000, 1..300)
        ) {
            let mut now = Instant::now();
            let mut meter = Meter::new(now);
            for gap in gaps {
                now += Duration::from_millis(gap);
                meter.fail(PENALTY, now);
                prop_assert!(meter.bar_wait(now) <= PENALTY.longest);
                prop_assert!(meter.failures(PENALTY, now) <= PENALTY.free + REMEMBERED);
            }
        }
    }
}
