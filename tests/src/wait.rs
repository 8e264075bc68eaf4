//! Waiting for a state: polled with a deadline, never a fixed sleep.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// Long enough for a busy machine of two cores, and far beyond what anything should need.
pub const PATIENCE: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Polls `probe` until it returns `Ok`, and returns its value.
///
/// # Panics
/// If `limit` has passed, with `awaited` and the probe's last error.
pub async fn eventually<T, E: Debug>(
    awaited: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let seen = match probe().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        if Instant::now() >= deadline {
            panic!("waited {limit:?} in vain for: {awaited}; the last look saw {seen:?}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Polls `probe` until its value is the expected one.
///
/// # Panics
/// If `PATIENCE` has passed.
pub async fn eventually_is<T: Debug + PartialEq>(
    awaited: &str,
    expected: T,
    mut probe: impl AsyncFnMut() -> T,
) {
    let is_expected = async || {
        let seen = probe().await;
        if seen == expected { Ok(()) } else { Err(seen) }
    };
    eventually(awaited, PATIENCE, is_expected).await;
}

/// Polls `probe` until it is true.
///
/// # Panics
/// If `PATIENCE` has passed.
pub async fn eventually_true(awaited: &str, probe: impl AsyncFnMut() -> bool) {
    eventually_is(awaited, true, probe).await;
}

/// Polls `probe` throughout `span`, for what must not happen.
///
/// # Panics
/// If its value is ever another than the expected one.
pub async fn throughout<T: Debug + PartialEq>(
    awaited: &str,
    span: Duration,
    expected: T,
    mut probe: impl AsyncFnMut() -> T,
) {
    let deadline = Instant::now() + span;
    while Instant::now() < deadline {
        assert_eq!(probe().await, expected, "must hold all the time: {awaited}");
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}
