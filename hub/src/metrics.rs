//! What the hub has done, and what is so, for Prometheus. No client's name is a label, and a page costs
//! as much with ten thousand clients as with one.

use spoke_diagnostics::{
    clock::unix_ms,
    metrics::{Counter, CounterVec, MetricsPage},
};
use spoke_protocol::{entry::Direction, message::GoawayReason, sync::session::SessionEnd};
use spoke_service::{redis_metrics, session_metrics::SessionMetrics};
use spoke_store::{Redis, driver::SessionError, presence::Transport};

use crate::{hub::Hub, paths::Weak};

/// What all names begin with.
const SERVICE: &str = "spoke_hub";
/// The routes that are counted.
const ROUTES: [&str; 5] = ["seq", "session", "sync", "xadd", "xread"];
/// How sessions end beside the reasons of a GOAWAY.
const ENDS: [&str; 6] = ["left", "silent", "stalled", "redis", "broken", CLOSED];
/// The other side closed the connection.
pub const CLOSED: &str = "closed";

/// All figures of one hub process.
#[expect(missing_docs, reason = "each is named in `text` with its help")]
pub struct Metrics {
    pub traffic: SessionMetrics,
    pub sessions: CounterVec,
    pub ended: CounterVec,
    pub superseded: Counter,
    pub clones: Counter,
    /// Entries trimmed from the in stream that a consumer group had not read.
    pub trimmed_unread: Counter,
    pub unauthorized: Counter,
    pub store_errors: Counter,
    pub requests: CounterVec,
    started_ms: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let transports = [Transport::WebSocket, Transport::Http];
        Self {
            traffic: SessionMetrics::new(Direction::Down),
            sessions: CounterVec::new(transports.map(Transport::word)),
            ended: CounterVec::new(ENDS.into_iter().chain(GoawayReason::words())),
            superseded: Counter::default(),
            clones: Counter::default(),
            trimmed_unread: Counter::default(),
            unauthorized: Counter::default(),
            store_errors: Counter::default(),
            requests: CounterVec::new(ROUTES),
            started_ms: unix_ms(),
        }
    }
}

/// Why a session is over, in a word.
pub fn end_word(end: &Result<SessionEnd, SessionError>) -> &'static str {
    match end {
        Ok(SessionEnd::ClosedByPeer(goaway)) if goaway.reason == GoawayReason::Restart => "left",
        Ok(SessionEnd::ClosedByPeer(goaway) | SessionEnd::Closed(goaway)) => goaway.reason.word(),
        Ok(SessionEnd::IdleTimeout(_)) => "silent",
        Ok(SessionEnd::AckTimeout) => "stalled",
        Err(SessionError::Store(_)) => "redis",
        Err(SessionError::Transport(_)) => "broken",
        Err(SessionError::Closed) => CLOSED,
    }
}

/// All of a hub's figures in Prometheus's text form.
pub async fn text(hub: &Hub, auth_redis: &Redis) -> String {
    let metrics = &hub.metrics;
    let mut page = MetricsPage::new(SERVICE, env!("CARGO_PKG_VERSION"), metrics.started_ms);
    metrics.traffic.write(&mut page, SERVICE);
    write_waiting(metrics, &mut page);
    metrics.write_sessions(&mut page);
    hub.budget.write(&mut page);
    hub.quota.write(&mut page);
    let Weak { limited, stuck } = hub.paths.weak();
    let help = "Clients that get less at a time, since their links broke under more.";
    page.gauge("spoke_hub_limited_clients", help, &limited);
    let help = "Clients whose link broke under one entry alone, again and again.";
    page.gauge("spoke_hub_stuck_clients", help, &stuck);
    let help = "WebSockets and waiting reads now.";
    page.gauge("spoke_hub_connections", help, &hub.live.count());
    let help = "Connections that the public listener takes at a time.";
    page.gauge("spoke_hub_connections_max", help, &hub.config.connections);
    let own = ("redis", &hub.redis);
    let auth = hub.config.auth_redis.is_some().then_some(("auth_redis", auth_redis));
    let each: Vec<_> = [own].into_iter().chain(auth).collect();
    redis_metrics::write(&mut page, SERVICE, &each);
    let keys = &hub.keys;
    let streams = [("in", keys.inbound()), ("dead", keys.dead()), ("lost", keys.lost())];
    redis_metrics::write_streams(&mut page, SERVICE, &hub.redis, &streams).await;
    page.into_text()
}

fn write_waiting(metrics: &Metrics, page: &mut MetricsPage) {
    let [down, up] = metrics.traffic.waiting();
    let each = [(Direction::Down, down), (Direction::Up, up)];
    SessionMetrics::write_waiting(page, SERVICE, &each, unix_ms());
    let name = "spoke_hub_waiting_sessions";
    page.head("gauge", name, "Sessions here that entries wait for.");
    for (direction, waiting) in each {
        page.sample(name, &[("direction", direction.word())], &waiting.sessions);
    }
}

impl Metrics {
    fn write_sessions(&self, page: &mut MetricsPage) {
        let name = "spoke_hub_sessions_total";
        page.counters(name, "Sessions begun.", "transport", &self.sessions);
        let name = "spoke_hub_sessions_ended_total";
        page.counters(name, "Sessions on WebSockets that are over.", "cause", &self.ended);
        for (name, help, counter) in [
            (
                "spoke_hub_sessions_superseded_total",
                "Sessions ended by a newer one.",
                &self.superseded,
            ),
            (
                "spoke_hub_sessions_refused_clone_total",
                "Sessions refused since another device with the same identity is connected.",
                &self.clones,
            ),
            (
                "spoke_hub_trimmed_unread_total",
                "Entries trimmed from the in stream before a consumer group had read them.",
                &self.trimmed_unread,
            ),
            ("spoke_hub_unauthorized_total", "Requests without a live token.", &self.unauthorized),
            (
                "spoke_hub_store_errors_total",
                "Requests and sessions that failed since redis did not do its part.",
                &self.store_errors,
            ),
        ] {
            page.counter(name, help, counter);
        }
        let name = "spoke_hub_requests_total";
        page.counters(name, "Requests that came.", "route", &self.requests);
    }
}
