//! The clients that are throttled: since when, and why.
//!
//! A client that sends at its limit waits before each batch. That is one period, not many: it is
//! logged when it begins and when it ends, and written to Redis rarely.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use spoke_protocol::ClientId;

use crate::limits::{THROTTLE_QUIET, THROTTLE_REFRESH};

/// Why a client is throttled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThrottleCause {
    /// It exceeds its own rate.
    Rate,
    /// Redis is nearly full.
    Memory,
}

/// What to record about a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ThrottleReport {
    /// It is throttled, for this long so far.
    Throttled { cause: ThrottleCause, lasted: Duration },
    /// It is not throttled any more. `is_unlogged` if no batch of it has shown that.
    Ended { lasted: Duration, is_unlogged: bool },
}

/// The throttled clients of a hub.
#[derive(Default)]
pub(super) struct ThrottledClients {
    periods: HashMap<ClientId, ThrottlePeriod>,
    /// Periods that have ended and are not reported yet.
    ended: Vec<(ClientId, Duration)>,
}

struct ThrottlePeriod {
    since: Instant,
    /// The end of the last wait.
    until: Instant,
    cause: ThrottleCause,
    reported_at: Option<Instant>,
}

impl ThrottleCause {
    /// Returns its word in metrics and in the client's hash.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Memory => "memory",
        }
    }
}

impl ThrottledClients {
    /// Takes note that a batch of this client has to wait. Returns whether a period begins by it.
    pub(super) fn handle_wait(
        &mut self,
        client: &ClientId,
        cause: ThrottleCause,
        wait: Duration,
        now: Instant,
    ) -> bool {
        let until = now + wait;
        if let Some(period) = self.periods.get_mut(client) {
            (period.until, period.cause) = (until, cause);
            return false;
        }
        let period = ThrottlePeriod { since: now, until, cause, reported_at: None };
        self.periods.insert(client.clone(), period);
        true
    }

    /// Takes note that a batch is admitted. Returns how long the client was throttled, if that is
    /// over: it did not have to wait for a while, or Redis has room again.
    pub(super) fn handle_go(
        &mut self,
        client: &ClientId,
        is_short: bool,
        now: Instant,
    ) -> Option<Duration> {
        let period = self.periods.get(client)?;
        let has_room = period.cause == ThrottleCause::Memory && !is_short;
        if !has_room && !period.is_quiet(now) {
            return None;
        }
        let lasted = now.duration_since(period.since);
        self.periods.remove(client);
        self.ended.push((client.clone(), lasted));
        Some(lasted)
    }

    /// Returns the number of clients for each cause.
    pub(super) fn count(&self, cause: ThrottleCause) -> usize {
        self.periods.values().filter(|period| period.cause == cause).count()
    }

    /// Returns the reports that are due, each once.
    pub(super) fn poll_reports(&mut self, now: Instant) -> Vec<(ClientId, ThrottleReport)> {
        let mut reports: Vec<_> = std::mem::take(&mut self.ended)
            .into_iter()
            .map(|(client, lasted)| (client, ThrottleReport::Ended { lasted, is_unlogged: false }))
            .collect();
        self.periods.retain(|client, period| {
            let lasted = now.duration_since(period.since);
            let report = match period.is_quiet(now) {
                true => ThrottleReport::Ended { lasted, is_unlogged: true },
                false if period.is_report_due(now) => {
                    period.reported_at = Some(now);
                    ThrottleReport::Throttled { cause: period.cause, lasted }
                }
                false => return true,
            };
            reports.push((client.clone(), report));
            matches!(report, ThrottleReport::Throttled { .. })
        });
        reports
    }
}

impl ThrottlePeriod {
    fn is_quiet(&self, now: Instant) -> bool {
        now >= self.until + THROTTLE_QUIET
    }

    fn is_report_due(&self, now: Instant) -> bool {
        self.reported_at.is_none_or(|at| now >= at + THROTTLE_REFRESH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    fn client() -> ClientId {
        "dev1".parse().unwrap()
    }

    #[test]
    fn a_client_that_waits_before_each_batch_is_one_period_and_is_reported_rarely() {
        let (begun, mut throttled) = (Instant::now(), ThrottledClients::default());
        let (mut first, mut reports, mut now) = (0, 0, begun);
        while now < begun + 4 * THROTTLE_REFRESH {
            first += u32::from(throttled.handle_wait(&client(), ThrottleCause::Rate, WAIT, now));
            reports += throttled.poll_reports(now).len();
            now += WAIT;
            assert_eq!(throttled.handle_go(&client(), false, now), None);
        }
        assert_eq!((first, reports), (1, 4));
        assert_eq!(throttled.count(ThrottleCause::Rate), 1);
        let after = now + THROTTLE_QUIET;
        let lasted = after.duration_since(begun);
        assert_eq!(throttled.handle_go(&client(), false, after), Some(lasted));
        let ended = ThrottleReport::Ended { lasted, is_unlogged: false };
        assert_eq!(throttled.poll_reports(after), [(client(), ended)]);
        assert_eq!(throttled.poll_reports(after), []);
    }

    #[test]
    fn a_client_that_falls_silent_is_reported_as_no_longer_throttled() {
        let (now, mut throttled) = (Instant::now(), ThrottledClients::default());
        throttled.handle_wait(&client(), ThrottleCause::Memory, WAIT, now);
        throttled.poll_reports(now);
        assert_eq!(throttled.poll_reports(now + WAIT), []);
        let lasted = WAIT + THROTTLE_QUIET;
        let ended = ThrottleReport::Ended { lasted, is_unlogged: true };
        assert_eq!(throttled.poll_reports(now + lasted), [(client(), ended)]);
        assert_eq!(throttled.count(ThrottleCause::Rate), 0);
        assert_eq!(throttled.count(ThrottleCause::Memory), 0);
    }
}
