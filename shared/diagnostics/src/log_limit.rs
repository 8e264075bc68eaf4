//! What is said of a fault that comes again and again: it is said when it begins, then counted, and
//! the count is said once a minute and when it is over. So nobody can fill the log from outside.
//!
//! `LogLimiter` is pure: whoever owns it looks at it once a minute. `SharedLogLimiter` is one for many tasks. A fault
//! of one kind whose end is seen, too, is a `Outage`: one line when it begins and one when it ends.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::limits::LOG_KINDS_MAX;

/// What goes on at the moment, by kind. Kinds may be a stranger's doing, so only so many are told
/// apart.
#[derive(Debug)]
pub struct LogLimiter<K> {
    /// How often each came since it was last spoken of.
    unsaid: HashMap<K, u64>,
    /// The same of all for which there is no room.
    others: u64,
}

impl<K> Default for LogLimiter<K> {
    fn default() -> Self {
        Self { unsaid: HashMap::new(), others: 0 }
    }
}

impl<K: Eq + Hash + Clone> LogLimiter<K> {
    /// Counts one, and tells whether it is the first of its kind and so is to be said.
    pub fn record(&mut self, kind: K) -> bool {
        if let Some(unsaid) = self.unsaid.get_mut(&kind) {
            *unsaid += 1;
            return false;
        }
        if self.unsaid.len() >= LOG_KINDS_MAX {
            self.others += 1;
            return false;
        }
        self.unsaid.insert(kind, 0);
        true
    }

    /// How often each kind has come again since the last look; no kind stands for all that had no
    /// room. What has not come again is over, and is said anew when it comes.
    pub fn poll_counts(&mut self) -> Vec<(Option<K>, u64)> {
        self.unsaid.retain(|_, unsaid| *unsaid > 0);
        let counts = self.unsaid.iter_mut();
        let counts = counts.map(|(kind, unsaid)| (Some(kind.clone()), std::mem::take(unsaid)));
        let others = std::mem::take(&mut self.others);
        counts.chain((others > 0).then_some((None, others))).collect()
    }
}

/// One fault from its beginning to its end.
#[derive(Debug, Default)]
pub struct Outage(AtomicU64);

impl Outage {
    /// One that has not begun.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one, and tells whether it is the first and so is to be said.
    pub fn handle_fault(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// All is well; gives how often it was not, if there is an end to be said.
    pub fn handle_success(&self) -> Option<u64> {
        // Almost always, so without a write.
        if self.0.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(self.0.swap(0, Ordering::Relaxed)).filter(|count| *count > 0)
    }
}

/// The same for many tasks.
#[derive(Debug)]
pub struct SharedLogLimiter<K>(Mutex<LogLimiter<K>>);

impl<K> Default for SharedLogLimiter<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> SharedLogLimiter<K> {
    /// Counts one, and tells whether it is the first of its kind and so is to be said.
    pub fn record(&self, kind: K) -> bool {
        self.lock().record(kind)
    }

    /// How often each kind has come again since the last look, as `LogLimiter::poll_counts` tells.
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
    fn a_fault_is_said_when_it_begins_then_counted_and_said_anew_once_it_was_over() {
        let mut repeats = LogLimiter::default();
        let aloud = (0..1000).filter(|_| repeats.record("one")).count();
        assert_eq!(aloud, 1);
        assert!(repeats.record("other"), "each kind is said");
        assert_eq!(repeats.poll_counts(), [(Some("one"), 999)]);
        assert!(!repeats.record("one"), "it goes on");
        assert_eq!(repeats.poll_counts(), [(Some("one"), 1)]);
        assert_eq!(repeats.poll_counts(), [], "nothing came again");
        assert!(repeats.record("one") && repeats.record("other"), "both were over");
    }

    #[test]
    fn any_number_of_kinds_makes_a_bounded_number_of_lines_and_loses_no_count() {
        let mut repeats = LogLimiter::default();
        let aloud = (0..10_000).filter(|kind| repeats.record(*kind)).count();
        let again = (0..10_000).filter(|kind| repeats.record(*kind)).count();
        assert_eq!((aloud, again), (LOG_KINDS_MAX, 0));
        let counts = repeats.poll_counts();
        assert_eq!(counts.len(), LOG_KINDS_MAX + 1);
        let counted: u64 = counts.iter().map(|(_, count)| count).sum();
        assert_eq!(counted as usize + aloud, 20_000);
    }

    #[test]
    fn a_spell_is_said_when_it_begins_and_its_count_when_it_ends() {
        let spell = Outage::new();
        assert_eq!(spell.handle_success(), None);
        assert_eq!([(); 3].map(|()| spell.handle_fault()), [true, false, false]);
        assert_eq!((spell.handle_success(), spell.handle_success()), (Some(3), None));
        assert!(spell.handle_fault(), "it is another one");
    }
}
