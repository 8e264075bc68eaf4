//! What auth has answered, and what is so, for Prometheus. No label holds anything a visitor chose, so
//! their number is bounded.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::StatusCode;
use spoke_diagnostics::{
    clock::unix_ms,
    metrics::{Counter, CounterVec, MetricsPage},
};
use spoke_service::redis_metrics;

use crate::{rate_limit::Because, state::Service};

/// What all names begin with.
const SERVICE: &str = "spoke_auth";

/// What has been answered since the start.
#[derive(Debug)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    in_hand: AtomicUsize,
    /// Visits that were held back, by cause.
    pub held_back: CounterVec,
    /// Wrong codes and proofs for clients that may register.
    pub wrong_codes: Counter,
    /// Clients whose codes were locked.
    pub codes_locked: Counter,
    started_ms: u64,
}

/// A request in hand; dropped with it.
pub struct InHand<'a>(&'a AtomicUsize);

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            in_hand: AtomicUsize::new(0),
            held_back: CounterVec::new(Because::ALL.map(Because::word)),
            wrong_codes: Counter::default(),
            codes_locked: Counter::default(),
            started_ms: unix_ms(),
        }
    }
}

impl Metrics {
    /// A request is in hand.
    pub fn enter(&self) -> InHand<'_> {
        self.in_hand.fetch_add(1, Ordering::Relaxed);
        InHand(&self.in_hand)
    }

    /// Counts an answer of one of the service's own routes.
    pub fn count(&self, route: &'static str, status: StatusCode) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status.as_u16())).or_default() += 1;
    }

    fn write(&self, page: &mut MetricsPage) {
        let name = "spoke_auth_requests_total";
        page.head("counter", name, "Requests answered, by route and status.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((route, status), count) in requests.iter() {
            page.sample(name, &[("route", route), ("status", &status.to_string())], count);
        }
        drop(requests);
        let in_hand = self.in_hand.load(Ordering::Relaxed);
        page.gauge("spoke_auth_requests_in_hand", "Requests under way now.", &in_hand);
        let name = "spoke_auth_held_back_total";
        page.counters(
            name,
            "Visits answered 429, by what was too much.",
            "because",
            &self.held_back,
        );
        let help = "Wrong codes and proofs for clients that may register.";
        page.counter("spoke_auth_wrong_codes_total", help, &self.wrong_codes);
        let help = "Clients whose registration codes were locked after too many wrong ones.";
        page.counter("spoke_auth_codes_locked_total", help, &self.codes_locked);
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All of auth's figures in Prometheus's text form.
pub async fn text(service: &Service) -> String {
    let mut page = MetricsPage::new(SERVICE, env!("CARGO_PKG_VERSION"), service.metrics.started_ms);
    service.metrics.write(&mut page);
    let pool = &service.pool;
    let (threads, room) = pool.room();
    let help = "Names and addresses whose rate is watched.";
    page.gauge("spoke_auth_throttle_keys", help, &service.throttle_keys());
    let help = "bcrypt runs under way and waiting.";
    page.gauge("spoke_auth_bcrypt_in_hand", help, &pool.in_hand());
    let help = "bcrypt runs that there may be, under way and waiting together.";
    page.gauge("spoke_auth_bcrypt_in_hand_max", help, &room);
    let help = "bcrypt runs that there may be under way.";
    page.gauge("spoke_auth_bcrypt_workers", help, &threads);
    let help = "Requests answered 503 since the line for bcrypt was full.";
    page.counter("spoke_auth_bcrypt_refused_total", help, &pool.figures().full);
    let help = "From the place in the line for bcrypt to the end of the run.";
    page.histograms("spoke_auth_bcrypt_seconds", help, &[(None, &pool.figures().seconds)]);
    let redis = service.store.redis();
    redis_metrics::write(&mut page, SERVICE, &[("redis", redis)]);
    redis_metrics::write_up(&mut page, SERVICE, redis).await;
    page.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_route_and_status() {
        let metrics = Metrics::default();
        metrics.count("/login", StatusCode::OK);
        metrics.count("/login", StatusCode::OK);
        metrics.count("/login", StatusCode::UNAUTHORIZED);
        metrics.held_back.add(Because::ClientRate.word(), 7);
        let held = metrics.enter();
        let mut page = MetricsPage::default();
        metrics.write(&mut page);
        drop(held);
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
