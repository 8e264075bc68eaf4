//! Counters of what the agent has done since it started, for Prometheus.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use spoke_diagnostics::metrics::CounterVec;
use spoke_protocol::Direction;
use spoke_service::SessionMetrics;
use spoke_store::driver::SessionEvent;

use crate::{auth_flow::AuthWait, disconnect::DisconnectCause, transport::TransportKind};

/// Counters since the agent started.
#[derive(Debug)]
pub(crate) struct AgentMetrics {
    /// Entries, batches and losses of both directions.
    pub traffic: SessionMetrics,
    /// Sessions that reached WELCOME, by transport.
    pub(crate) sessions: CounterVec,
    /// Sessions that ended, by cause.
    pub(crate) ended: CounterVec,
    /// Faults, repeated ones included, by cause.
    pub(crate) faults: CounterVec,
    /// Round-trip time in microseconds; 0 before the first answered ping.
    ping_us: AtomicU64,
}

impl Default for AgentMetrics {
    fn default() -> Self {
        let causes = DisconnectCause::ALL.map(DisconnectCause::word);
        Self {
            traffic: SessionMetrics::new(Direction::Up),
            sessions: CounterVec::new(
                [TransportKind::WebSocket, TransportKind::Http].map(TransportKind::word),
            ),
            ended: CounterVec::new(causes),
            faults: CounterVec::new(causes.into_iter().chain(AuthWait::WORDS)),
            ping_us: AtomicU64::new(0),
        }
    }
}

impl AgentMetrics {
    /// Records the round-trip time of a session.
    pub(crate) fn handle(&self, event: SessionEvent<'_>) {
        if let SessionEvent::Session(session) = event
            && let Some(round_trip) = session.round_trip()
        {
            let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
            self.ping_us.store(micros, Ordering::Relaxed);
        }
    }

    /// Returns the round-trip time of the last answered ping; zero before the first.
    pub(crate) fn ping(&self) -> Duration {
        Duration::from_micros(self.ping_us.load(Ordering::Relaxed))
    }
}
