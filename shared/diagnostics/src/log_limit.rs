//! Limits the log lines of repeated faults. A fault is logged when it begins, then counted, and the count is logged
//! once a minute. So peers cannot fill the log.
//!
//! The owner of a [`LogLimiter`] logs its counts once a minute. A [`SharedLogLimiter`] is one for many tasks. An
//! [`Outage`] is a fault whose end is known, too: one line when it begins and one when it ends. An [`OutageLog`]
//! is that for faults of several kinds.

mod outage_log;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

pub use self::outage_log::{OutageLog, OutageSummary};
use crate::limits::LOG_KINDS_MAX;

/// Counts repeated faults by kind. Peers may cause any number of kinds, so at most [`LOG_KINDS_MAX`] are counted
/// apart.
#[derive(Debug)]
pub struct LogLimiter<K> {
    /// How often each kind was repeated since it was last logged.
    repeats: HashMap<K, u64>,
    /// The same for all other kinds.
    others: u64,
}

impl<K> Default for LogLimiter<K> {
    fn default() -> Self {
        Self { repeats: HashMap::new(), others: 0 }
    }
}

impl<K: Eq + Hash + Clone> LogLimiter<K> {
    /// Counts a fault. Returns whether it is the first of its kind, and has to be logged.
    pub fn record(&mut self, kind: K) -> bool {
        if let Some(repeats) = self.repeats.get_mut(&kind) {
            *repeats += 1;
            return false;
        }
        if self.repeats.len() >= LOG_KINDS_MAX {
            self.others += 1;
            return false;
        }
        self.repeats.insert(kind, 0);
        true
    }

    /// Returns how often each kind was repeated since the last call; no kind stands for all others. A kind that was
    /// not repeated is over, and is logged again when it returns.
    pub fn poll_counts(&mut self) -> Vec<(Option<K>, u64)> {
        self.repeats.retain(|_, repeats| *repeats > 0);
        let counts = self.repeats.iter_mut();
        let counts = counts.map(|(kind, repeats)| (Some(kind.clone()), std::mem::take(repeats)));
        let others = std::mem::take(&mut self.others);
        counts.chain((others > 0).then_some((None, others))).collect()
    }
}

/// A fault from its beginning to its end.
#[derive(Debug, Default)]
pub struct Outage(AtomicU64);

impl Outage {
    /// Creates an outage that has not begun.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts a failure. Returns whether it is the first, and has to be logged.
    pub fn handle_fault(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Ends the outage. Returns the number of failures, if there was one.
    pub fn handle_success(&self) -> Option<u64> {
        // The usual case, so without a write.
        if self.0.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(self.0.swap(0, Ordering::Relaxed)).filter(|count| *count > 0)
    }
}

/// A [`LogLimiter`] for many tasks.
#[derive(Debug)]
pub struct SharedLogLimiter<K>(Mutex<LogLimiter<K>>);

impl<K> Default for SharedLogLimiter<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> SharedLogLimiter<K> {
    /// Counts a fault. Returns whether it is the first of its kind, and has to be logged.
    pub fn record(&self, kind: K) -> bool {
        self.lock().record(kind)
    }

    /// Returns how often each kind was repeated since the last call, like [`LogLimiter::poll_counts`].
    pub fn poll_counts(&self) -> Vec<(Option<K>, u64)> {
        self.lock().poll_counts()
    }

    fn lock(&self) -> MutexGuard<'_, LogLimiter<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_logged_when_it_begins_then_counted_and_logged_again_after_it_ended() {
        let mut limiter = LogLimiter::default();
        let logged = (0..1000).filter(|_| limiter.record("one")).count();
        assert_eq!(logged, 1);
        assert!(limiter.record("other"), "each kind is logged");
        assert_eq!(limiter.poll_counts(), [(Some("one"), 999)]);
        assert!(!limiter.record("one"), "the fault continues");
        assert_eq!(limiter.poll_counts(), [(Some("one"), 1)]);
        assert_eq!(limiter.poll_counts(), [], "nothing was counted since");
        assert!(limiter.record("one") && limiter.record("other"), "both faults had ended");
    }

    #[test]
    fn any_number_of_kinds_gives_a_bounded_number_of_lines_and_loses_no_count() {
        let mut limiter = LogLimiter::default();
        let logged = (0..10_000).filter(|kind| limiter.record(*kind)).count();
        let again = (0..10_000).filter(|kind| limiter.record(*kind)).count();
        assert_eq!((logged, again), (LOG_KINDS_MAX, 0));
        let counts = limiter.poll_counts();
        assert_eq!(counts.len(), LOG_KINDS_MAX + 1);
        let counted: u64 = counts.iter().map(|(_, count)| count).sum();
        assert_eq!(counted as usize + logged, 20_000);
    }

    #[test]
    fn an_outage_is_logged_when_it_begins_and_its_count_when_it_ends() {
        let outage = Outage::new();
        assert_eq!(outage.handle_success(), None);
        assert_eq!([(); 3].map(|()| outage.handle_fault()), [true, false, false]);
        assert_eq!((outage.handle_success(), outage.handle_success()), (Some(3), None));
        assert!(outage.handle_fault(), "this is another outage");
    }
}
