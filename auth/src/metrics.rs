//! Counters of auth since its start. No label holds anything that a peer chose, so their number is bounded.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::StatusCode;
use spoke_diagnostics::{
    metrics::{Counter, CounterVec, MetricsPage},
    unix_ms,
};

use crate::rate_limit::LimitKind;

/// Counters since the start.
#[derive(Debug)]
pub(crate) struct AuthMetrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    in_progress: AtomicUsize,
    /// Requests answered 429, by reason.
    pub(crate) throttled: CounterVec,
    /// Wrong codes and proofs for clients that may register.
    pub(crate) wrong_codes: Counter,
    /// Clients whose codes were locked.
    pub(crate) codes_locked: Counter,
    /// When auth started, in milliseconds since 1970.
    pub(crate) started_ms: u64,
}

/// Counts a request as in progress; dropped with it.
pub(crate) struct InProgressGuard<'a>(&'a AtomicUsize);

impl Default for AuthMetrics {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            in_progress: AtomicUsize::new(0),
            throttled: CounterVec::new(LimitKind::ALL.map(LimitKind::word)),
            wrong_codes: Counter::default(),
            codes_locked: Counter::default(),
            started_ms: unix_ms(),
        }
    }
}

impl AuthMetrics {
    /// Counts a request as in progress while the guard lives.
    pub(crate) fn begin_request(&self) -> InProgressGuard<'_> {
        self.in_progress.fetch_add(1, Ordering::Relaxed);
        InProgressGuard(&self.in_progress)
    }

    /// Counts a response of a route.
    pub(crate) fn count(&self, route: &'static str, status: StatusCode) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status.as_u16())).or_default() += 1;
    }

    /// Writes the counters.
    pub(crate) fn write(&self, page: &mut MetricsPage) {
        let name = "spoke_auth_requests_total";
        page.head("counter", name, "Requests answered, by route and status.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((route, status), count) in requests.iter() {
            page.sample(name, &[("route", route), ("status", &status.to_string())], count);
        }
        drop(requests);
        let in_progress = self.in_progress.load(Ordering::Relaxed);
        page.gauge("spoke_auth_requests_in_hand", "Requests in progress.", &in_progress);
        let name = "spoke_auth_held_back_total";
        page.counters(name, "Requests answered 429, by reason.", "because", &self.throttled);
        let help = "Wrong codes and proofs for clients that may register.";
        page.counter("spoke_auth_wrong_codes_total", help, &self.wrong_codes);
        let help = "Clients whose registration codes were locked after too many wrong ones.";
        page.counter("spoke_auth_codes_locked_total", help, &self.codes_locked);
    }
}

impl Drop for InProgressGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_counted_by_route_and_status() {
        let metrics = AuthMetrics::default();
        metrics.count("/login", StatusCode::OK);
        metrics.count("/login", StatusCode::OK);
        metrics.count("/login", StatusCode::UNAUTHORIZED);
        metrics.throttled.add(LimitKind::ClientRate.word(), 7);
        let guard = metrics.begin_request();
        let mut page = MetricsPage::default();
        metrics.write(&mut page);
        drop(guard);
        let text = page.into_text();
        for line in [
            "spoke_auth_requests_total{route=\"/login\",status=\"200\"} 2",
            "spoke_auth_requests_total{route=\"/login\",status=\"401\"} 1",
            "spoke_auth_requests_in_hand 1",
            "spoke_auth_held_back_total{because=\"client-rate\"} 7",
            "spoke_auth_held_back_total{because=\"no-room\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
