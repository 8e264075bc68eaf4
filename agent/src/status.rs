//! The live status of the agent: for `GET /status`, readiness, metrics and systemd.

mod budget;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spoke_diagnostics::unix_ms;
use spoke_protocol::{
    Seq,
    sync::{Session, StuckEntry},
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    account::DeviceAccount, auth_flow::AuthStep, budget::BudgetUse, metrics::AgentMetrics,
    transport::TransportKind,
};

/// The live status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgentStatus {
    /// The identity of this device.
    pub client: String,
    /// The agent's version.
    pub version: String,
    /// The process ID.
    pub pid: u32,
    /// When it started. All times here are in milliseconds since 1970.
    pub started_at_ms: u64,
    /// The URL of the hub.
    pub hub: String,
    /// The URL of auth.
    pub auth: String,
    /// Whether this device has registered.
    pub is_registered: bool,
    /// What the agent does.
    pub state: AgentState,
    /// When the state began.
    pub since_ms: u64,
    /// The reason to wait, while it waits.
    pub why: Option<Failure>,
    /// The time of the next attempt, while it waits.
    pub next_try_ms: Option<u64>,
    /// The transport, while it is connected.
    pub transport: Option<TransportKind>,
    /// The generation of the session, while it is connected.
    pub generation: Option<u64>,
    /// Consecutive sessions that were closed because the hub acknowledged nothing.
    #[serde(default)]
    pub stalled_sessions: u32,
    /// The error, while the state directory does not hold the registration and the session.
    #[serde(default)]
    pub unsaved_state: Option<String>,
    /// The first entry that waits because its ID is further ahead of the hub's clock than the hub
    /// accepts.
    #[serde(default)]
    pub held_back: Option<Seq>,
    /// The entry that does not get through to the hub although it is sent alone.
    #[serde(default)]
    pub stuck: Option<StuckEntry>,
    /// The streams that cannot be used.
    #[serde(default)]
    pub stopped: StoppedStreams,
    /// What is used of the traffic budget, if there is one.
    #[serde(default)]
    pub budget: Option<BudgetUse>,
    /// The last fault, whether it is over or not.
    pub last_error: Option<Failure>,
    /// Counts since the process started.
    pub counts: StatusCounts,
}

/// The error of each stream that cannot be used: of this device, and of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct StoppedStreams {
    /// The out stream of this device cannot be read.
    pub out: Option<String>,
    /// The in stream of this device cannot be written.
    pub r#in: Option<String>,
    /// The hub reports that it accepts no entries.
    pub hub: Option<String>,
}

/// What the agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AgentState {
    /// The agent has just started.
    Starting,
    /// It registers with auth.
    Registering,
    /// It logs in or refreshes its token.
    LoggingIn,
    /// It connects to the hub.
    Connecting,
    /// A session is established.
    Connected,
    /// It waits for the next attempt.
    Waiting,
    /// It shuts down.
    Stopping,
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    /// The stable word of the cause.
    pub cause: String,
    /// The error for the operator.
    pub message: String,
    /// The time of the fault.
    pub at_ms: u64,
}

/// Counts since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusCounts {
    /// Sessions that reached WELCOME.
    pub sessions: u64,
    /// Faults, repeated ones included.
    pub faults: u64,
    /// Entries that the hub acknowledged.
    pub carried_up: u64,
    /// Entries received from the hub.
    pub carried_down: u64,
    /// Duplicates that were discarded.
    pub duplicates_down: u64,
    /// Lost entries of this device.
    pub lost_up: u64,
    /// Entries for this device that the hub reported as lost.
    pub lost_down: u64,
}

impl AgentState {
    /// Returns the state as text for the operator.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Registering => "registering",
            Self::LoggingIn => "logging in",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Waiting => "waiting",
            Self::Stopping => "stopping",
        }
    }
}

/// Shared access to the live status and the metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct StatusHandle {
    status: watch::Sender<AgentStatus>,
    metrics: Arc<AgentMetrics>,
}

impl StatusHandle {
    /// Creates the status of an agent that has just started.
    pub(crate) fn new(account: &DeviceAccount) -> Self {
        let now = unix_ms();
        let status = AgentStatus {
            client: account.client.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at_ms: now,
            hub: account.hub.to_string(),
            auth: account.auth.to_string(),
            is_registered: false,
            state: AgentState::Starting,
            since_ms: now,
            why: None,
            next_try_ms: None,
            transport: None,
            generation: None,
            stalled_sessions: 0,
            unsaved_state: None,
            held_back: None,
            stuck: None,
            stopped: StoppedStreams::default(),
            budget: None,
            last_error: None,
            counts: StatusCounts::default(),
        };
        Self { status: watch::Sender::new(status), metrics: Arc::default() }
    }

    /// Returns the current status.
    pub(crate) fn status(&self) -> AgentStatus {
        self.status.borrow().clone()
    }

    /// Returns the counters.
    pub(crate) fn metrics(&self) -> &AgentMetrics {
        &self.metrics
    }

    /// Returns a receiver that is notified when the state changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<AgentStatus> {
        self.status.subscribe()
    }

    pub(crate) fn post_step(&self, step: AuthStep, is_registered: bool) {
        let state = match step {
            AuthStep::Register { .. } => AgentState::Registering,
            AuthStep::LogIn | AuthStep::Refresh => AgentState::LoggingIn,
            AuthStep::Connect => AgentState::Connecting,
            AuthStep::Wait(_) => AgentState::Waiting,
        };
        self.post(state, |status| status.is_registered = is_registered);
    }

    pub(crate) fn post_connected(&self, transport: TransportKind, generation: u64) {
        self.metrics.sessions.add(transport.word(), 1);
        self.post(AgentState::Connected, |status| {
            status.transport = Some(transport);
            status.generation = Some(generation);
            status.counts.sessions += 1;
        });
    }

    pub(crate) fn post_fault(&self, cause: &'static str, message: &str) {
        self.metrics.faults.add(cause, 1);
        let (cause, message) = (cause.to_owned(), message.to_owned());
        self.status.send_modify(|status| {
            status.counts.faults += 1;
            status.last_error = Some(Failure { cause, message, at_ms: unix_ms() });
        });
    }

    pub(crate) fn post_unsaved_state(&self, error: Option<&str>) {
        self.status.send_if_modified(|status| {
            let is_changed = status.unsaved_state.as_deref() != error;
            status.unsaved_state = error.map(str::to_owned);
            is_changed
        });
    }

    pub(crate) fn post_stalled(&self) {
        self.status.send_modify(|status| status.stalled_sessions += 1);
    }

    pub(crate) fn post_stuck(&self, stuck: Option<StuckEntry>) {
        self.status.send_if_modified(|status| {
            let before = std::mem::replace(&mut status.stuck, stuck);
            match (before, stuck) {
                (None, Some(StuckEntry { seq, bytes, sessions })) => {
                    warn!(%seq, bytes, sessions, "entry does not get through the link");
                }
                (Some(StuckEntry { seq, .. }), None) => {
                    info!(%seq, "entries get through the link again");
                }
                (None, None) | (Some(_), Some(_)) => {}
            }
            before != stuck
        });
    }

    /// Records that a stream cannot be used, with the error, or that it can be used again.
    pub(crate) fn post_stopped(
        &self,
        field: impl FnOnce(&mut StoppedStreams) -> &mut Option<String>,
        error: Option<&str>,
    ) {
        self.status.send_if_modified(|status| {
            let stopped = field(&mut status.stopped);
            if stopped.as_deref() == error {
                return false;
            }
            match error {
                Some(error) => warn!(error, "stream cannot be used; the other direction continues"),
                None => info!("stream can be used again"),
            }
            *stopped = error.map(str::to_owned);
            true
        });
    }

    /// Clears what only a session can observe; the next session observes it again.
    pub(crate) fn clear_stopped(&self) {
        self.status.send_if_modified(|status| {
            let StoppedStreams { r#in, hub, .. } = &mut status.stopped;
            r#in.take().is_some() | hub.take().is_some()
        });
    }

    pub(crate) fn post_waiting(&self, next_try_ms: u64) {
        self.post(AgentState::Waiting, |status| {
            status.why = status.last_error.clone();
            status.next_try_ms = Some(next_try_ms);
        });
    }

    pub(crate) fn post_stopping(&self) {
        self.post(AgentState::Stopping, |_| {});
    }

    /// Copies the counters of a session. Does not notify receivers: there may be thousands of
    /// events per second.
    pub(crate) fn post_session(&self, before: StatusCounts, session: &Session) {
        let (received, duplicates) =
            (session.receiver().received(), session.receiver().duplicates());
        self.status.send_if_modified(|status| {
            status.counts.carried_up = before.carried_up + session.sender().acked_entries();
            status.counts.carried_down = before.carried_down + received;
            status.counts.duplicates_down = before.duplicates_down + duplicates;
            status.counts.lost_up = before.lost_up + session.sender().lost_entries();
            status.counts.lost_down = before.lost_down + session.receiver().reported_lost();
            if session.sender().acked_entries() > 0 {
                status.stalled_sessions = 0;
            }
            let ahead = session.sender().ahead_of_clock();
            match (std::mem::replace(&mut status.held_back, ahead), ahead) {
                (None, Some(seq)) => warn!(
                    %seq,
                    help = "set this device's clock, then see the troubleshooting guide",
                    "entries held back: their IDs are more than 24 hours ahead of the hub's clock"
                ),
                (Some(_), None) => info!("entries no longer held back"),
                (None, None) | (Some(_), Some(_)) => {}
            }
            false
        });
    }

    fn post(&self, state: AgentState, change: impl FnOnce(&mut AgentStatus)) {
        self.status.send_modify(|status| {
            if status.state != state {
                (status.state, status.since_ms) = (state, unix_ms());
            }
            (status.why, status.next_try_ms) = (None, None);
            (status.transport, status.generation) = (None, None);
            change(status);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> StatusHandle {
        StatusHandle::new(&DeviceAccount {
            client: "dev1".parse().unwrap(),
            auth: "https://a".parse().unwrap(),
            hub: "https://h".parse().unwrap(),
        })
    }

    #[test]
    fn a_waiting_status_has_a_reason_and_a_next_try_and_connecting_clears_both() {
        let handle = handle();
        handle.post_fault("unreachable", "no route");
        handle.post_waiting(7);
        let waiting = handle.status();
        assert_eq!((waiting.state, waiting.next_try_ms), (AgentState::Waiting, Some(7)));
        assert_eq!(waiting.why.unwrap().message, "no route");
        handle.post_connected(TransportKind::Http, 3);
        let connected = handle.status();
        assert_eq!((connected.why, connected.next_try_ms), (None, None));
        assert_eq!(
            (connected.transport, connected.generation),
            (Some(TransportKind::Http), Some(3))
        );
        assert_eq!(connected.last_error.unwrap().cause, "unreachable");
    }

    #[test]
    fn a_status_round_trips_through_json() {
        let status = handle().status();
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<AgentStatus>(&text).unwrap(), status);
    }
}
