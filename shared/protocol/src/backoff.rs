//! The delay before a retry.
//!
//! The growth is that of the `backoff` crate, which is no longer maintained. So it is used in this one type
//! only, without its jitter and its clock; the random number is an argument. Delays are spread over half to all
//! of the grown interval. Rejected: full jitter (from zero), which lets a part of a fleet come back at once,
//! while the server is still recovering.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

use crate::limits::{
    RECONNECT_JITTER, RECONNECT_SPREAD, RECONNECT_SPREAD_PER_CLIENT, RECONNECT_WAIT_MIN,
    RETRY_HINT_MAX,
};

/// A growing delay between retries. [`Self::reset`] it after a success.
#[derive(Debug, Clone)]
pub struct RetryDelay {
    growth: ExponentialBackoff,
    /// A limit that applies until the delays together are this long.
    initial_limit: (Duration, Duration),
    waited: Duration,
}

/// The maximum delay. It keeps the arithmetic far from the limits of [`Duration`].
const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl RetryDelay {
    /// Creates a delay that begins with `first` and doubles up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let longest = longest.min(DELAY_MAX);
        let mut growth = ExponentialBackoff {
            initial_interval: first.min(longest),
            max_interval: longest,
            multiplier: 2.0,
            randomization_factor: 0.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        growth.reset();
        Self { growth, initial_limit: (longest, Duration::ZERO), waited: Duration::ZERO }
    }

    /// Limits each delay to `most` until the delays together are as long as `lasts`.
    #[must_use]
    pub fn with_initial_limit(self, (most, lasts): (Duration, Duration)) -> Self {
        Self { initial_limit: (most, lasts), ..self }
    }

    /// Returns the delay before the next retry. `random` is in 0.0..1.0. A server's hint is a lower bound of up
    /// to [`RETRY_HINT_MAX`], spread over 100 % to 150 % of itself, so that clients with the same hint do not
    /// all come back in the same second.
    pub fn next(&mut self, hint: Option<Duration>, random: f64) -> Duration {
        let longest = self.growth.max_interval;
        let most = if self.waited < self.initial_limit.1 {
            longest.min(self.initial_limit.0)
        } else {
            longest
        };
        let grown = self.growth.next_backoff().map_or(most, |grown| grown.min(most));
        let own = grown.mul_f64(0.5 + 0.5 * random);
        let hinted = hint.map(|hint| hint.min(RETRY_HINT_MAX).mul_f64(1.0 + 0.5 * random));
        let wait = hinted.map_or(own, |hinted| hinted.max(own));
        self.waited = self.waited.saturating_add(wait);
        wait
    }

    /// Returns the delay after a server's hint during an outage of its Redis. It does not grow with the number
    /// of retries. `random` is in 0.0..1.0.
    pub fn after_hint(hint: Duration, random: f64) -> Duration {
        hint.min(RETRY_HINT_MAX).mul_f64(1.0 + RECONNECT_JITTER * random)
    }

    /// Starts again with the first delay.
    pub fn reset(&mut self) {
        self.growth.reset();
        self.waited = Duration::ZERO;
    }
}

/// Returns the hint for a client of a service that shuts down, or whose Redis has an outage. The service gives
/// one to each of its `clients` at the same time, so the hints are spread. `random` is in 0.0..1.0.
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
    fn waits_double_up_to_the_maximum_and_start_over_after_a_reset() {
        let mut retry = RetryDelay::new(millis(500), millis(3000));
        // A random number of 1.0 gives the whole interval.
        let waits: Vec<_> = (0..5).map(|_| retry.next(None, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 3000, 3000]);
        retry.reset();
        assert_eq!(retry.next(None, 0.0), millis(250));
    }

    #[test]
    fn waits_stay_short_early_in_an_outage() {
        let mut retry = RetryDelay::new(millis(500), millis(60_000))
            .with_initial_limit((millis(4000), millis(20_000)));
        let mut waits = || (0..9).map(|_| retry.next(None, 1.0).as_millis()).collect::<Vec<_>>();
        let expected = [500, 1000, 2000, 4000, 4000, 4000, 4000, 4000, 60_000];
        assert_eq!(waits(), expected);
        retry.reset();
        assert_eq!((retry.next(None, 1.0), retry.waited), (millis(500), millis(500)));
    }

    #[test]
    fn a_hint_longer_than_the_limit_is_reduced_to_it() {
        let mut retry = RetryDelay::new(millis(500), millis(3000));
        assert_eq!(retry.next(Some(Duration::MAX), 0.0), RETRY_HINT_MAX);
    }

    #[test]
    fn a_few_clients_reconnect_within_five_seconds_and_ten_thousand_within_thirty() {
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
        fn no_wait_exceeds_the_maximum(
            first in any_duration(), longest in any_duration(),
            randoms in prop::collection::vec(0.0..1.0f64, 1..80),
        ) {
            let mut retry = RetryDelay::new(first, longest);
            for random in randoms {
                prop_assert!(retry.next(None, random) <= longest);
            }
        }

        #[test]
        fn each_wait_is_between_half_and_all_of_an_interval_that_doubles(
            first in 1u64..1000, longest in 1000u64..1_000_000,
            randoms in prop::collection::vec(0.0..1.0f64, 1..40),
        ) {
            let mut retry = RetryDelay::new(millis(first), millis(longest));
            let mut interval = first;
            for random in randoms {
                let wait = retry.next(None, random).as_nanos();
                let bound = u128::from(interval) * 1_000_000;
                // The crate computes in floating point: allow a microsecond.
                prop_assert!(wait + 1000 >= bound / 2 && wait <= bound + 1000);
                interval = (interval * 2).min(longest);
            }
        }

        #[test]
        fn a_hint_is_a_lower_bound_up_to_its_limit(
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
