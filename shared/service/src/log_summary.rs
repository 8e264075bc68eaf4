//! Logs once a minute how often faults were repeated.

use std::hash::Hash;

use crate::shutdown::Shutdown;
use spoke_diagnostics::{SharedLogLimiter, limits::LOG_SUMMARY_INTERVAL};

/// Calls `log` with the counts once a minute, and a last time when the shutdown begins.
pub async fn sum_up<K: Eq + Hash + Clone>(
    limiter: &SharedLogLimiter<K>,
    shutdown: &Shutdown,
    log: impl Fn(Option<&K>, u64),
) {
    while !shutdown.is_begun() {
        let _ = tokio::time::timeout(LOG_SUMMARY_INTERVAL, shutdown.begun()).await;
        let counts = limiter.poll_counts();
        counts.iter().for_each(|(kind, count)| log(kind.as_ref(), *count));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn the_last_counts_are_logged_at_shutdown() {
        let (limiter, shutdown) = (SharedLogLimiter::default(), Shutdown::new());
        let logged = Mutex::new(Vec::new());
        let log = |kind: Option<&&'static str>, count| {
            logged.lock().unwrap().push((kind.copied(), count))
        };
        let others = async {
            assert!(limiter.record("one") && !limiter.record("one"));
            tokio::task::yield_now().await;
            shutdown.begin();
        };
        tokio::join!(sum_up(&limiter, &shutdown, log), others);
        assert_eq!(*logged.lock().unwrap(), [(Some("one"), 1)]);
    }
}
