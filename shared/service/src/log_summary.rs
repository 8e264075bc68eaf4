//! Tells once a minute how often faults came again.

use std::hash::Hash;

use crate::shutdown::Shutdown;
use spoke_diagnostics::{limits::LOG_SUMMARY_INTERVAL, log_limit::SharedLogLimiter};

/// Says counts once a minute, and the last when the shutdown begins.
pub async fn sum_up<K: Eq + Hash + Clone>(
    repeated: &SharedLogLimiter<K>,
    shutdown: &Shutdown,
    say: impl Fn(Option<&K>, u64),
) {
    while !shutdown.is_begun() {
        let _ = tokio::time::timeout(LOG_SUMMARY_INTERVAL, shutdown.begun()).await;
        let counts = repeated.poll_counts();
        counts.iter().for_each(|(kind, count)| say(kind.as_ref(), *count));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn what_is_not_said_yet_is_said_at_the_end() {
        let (repeated, shutdown) = (SharedLogLimiter::default(), Shutdown::new());
        let said = Mutex::new(Vec::new());
        let say =
            |kind: Option<&&'static str>, count| said.lock().unwrap().push((kind.copied(), count));
        let others = async {
            assert!(repeated.record("one") && !repeated.record("one"));
            tokio::task::yield_now().await;
            shutdown.begin();
        };
        tokio::join!(sum_up(&repeated, &shutdown, say), others);
        assert_eq!(*said.lock().unwrap(), [(Some("one"), 1)]);
    }
}
