//! The log of an outage with faults of several kinds.

use std::time::{Duration, Instant};

/// The faults of one outage. Each kind is logged once per outage, and the end of the outage with the count.
#[derive(Debug, Default)]
pub struct OutageLog {
    current: Option<CurrentOutage>,
}

#[derive(Debug)]
struct CurrentOutage {
    since: Instant,
    count: u64,
    logged: Vec<&'static str>,
}

/// An outage that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutageSummary {
    /// The number of faults.
    pub count: u64,
    /// The time from the first fault to the recovery.
    pub duration: Duration,
}

impl OutageLog {
    /// Counts a fault with this stable word as its kind. Returns whether it is the first of its kind in this
    /// outage, and has to be logged.
    pub fn handle_fault(&mut self, reason: &'static str, now: Instant) -> bool {
        let outage =
            self.current.get_or_insert(CurrentOutage { since: now, count: 0, logged: Vec::new() });
        outage.count += 1;
        let is_first = !outage.logged.contains(&reason);
        if is_first {
            outage.logged.push(reason);
        }
        is_first
    }

    /// Ends the outage, and returns its summary if there was one.
    pub fn handle_recovery(&mut self, now: Instant) -> Option<OutageSummary> {
        let outage = self.current.take()?;
        Some(OutageSummary { count: outage.count, duration: now.duration_since(outage.since) })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at some time")]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_logged_once_per_outage_and_the_recovery_has_the_count() {
        let begin = Instant::now();
        let mut log = OutageLog::default();
        assert_eq!(log.handle_recovery(begin), None);
        let words = ["unreachable", "broken", "unreachable", "broken", "unreachable"];
        let logged = words.map(|word| log.handle_fault(word, begin));
        assert_eq!(logged, [true, true, false, false, false]);
        let duration = Duration::from_secs(7);
        assert_eq!(
            log.handle_recovery(begin + duration),
            Some(OutageSummary { count: 5, duration })
        );
        assert_eq!(log.handle_recovery(begin + duration), None);
        assert!(log.handle_fault("broken", begin));
    }
}
