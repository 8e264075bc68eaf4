//! What the hub has done, as text for Prometheus. No client's name is a label.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::live::Live;

/// A figure that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All figures of one hub process.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each is named in `text` with its help")]
pub struct Metrics {
    pub accepted: Counter,
    pub duplicates: Counter,
    pub refused: Counter,
    pub lost_up: Counter,
    pub lost_down: Counter,
    pub sent: Counter,
    pub sessions: Counter,
    pub superseded: Counter,
    pub clones: Counter,
    pub unauthorized: Counter,
    pub store_errors: Counter,
    pub seq_requests: Counter,
    pub xadd_requests: Counter,
    pub xread_requests: Counter,
    pub session_requests: Counter,
    pub sync_requests: Counter,
}

impl Metrics {
    /// All of them in Prometheus's text form.
    pub fn text(&self, live: &Live) -> String {
        let mut text = String::new();
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            let _ = writeln!(text, "# HELP spoke_hub_{name}_total {help}");
            let _ = writeln!(text, "# TYPE spoke_hub_{name}_total counter");
            let _ = writeln!(text, "spoke_hub_{name}_total {}", counter.get());
        };
        counter("entries_accepted", "Entries appended to the in stream.", &self.accepted);
        counter("entries_duplicate", "Entries that the hub had already.", &self.duplicates);
        counter("entries_refused", "Entries that can never be appended.", &self.refused);
        counter("entries_lost_up", "Entries that devices told to be lost.", &self.lost_up);
        counter("entries_lost_down", "Entries found lost on their way down.", &self.lost_down);
        counter("entries_sent", "Entries that clients have acknowledged.", &self.sent);
        counter("sessions", "Sessions begun.", &self.sessions);
        counter("sessions_superseded", "Sessions ended by a newer one.", &self.superseded);
        counter(
            "sessions_refused_clone",
            "Sessions refused since another device with the same identity is connected.",
            &self.clones,
        );
        counter("unauthorized", "Requests without a live token.", &self.unauthorized);
        counter("store_errors", "Commands that Redis did not do.", &self.store_errors);
        text.push_str("# HELP spoke_hub_requests_total Requests that came.\n");
        text.push_str("# TYPE spoke_hub_requests_total counter\n");
        for (route, counter) in [
            ("seq", &self.seq_requests),
            ("session", &self.session_requests),
            ("sync", &self.sync_requests),
            ("xadd", &self.xadd_requests),
            ("xread", &self.xread_requests),
        ] {
            let _ =
                writeln!(text, "spoke_hub_requests_total{{route=\"{route}\"}} {}", counter.get());
        }
        text.push_str("# HELP spoke_hub_connections WebSockets and waiting reads now.\n");
        text.push_str("# TYPE spoke_hub_connections gauge\n");
        let _ = writeln!(text, "spoke_hub_connections {}", live.count());
        text
    }
}
