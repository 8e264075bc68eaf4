//! The metrics page.

use futures_util::future::join_all;
use spoke_diagnostics::{metrics::MetricsPage, unix_ms};
use spoke_protocol::Direction;
use spoke_service::{SessionMetrics, redis_metrics};
use spoke_store::{Redis, probe::ready};

use super::HubMetrics;
use crate::{
    config::HubConfig,
    link_paths::{LinkPaths, WeakLinkCounts},
    memory_budget::MemoryBudget,
    partitions::HubPartitions,
    quota::RedisQuota,
};

/// Prefix of all metric names.
const SERVICE: &str = "spoke_hub";

/// Sources of the values on the page.
#[derive(Clone, Copy)]
pub(crate) struct HubMetricsSources<'a> {
    /// Counters.
    pub metrics: &'a HubMetrics,
    /// Memory budget.
    pub budget: &'a MemoryBudget,
    /// Rate limits per client.
    pub quota: &'a RedisQuota,
    /// Link state of all clients.
    pub link_paths: &'a LinkPaths,
    /// Number of open connections.
    pub connections: usize,
    /// Settings.
    pub config: &'a HubConfig,
    /// The streams and the state of all clients.
    pub partitions: &'a HubPartitions,
    /// Redis that holds auth's sessions, if it is another one.
    pub auth_redis: Option<&'a Redis>,
}

/// Returns all metrics in Prometheus's text format.
pub(crate) async fn text(sources: HubMetricsSources<'_>) -> String {
    let HubMetricsSources { metrics, config, partitions, .. } = sources;
    let mut page = MetricsPage::new(SERVICE, env!("CARGO_PKG_VERSION"), metrics.started_ms);
    metrics.traffic.write(&mut page, SERVICE);
    write_waiting(metrics, &mut page);
    write_sessions(metrics, &mut page);
    sources.budget.write(&mut page);
    sources.quota.write(&mut page);
    let WeakLinkCounts { limited, stuck } = sources.link_paths.weak();
    let help = "Clients that get smaller batches, since their links failed with larger ones.";
    page.gauge("spoke_hub_limited_clients", help, &limited);
    let help = "Clients whose link repeatedly failed with a single entry.";
    page.gauge("spoke_hub_stuck_clients", help, &stuck);
    let help = "Open WebSockets and waiting reads.";
    page.gauge("spoke_hub_connections", help, &sources.connections);
    let help = "Maximum connections of the public listener.";
    page.gauge("spoke_hub_connections_max", help, &config.connections);
    let auth_redis = sources.auth_redis.map(|auth_redis| ("auth_redis", auth_redis));
    let redis = partitions.all()[0].redis();
    let each: Vec<_> = [("redis", redis)].into_iter().chain(auth_redis).collect();
    redis_metrics::write(&mut page, SERVICE, &each);
    write_partitions(partitions, &mut page).await;
    page.into_text()
}

/// Writes whether Redis takes writes, and the streams of all partitions together. One that does not answer is left out.
async fn write_partitions(partitions: &HubPartitions, page: &mut MetricsPage) {
    let all = partitions.all();
    let is_up = match all {
        [one] => ready(one.redis()).await.is_ok(),
        _ => partitions.down().0 == 0,
    };
    redis_metrics::write_up(page, SERVICE, is_up);
    let help = "Partitions of the fleet.";
    page.gauge("spoke_hub_partitions", help, &all.len());
    let help = "Partitions whose clients wait, since writes to them fail.";
    page.gauge("spoke_hub_partitions_down", help, &partitions.down().0);
    let lengths = all.iter().map(|partition| {
        let keys = partition.keys();
        redis_metrics::lengths(partition.redis(), [keys.inbound(), keys.dead(), keys.lost()])
    });
    let each = join_all(lengths).await.into_iter().flatten();
    let add = |sums: [u64; 3], lengths: [u64; 3]| std::array::from_fn(|at| sums[at] + lengths[at]);
    let sums = each.reduce(add).into_iter().flatten();
    let each: Vec<_> = ["in", "dead", "lost"].into_iter().zip(sums).collect();
    redis_metrics::write_lengths(page, SERVICE, &each);
}

fn write_waiting(metrics: &HubMetrics, page: &mut MetricsPage) {
    let [down, up] = metrics.traffic.waiting();
    let each = [(Direction::Down, down), (Direction::Up, up)];
    SessionMetrics::write_waiting(page, SERVICE, &each, unix_ms());
    let name = "spoke_hub_waiting_sessions";
    page.head("gauge", name, "Sessions here with waiting entries.");
    for (direction, waiting) in each {
        page.sample(name, &[("direction", direction.word())], &waiting.sessions);
    }
}

fn write_sessions(metrics: &HubMetrics, page: &mut MetricsPage) {
    let name = "spoke_hub_sessions_total";
    page.counters(name, "Sessions started.", "transport", &metrics.sessions);
    let name = "spoke_hub_sessions_ended_total";
    page.counters(name, "Ended WebSocket sessions.", "cause", &metrics.ended);
    for (name, help, counter) in [
        (
            "spoke_hub_sessions_superseded_total",
            "Sessions superseded by a newer one.",
            &metrics.superseded,
        ),
        (
            "spoke_hub_sessions_refused_clone_total",
            "Sessions refused because another device with the same identity is connected.",
            &metrics.clones,
        ),
        (
            "spoke_hub_trimmed_unread_total",
            "Entries trimmed from the in stream before a consumer group had read them.",
            &metrics.trimmed_unread,
        ),
        ("spoke_hub_unauthorized_total", "Requests without a valid token.", &metrics.unauthorized),
        (
            "spoke_hub_store_errors_total",
            "Requests and sessions that failed because of redis.",
            &metrics.store_errors,
        ),
    ] {
        page.counter(name, help, counter);
    }
    let name = "spoke_hub_requests_total";
    page.counters(name, "Received requests.", "route", &metrics.requests);
}
