//! Limits the log of connection faults: each kind of fault is logged once per outage, and the end
//! of the outage with the count. Pure.

use std::time::{Duration, Instant};

/// The faults since the agent was last connected.
#[derive(Debug, Default)]
pub(super) struct OutageLog {
    current: Option<CurrentOutage>,
}

#[derive(Debug)]
struct CurrentOutage {
    since: Instant,
    count: u64,
    logged: Vec<&'static str>,
}

/// Whether to log a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogDecision {
    /// The fault is the first of its kind in this outage.
    Log,
    /// The kind was logged before.
    Suppress,
}

/// An outage that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutageSummary {
    /// The number of faults.
    pub count: u64,
    /// The time from the first fault to the recovery.
    pub duration: Duration,
}

impl OutageLog {
    /// Counts a fault with this stable word as its kind.
    pub(super) fn handle_fault(&mut self, reason: &'static str, now: Instant) -> LogDecision {
        let outage =
            self.current.get_or_insert(CurrentOutage { since: now, count: 0, logged: Vec::new() });
        outage.count += 1;
        if outage.logged.contains(&reason) {
            return LogDecision::Suppress;
        }
        outage.logged.push(reason);
        LogDecision::Log
    }

    /// Ends the outage, and returns its summary if there was one.
    pub(super) fn handle_recovery(&mut self, now: Instant) -> Option<OutageSummary> {
        let outage = self.current.take()?;
        Some(OutageSummary { count: outage.count, duration: now.duration_since(outage.since) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_logged_once_per_outage_and_the_recovery_has_the_count() {
        let begin = Instant::now();
        let mut log = OutageLog::default();
        assert_eq!(log.handle_recovery(begin), None);
        let faults = ["unreachable", "broken", "unreachable", "broken", "unreachable"];
        let decisions = faults.map(|fault| log.handle_fault(fault, begin));
        assert_eq!(
            decisions,
            [
                LogDecision::Log,
                LogDecision::Log,
                LogDecision::Suppress,
                LogDecision::Suppress,
                LogDecision::Suppress
            ]
        );
        let duration = Duration::from_secs(7);
        assert_eq!(
            log.handle_recovery(begin + duration),
            Some(OutageSummary { count: 5, duration })
        );
        assert_eq!(log.handle_recovery(begin + duration), None);
        assert_eq!(log.handle_fault("broken", begin), LogDecision::Log);
    }
}
