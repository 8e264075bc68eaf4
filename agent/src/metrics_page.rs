//! Writes the metrics page of the agent, for Prometheus.

use spoke_diagnostics::{
    metrics::{MetricsPage, Seconds},
    unix_ms,
};
use spoke_protocol::Direction;
use spoke_service::{BacklogSummary, SessionMetrics, limits::SCRAPE_LOOK_TIMEOUT, redis_metrics};
use spoke_store::{Redis, keys::DeviceKeys, probe::ready};

use crate::{
    device_store::DeviceStore,
    dial::TrafficMeter,
    status::{AgentState, StatusHandle},
};

/// The prefix of all metric names.
const SERVICE: &str = "spoke_agent";

/// The sources of the metrics page.
#[derive(Clone)]
pub(crate) struct AgentMetricsPage {
    /// The live status.
    pub status: StatusHandle,
    /// The device's Redis.
    pub redis: Redis,
    /// The agent's keys in it.
    pub keys: DeviceKeys,
    /// Counts the backlog while there is no session.
    pub device: DeviceStore,
    /// Counts the bytes of all connections.
    pub meter: TrafficMeter,
}

impl AgentMetricsPage {
    /// Returns all metrics in the text format of Prometheus.
    pub(crate) async fn text(&self) -> String {
        let (status, metrics) = (self.status.status(), self.status.metrics());
        let is_connected = status.state == AgentState::Connected;
        let mut page = MetricsPage::new(SERVICE, &status.version, status.started_at_ms);
        let help = "1 while a session with the hub is established.";
        page.gauge("spoke_agent_connected", help, &u8::from(is_connected));
        let help = "1 if this device is registered.";
        page.gauge("spoke_agent_registered", help, &u8::from(status.is_registered));
        let help = "Consecutive sessions that were closed because nothing was acknowledged.";
        page.gauge("spoke_agent_stalled_sessions", help, &status.stalled_sessions);
        let help = "1 while an entry does not get through to the hub although it is sent alone.";
        page.gauge("spoke_agent_stuck_entries", help, &u8::from(status.stuck.is_some()));
        let name = "spoke_agent_wire_bytes_total";
        page.head("counter", name, "Bytes of all connections, with TLS, without TCP and IP.");
        for (direction, bytes) in
            [(Direction::Up, self.meter.sent()), (Direction::Down, self.meter.received())]
        {
            page.sample(name, &[("direction", direction.word())], &bytes);
        }
        let used = status.budget.map_or(0, |usage| usage.used);
        let help = "Bytes used of the traffic budget in this period; 0 without one.";
        page.gauge("spoke_agent_budget_used_bytes", help, &used);
        let bytes = status.budget.map_or(0, |usage| usage.budget.bytes);
        let help = "Bytes of the traffic budget; 0 without one.";
        page.gauge("spoke_agent_budget_bytes", help, &bytes);
        let name = "spoke_agent_sessions_total";
        page.counters(name, "Sessions established.", "transport", &metrics.sessions);
        let name = "spoke_agent_sessions_ended_total";
        page.counters(name, "Sessions ended.", "cause", &metrics.ended);
        let name = "spoke_agent_faults_total";
        page.counters(name, "Faults, repeated ones included.", "cause", &metrics.faults);
        let help = "Round-trip time of the last ping that the hub answered; 0 before the first.";
        page.gauge("spoke_agent_ping_seconds", help, &Seconds(metrics.ping()));
        metrics.traffic.write(&mut page, SERVICE);
        let backlog = self.backlog(is_connected).await;
        SessionMetrics::write_waiting(&mut page, SERVICE, &backlog, unix_ms());
        redis_metrics::write(&mut page, SERVICE, &[("redis", &self.redis)]);
        let keys = &self.keys;
        redis_metrics::write_up(&mut page, SERVICE, ready(&self.redis).await.is_ok());
        let streams = [keys.out(), keys.inbound(), keys.dead(), keys.lost()];
        let lengths = redis_metrics::lengths(&self.redis, streams).await;
        let names = ["out", "in", "dead", "lost"];
        let each: Vec<_> = names.into_iter().zip(lengths.into_iter().flatten()).collect();
        redis_metrics::write_lengths(&mut page, SERVICE, &each);
        page.into_text()
    }

    /// The backlog down is known only during a session, the backlog up only if Redis answers.
    async fn backlog(&self, is_connected: bool) -> Vec<(Direction, BacklogSummary)> {
        if is_connected {
            let [up, down] = self.status.metrics().traffic.waiting();
            return vec![(Direction::Up, up), (Direction::Down, down)];
        }
        match tokio::time::timeout(SCRAPE_LOOK_TIMEOUT, self.device.estimate_backlog()).await {
            Ok(Ok((entries, oldest))) => {
                let oldest_ms = oldest.map(|oldest| oldest.ms);
                vec![(
                    Direction::Up,
                    BacklogSummary { entries, oldest_ms, ..BacklogSummary::default() },
                )]
            }
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}
