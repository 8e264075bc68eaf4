//! What the agent has done, and what is so, for Prometheus.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use spoke_diagnostics::{
    clock::unix_ms,
    metrics::{CounterVec, MetricsPage, Seconds},
};
use spoke_protocol::entry::Direction;
use spoke_service::{
    limits::SCRAPE_LOOK_TIMEOUT,
    redis_metrics,
    session_metrics::{BacklogSummary, SessionMetrics},
};
use spoke_store::{Redis, driver::SessionEvent, keys::DeviceKeys};

use crate::{
    enrolment::Wait,
    lifecycle::ending::Cause,
    status::{Board, State},
    store::DeviceStore,
    transport::Kind,
};

/// What all names begin with.
const SERVICE: &str = "spoke_agent";

/// What this agent has done since it started.
#[derive(Debug)]
pub struct Figures {
    /// What it carries.
    pub traffic: SessionMetrics,
    /// Sessions begun, by transport.
    pub(crate) sessions: CounterVec,
    /// Sessions that are over, by cause.
    pub(crate) ended: CounterVec,
    /// Faults, those that repeat included, by cause.
    pub(crate) faults: CounterVec,
    /// Microseconds; 0 while no ping was answered.
    ping_us: AtomicU64,
}

impl Default for Figures {
    fn default() -> Self {
        let causes = Cause::ALL.map(Cause::word);
        Self {
            traffic: SessionMetrics::new(Direction::Up),
            sessions: CounterVec::new([Kind::WebSocket, Kind::Http].map(Kind::word)),
            ended: CounterVec::new(causes),
            faults: CounterVec::new(causes.into_iter().chain(Wait::WORDS)),
            ping_us: AtomicU64::new(0),
        }
    }
}

impl Figures {
    /// A session was shown.
    pub(crate) fn handle(&self, shown: SessionEvent<'_>) {
        if let SessionEvent::Session(session) = shown
            && let Some(round_trip) = session.round_trip()
        {
            let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
            self.ping_us.store(micros, Ordering::Relaxed);
        }
    }
}

/// What a page is made of.
#[derive(Clone)]
pub struct Sources {
    /// The live status.
    pub board: Board,
    /// The device's Redis, and what of it is the agent's.
    pub redis: Redis,
    /// Its keys.
    pub keys: DeviceKeys,
    /// What waits while there is no session.
    pub device: DeviceStore,
}

impl Sources {
    /// All of the agent's figures in Prometheus's text form.
    pub async fn text(&self) -> String {
        let (status, figures) = (self.board.status(), self.board.figures());
        let is_connected = status.state == State::Connected;
        let mut page = MetricsPage::new(SERVICE, &status.version, status.started_at_ms);
        let help = "1 while a session with the hub is up.";
        page.gauge("spoke_agent_connected", help, &u8::from(is_connected));
        let help = "1 once this device has registered.";
        page.gauge("spoke_agent_registered", help, &u8::from(status.is_registered));
        let help = "Sessions in a row that were given up since nothing was acknowledged.";
        page.gauge("spoke_agent_stalled_sessions", help, &status.stalled_sessions);
        let help = "1 while an entry does not get through to the hub although it goes alone.";
        page.gauge("spoke_agent_stuck_entries", help, &u8::from(status.stuck.is_some()));
        let name = "spoke_agent_sessions_total";
        page.counters(name, "Sessions begun.", "transport", &figures.sessions);
        let name = "spoke_agent_sessions_ended_total";
        page.counters(name, "Sessions that are over.", "cause", &figures.ended);
        let name = "spoke_agent_faults_total";
        page.counters(name, "Faults, repeated ones included.", "cause", &figures.faults);
        let ping = Duration::from_micros(figures.ping_us.load(Ordering::Relaxed));
        let help = "From the last ping that the hub answered to its answer; 0 before the first.";
        page.gauge("spoke_agent_ping_seconds", help, &Seconds(ping));
        figures.traffic.write(&mut page, SERVICE);
        let waiting = self.waiting(is_connected).await;
        SessionMetrics::write_waiting(&mut page, SERVICE, &waiting, unix_ms());
        redis_metrics::write(&mut page, SERVICE, &[("redis", &self.redis)]);
        let keys = &self.keys;
        let streams = [
            ("out", keys.out()),
            ("in", keys.inbound()),
            ("dead", keys.dead()),
            ("lost", keys.lost()),
        ];
        redis_metrics::write_streams(&mut page, SERVICE, &self.redis, &streams).await;
        page.into_text()
    }

    /// Of the way down nothing is known without a session, and of the way up nothing without Redis.
    async fn waiting(&self, is_connected: bool) -> Vec<(Direction, BacklogSummary)> {
        if is_connected {
            let [up, down] = self.board.figures().traffic.waiting();
            return vec![(Direction::Up, up), (Direction::Down, down)];
        }
        match tokio::time::timeout(SCRAPE_LOOK_TIMEOUT, self.device.backlog()).await {
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
