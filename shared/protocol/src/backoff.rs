//! How long to wait before another try.
//!
//! The growth is the `backoff` crate's, which no one maintains any more; so it stands behind this one
//! type, with its jitter off and its clock unused, and what is random comes in as an argument. Waits are
//! spread over half to all of the grown interval: full jitter (from zero) lets a part of a fleet come back
//! at once, which is what a server that has just fallen over cannot bear.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

use crate::limits::{
    RECONNECT_JITTER, RECONNECT_SPREAD, RECONNECT_SPREAD_PER_CLIENT, RECONNECT_WAIT_MIN,
    RETRY_HINT_MAX,
};

/// The tries so far, as a growing interval. Whoever succeeds resets it.
#[derive(Debug, Clone)]
pub struct RetryDelay {
    growth: ExponentialBackoff,
    /// The most for now, until there were waits of so long altogether.
    with_initial_limit: (Duration, Duration),
    waited: Duration,
}

/// Longer waits are no retries. It also keeps the arithmetic far from where a `Duration` ends.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl RetryDelay {
    /// Waits from `first`, doubling up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let longest = longest.min(LONGEST);
        let mut growth = ExponentialBackoff {
            initial_interval: first.min(longest),
            max_interval: longest,
            multiplier: 2.0,
            randomization_factor: 0.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        growth.reset();
        Self { growth, with_initial_limit: (longest, Duration::ZERO), waited: Duration::ZERO }
    }

    /// No wait is longer than `most` until there were waits of `lasts` altogether.
    #[must_use]
    pub fn with_initial_limit(self, (most, lasts): (Duration, Duration)) -> Self {
        Self { with_initial_limit: (most, lasts), ..self }
    }

    /// The wait before the next try; `random` is in 0.0..1.0. A server's hint is a floor, obeyed up to
    /// `limits::RETRY_HINT_MAX` and spread over 100 % to 150 % of itself, so that those who were told the
    /// same do not all come back in the same second.
    pub fn next(&mut self, hint: Option<Duration>, random: f64) -> Duration {
        let longest = self.growth.max_interval;
        let most = if self.waited < self.with_initial_limit.1 {
            longest.min(self.with_initial_limit.0)
        } else {
            longest
        };
        let grown = self.growth.next_backoff().map_or(most, |grown| grown.min(most));
        let own = grown.mul_f64(0.5 + 0.5 * random);
        let told = hint.map(|hint| hint.min(RETRY_HINT_MAX).mul_f64(1.0 + 0.5 * random));
        let wait = told.map_or(own, |told| told.max(own));
        self.waited = self.waited.saturating_add(wait);
        wait
    }

    /// The wait that a server told while its Redis was in trouble: not longer for having happened often, since
    /// the mend does not depend on how long it took. `random` is in 0.0..1.0.
    pub fn after_hint(hint: Duration, random: f64) -> Duration {
        hint.min(RETRY_HINT_MAX).mul_f64(1.0 + RECONNECT_JITTER * random)
    }

    /// The next wait is the first again.
    pub fn reset(&mut self) {
        self.growth.reset();
        self.waited = Duration::ZERO;
    }
}

/// How long a service sends somebody away that stops, or whose Redis is in trouble. It does so with all
/// of its `clients` at once, and they are not to come back at once. `random` is in 0.0..1.0.
pub fn reconnect_wait(clients: usize, random: f64) -> Duration {
    let paced =
        RECONNECT_SPREAD_PER_CLIENT.saturating_mul(u32::try_from(clients).unwrap_or(u32::MAX));
    RECONNECT_WAIT_MIN + paced.max(RECONNECT_SPREAD).mul_f64(random)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again_after_a_reset() {
        let mut retry = RetryDelay::new(millis(500), millis(3000));
        // As if the highest random number were 1.0: the whole interval.
        let waits: Vec<_> = (0..5).map(|_| retry.next(None, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 3000, 3000]);
        retry.reset();
        assert_eq!(retry.next(None, 0.0), millis(250));
    }

    #[test]
    fn waits_stay_short_for_as_long_as_an_outage_is_young() {
        let mut retry = RetryDelay::new(millis(500), millis(60_000))
            .with_initial_limit((millis(4000), millis(20_000)));
        let mut waits = || (0..9).map(|_| retry.next(None, 1.0).as_millis()).collect::<Vec<_>>();
        let expected = [500, 1000, 2000, 4000, 4000, 4000, 4000, 4000, 60_000];
        assert_eq!(waits(), expected);
        retry.reset();
        assert_eq!((retry.next(None, 1.0), retry.waited), (millis(500), millis(500)));
    }

    #[test]
    fn a_hint_longer_than_the_limit_is_cut_to_it() {
        let mut retry = RetryDelay::new(millis(500), millis(3000));
        assert_eq!(retry.next(Some(Duration::MAX), 0.0), RETRY_HINT_MAX);
    }

    #[test]
    fn a_few_are_back_within_five_seconds_and_ten_thousand_within_thirty() {
        let longest = |clients| RetryDelay::after_hint(reconnect_wait(clients, 1.0), 1.0);
        for clients in [0, 1, 100, 1000] {
            assert!(longest(clients) < Duration::from_secs(5), "{clients}: {:?}", longest(clients));
        }
        let thirty = Duration::from_secs(30);
        assert!(longest(10_000) <= thirty && longest(10_000) > thirty / 2);
        assert_eq!(reconnect_wait(10_000, 0.0), RECONNECT_WAIT_MIN);
    }

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0u64..100_000).prop_map(Duration::from_millis),
            any::<u64>().prop_map(Duration::from_millis),
            Just(Duration::MAX),
        ]
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_longest(
            first in any_duration(), longest in any_duration(),
            randoms in prop::collection::vec(0.0..1.0f64, 1..80),
        ) {
            let mut retry = RetryDelay::new(first, longest);
            for random in randoms {
                prop_assert!(retry.next(None, random) <= longest);
            }
        }

        #[test]
        fn each_wait_is_half_to_all_of_twice_the_one_before(
            first in 1u64..1000, longest in 1000u64..1_000_000,
            randoms in prop::collection::vec(0.0..1.0f64, 1..40),
        ) {
            let mut retry = RetryDelay::new(millis(first), millis(longest));
            let mut whole = first;
            for random in randoms {
                let wait = retry.next(None, random).as_nanos();
                let bound = u128::from(whole) * 1_000_000;
                // The crate computes in floating point: a microsecond of slack.
                prop_assert!(wait + 1000 >= bound / 2 && wait <= bound + 1000);
                whole = (whole * 2).min(longest);
            }
        }

        #[test]
        fn a_hint_is_a_floor_up_to_its_limit(
            first in any_duration(), longest in any_duration(), hint in any_duration(),
            randoms in prop::collection::vec(0.0..1.0f64, 1..20),
        ) {
            let mut retry = RetryDelay::new(first, longest);
            for random in randoms {
                let wait = retry.next(Some(hint), random);
                let floor = hint.min(RETRY_HINT_MAX);
                prop_assert!(wait >= floor);
                prop_assert!(wait <= floor.mul_f64(1.5).max(longest));
            }
        }
    }
}
