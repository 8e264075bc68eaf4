//! What the agent knows of itself right now: for `GET /status`, readiness, figures and systemd.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spoke_diagnostics::clock::unix_ms;
use spoke_protocol::{
    seq::Seq,
    sync::{sender::path::StuckEntry, session::Session},
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{config::Account, enrolment::Step, figures::Figures, transport::Kind};

/// The live status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The identity of this device.
    pub client: String,
    /// The agent's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// When it started, in milliseconds since 1970, as all times here.
    pub started_at_ms: u64,
    /// Where the hub is.
    pub hub: String,
    /// Where auth is.
    pub auth: String,
    /// Whether this device has registered.
    pub is_registered: bool,
    /// What the agent is at.
    pub state: State,
    /// Since when.
    pub since_ms: u64,
    /// Why it waits, where it does.
    pub why: Option<Trouble>,
    /// When it tries again, where it waits.
    pub next_try_ms: Option<u64>,
    /// How it is connected, where it is.
    pub transport: Option<Kind>,
    /// The generation of the session, where it is connected.
    pub generation: Option<u64>,
    /// How many sessions in a row were given up since the hub acknowledged nothing; 0 once it does.
    #[serde(default)]
    pub stalled_sessions: u32,
    /// Why the state directory does not hold what auth said, where that is so.
    #[serde(default)]
    pub unkept: Option<String>,
    /// The first entry that waits since it is further ahead of the hub's clock than the hub takes.
    #[serde(default)]
    pub held_back: Option<Seq>,
    /// The entry that does not get through to the hub although it goes alone.
    #[serde(default)]
    pub stuck: Option<StuckEntry>,
    /// Why what goes one way stands still, where that is so.
    #[serde(default)]
    pub stopped: Stopped,
    /// The last fault, be it over or not.
    pub last_error: Option<Trouble>,
    /// Counts since the process started.
    pub counts: Counts,
}

/// Why streams cannot be used: each of this device's, and those at the hub.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stopped {
    /// What this device sends cannot be read.
    pub out: Option<String>,
    /// What it gets cannot be written.
    pub r#in: Option<String>,
    /// The hub says that it takes nothing.
    pub hub: Option<String>,
}

/// What the agent is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has just started.
    Starting,
    /// It registers.
    Registering,
    /// It logs in.
    LoggingIn,
    /// It connects to the hub.
    Connecting,
    /// It carries entries.
    Connected,
    /// It waits for the next try.
    Waiting,
    /// It stops.
    Stopping,
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// The stable word.
    pub cause: String,
    /// What a person should read.
    pub message: String,
    /// When.
    pub at_ms: u64,
}

/// Counts since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Sessions that got as far as WELCOME.
    pub sessions: u64,
    /// Faults, those that repeat included.
    pub faults: u64,
    /// Entries that the hub acknowledged.
    pub carried_up: u64,
    /// Entries that came from the hub.
    pub carried_down: u64,
    /// Entries that came again and were passed over.
    pub duplicates_down: u64,
    /// Entries of this device that were found lost.
    pub lost_up: u64,
    /// Entries for this device that the hub told to be lost.
    pub lost_down: u64,
}

impl State {
    /// For a person.
    pub fn words(self) -> &'static str {
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

/// Where the live status is posted and read. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Board {
    status: watch::Sender<Status>,
    figures: Arc<Figures>,
}

impl Board {
    /// The status of an agent that has just started.
    pub fn new(account: &Account) -> Self {
        let now = unix_ms();
        let status = Status {
            client: account.client.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at_ms: now,
            hub: account.hub.to_string(),
            auth: account.auth.to_string(),
            is_registered: false,
            state: State::Starting,
            since_ms: now,
            why: None,
            next_try_ms: None,
            transport: None,
            generation: None,
            stalled_sessions: 0,
            unkept: None,
            held_back: None,
            stuck: None,
            stopped: Stopped::default(),
            last_error: None,
            counts: Counts::default(),
        };
        Self { status: watch::Sender::new(status), figures: Arc::default() }
    }

    /// The status now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// What it has done since it started.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// For waiting until it changes.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(crate) fn post_step(&self, step: Step, is_registered: bool) {
        let state = match step {
            Step::Register { .. } => State::Registering,
            Step::LogIn | Step::Refresh => State::LoggingIn,
            Step::Connect => State::Connecting,
            Step::Wait(_) => State::Waiting,
        };
        self.post(state, |status| status.is_registered = is_registered);
    }

    pub(crate) fn post_connected(&self, transport: Kind, generation: u64) {
        self.figures.sessions.add(transport.word(), 1);
        self.post(State::Connected, |status| {
            status.transport = Some(transport);
            status.generation = Some(generation);
            status.counts.sessions += 1;
        });
    }

    pub(crate) fn post_fault(&self, cause: &'static str, message: &str) {
        self.figures.faults.add(cause, 1);
        let (cause, message) = (cause.to_owned(), message.to_owned());
        self.status.send_modify(|status| {
            status.counts.faults += 1;
            status.last_error = Some(Trouble { cause, message, at_ms: unix_ms() });
        });
    }

    pub(crate) fn post_unkept(&self, why: Option<&str>) {
        self.status.send_if_modified(|status| {
            let is_news = status.unkept.as_deref() != why;
            status.unkept = why.map(str::to_owned);
            is_news
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

    /// One direction stands still for this reason, or goes on.
    pub(crate) fn post_stopped(
        &self,
        of: impl FnOnce(&mut Stopped) -> &mut Option<String>,
        why: Option<&str>,
    ) {
        self.status.send_if_modified(|status| {
            let place = of(&mut status.stopped);
            if place.as_deref() == why {
                return false;
            }
            match why {
                Some(error) => warn!(error, "stream cannot be used; the other direction goes on"),
                None => info!("stream can be used again"),
            }
            *place = why.map(str::to_owned);
            true
        });
    }

    /// A new session finds out for itself what takes entries.
    pub(crate) fn forget_stopped(&self) {
        self.status.send_if_modified(|status| {
            let Stopped { r#in, hub, .. } = &mut status.stopped;
            r#in.take().is_some() | hub.take().is_some()
        });
    }

    pub(crate) fn post_waiting(&self, next_try_ms: u64) {
        self.post(State::Waiting, |status| {
            status.why = status.last_error.clone();
            status.next_try_ms = Some(next_try_ms);
        });
    }

    pub(crate) fn post_stopping(&self) {
        self.post(State::Stopping, |_| {});
    }

    /// After each event of a session. Wakes nobody: there may be thousands a second.
    pub(crate) fn post_figures(&self, before: Counts, session: &Session) {
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
                    "entries are held back: their IDs are more than 24 hours ahead of the hub's clock; \
                     mend this device's clock, and see the troubleshooting guide"
                ),
                (Some(_), None) => info!("entries are no longer held back"),
                (None, None) | (Some(_), Some(_)) => {}
            }
            false
        });
    }

    fn post(&self, state: State, change: impl FnOnce(&mut Status)) {
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

    fn board() -> Board {
        Board::new(&Account {
            client: "dev1".parse().unwrap(),
            auth: "https://a".parse().unwrap(),
            hub: "https://h".parse().unwrap(),
        })
    }

    #[test]
    fn a_wait_says_why_and_until_when_and_a_connection_forgets_both() {
        let board = board();
        board.post_fault("unreachable", "no route");
        board.post_waiting(7);
        let waiting = board.status();
        assert_eq!((waiting.state, waiting.next_try_ms), (State::Waiting, Some(7)));
        assert_eq!(waiting.why.unwrap().message, "no route");
        board.post_connected(Kind::Http, 3);
        let connected = board.status();
        assert_eq!((connected.why, connected.next_try_ms), (None, None));
        assert_eq!((connected.transport, connected.generation), (Some(Kind::Http), Some(3)));
        assert_eq!(connected.last_error.unwrap().cause, "unreachable");
    }

    #[test]
    fn a_status_survives_its_json() {
        let status = board().status();
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
