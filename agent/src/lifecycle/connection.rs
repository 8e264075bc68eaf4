//! One connection: read the positions of the streams, dial, exchange HELLO and WELCOME, run the
//! session.

use std::{
    convert::Infallible,
    sync::PoisonError,
    time::{Duration, Instant},
};

use spoke_diagnostics::{OutageLog, error_chain, unix_ms};
use spoke_protocol::{
    Direction, EntryLimits, Epoch, Partner, PartnerId, PartnerMatch, Seq,
    limits::{HEARTBEAT, IDLE_TIMEOUT},
    message::{Cursor, Features, Goaway, GoawayReason, Hello, MAJOR, MINOR, OriginState},
    sync::{
        Heartbeat, OriginStanding, PathFinding, PeerClock, Receiver, ResumeFinding, Sender,
        Session, SessionEnd, SessionEnding,
    },
};
use spoke_service::{Shutdown, config::ServiceUrl, limits::HANDSHAKE_TIMEOUT};
use spoke_store::{
    StartWith, StoreError,
    driver::{SessionEvent, SessionOutcome, SessionStores, StreamSide, drive},
};
use tokio::sync::Notify;
use tracing::{Instrument, info, info_span, warn};

use super::{Lifecycle, handshake::handshake};
use crate::{
    auth_flow::TokenSerial,
    dial::websocket::open_websocket,
    disconnect::{Disconnect, DisconnectCause},
    limits::OWN_REDIS_RETRY,
    status::{StatusHandle, StoppedStreams},
    transport::{FrameChannel, TransportKind, http::http_frames, websocket::websocket_frames},
};

/// The outcome of an attempt to connect.
pub(super) struct ConnectAttempt {
    pub(super) disconnect: Disconnect,
    pub(super) kind: TransportKind,
    /// The token of the attempt.
    pub(super) serial: TokenSerial,
    /// The session, if WELCOME was received.
    pub(super) session: Option<SessionResult>,
}

/// A session that ended.
pub(super) struct SessionResult {
    pub(super) duration: Duration,
    /// Entries of both directions.
    pub(super) carried: u64,
    pub(super) progress: SessionProgress,
}

/// Whether a session shows that its transport works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionProgress {
    /// Entries were carried.
    Made,
    /// The session broke, and carried none of the waiting entries.
    None,
    /// No entries waited, or the session did not break.
    Unknown,
}

/// A connection after the handshake.
struct HubConnection {
    channel: FrameChannel,
    session: Box<Session>,
    generation: u64,
    epoch: Epoch,
    /// The hub's origin, and the cursor of the copy on this device.
    hub_origin: OriginState,
    cursor: Cursor,
}

/// The shortest and the longest heartbeat, whatever the hub requests.
const HEARTBEATS: (Duration, Duration) = (Duration::from_secs(1), HEARTBEAT);
/// A session of this duration shows that Redis works again.
const REDIS_STABLE: Duration = Duration::from_secs(2);
/// The watchdog deadline of a session, which makes progress at each heartbeat, or ends.
const SESSION_TIMEOUT: Duration = Duration::from_secs(2 * IDLE_TIMEOUT.as_secs());

impl Lifecycle {
    pub(super) async fn connect(&mut self) -> ConnectAttempt {
        let kind = self.transport.kind(Instant::now());
        let Some((token, serial)) = self.parts.authenticator.token() else {
            unreachable!("the auth flow connects only with a token");
        };
        let shutdown = self.parts.shutdown.clone();
        let opened = tokio::select! {
            () = shutdown.begun() => Err(Disconnect::new(DisconnectCause::Left, SHUTTING_DOWN)),
            opened = self.open(kind, &token) => opened,
        };
        match opened {
            Ok(open) => {
                let client = self.parts.account.client.clone();
                let span = info_span!("session", %client, session = open.generation);
                let (disconnect, session) = self.carry(kind, open).instrument(span).await;
                ConnectAttempt { disconnect, kind, serial, session: Some(session) }
            }
            Err(disconnect) => ConnectAttempt { disconnect, kind, serial, session: None },
        }
    }

    /// Establishes a session. Checks the device's Redis first: without it there is nothing to
    /// carry.
    async fn open(
        &mut self,
        kind: TransportKind,
        token: &secrecy::SecretString,
    ) -> Result<HubConnection, Disconnect> {
        let features = match self.parts.config.compression {
            true => Features::COMPRESSION,
            false => Features::default(),
        };
        match self.parts.redis.probe().await {
            // A full Redis is no obstacle: sent and trimmed entries free memory.
            Err(error) if !error.is_full() => return Err(Disconnect::from(&error)),
            _ => {}
        }
        let (standing, cursor) =
            self.read_positions().await.map_err(|error| Disconnect::from(&error))?;
        let origin = standing.origin_state();
        let partner = standing.memory.partner.map_or(PartnerId::UNKNOWN, |partner| partner.id);
        let hub = &self.parts.account.hub;
        let mut channel = match kind {
            TransportKind::WebSocket => {
                let opened = open_websocket(&self.parts.dialer, hub, token).await;
                let (socket, activity) = opened.map_err(|error| Disconnect::from(&error))?;
                websocket_frames(socket, activity, features)
            }
            TransportKind::Http => {
                http_frames(self.parts.http.clone(), self.parts.authenticator.tokens())
            }
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let (major, minor, instance) = (MAJOR, MINOR, self.instance);
        let hello = Hello { major, minor, version, origin, cursor, features, instance, partner };
        let welcome = handshake(&mut channel, hello);
        let welcome =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, welcome).await.unwrap_or_else(|_| {
                Err(Disconnect::new(DisconnectCause::Broken, "no WELCOME within the time limit"))
            })?;
        let address = format!("{} {}", self.parts.account.client, self.parts.account.hub);
        let partner = Some(Partner { id: welcome.partner, address });
        // A hub without an ID leaves the remembered partner unchanged.
        let partner = partner.filter(|partner| partner.id.is_known());
        let with = StartWith { partner_match: PartnerMatch::Same, partner };
        let begun = self.origin.start_sender(&welcome.cursor, &with, unix_ms()).await;
        let begun = begun.map_err(|error| Disconnect::from(&error))?;
        match begun.position.finding {
            ResumeFinding::Agree => {}
            ResumeFinding::CopyRewound => warn!(
                from = %begun.position.after,
                "hub lost acknowledged entries; sending the entries in the out stream again"
            ),
            ResumeFinding::OriginReplaced => warn!(
                epoch = %begun.position.epoch,
                from = %begun.position.after,
                "out stream was wiped, rewound or replaced; starting a new epoch"
            ),
            ResumeFinding::NewPartner => info!(
                epoch = %begun.position.epoch,
                from = %begun.position.after,
                "hub or client name changed; sending the waiting entries in a new epoch"
            ),
            ResumeFinding::ForeignCursor => {
                let (epoch, cursor) = (begun.position.epoch, welcome.cursor.seq);
                warn!(
                    %epoch,
                    %cursor,
                    from = %begun.position.after,
                    help = "revoke this client and provision it again",
                    "hub cursor was moved by another holder of this device's credentials; \
                     starting a new epoch"
                );
                let message =
                    "the hub's cursor was moved by another holder of this device's credentials";
                self.parts.status.post_fault(DisconnectCause::ForeignCursor.word(), message);
            }
        }
        let losses = begun.position.loss.iter();
        losses.for_each(|loss| self.parts.status.metrics().traffic.sent.handle_loss(loss));
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms);
        let heartbeat = Heartbeat::Pings(heartbeat.clamp(HEARTBEATS.0, HEARTBEATS.1));
        let trim = self.parts.config.trim();
        let clock = PeerClock { unix_ms: welcome.server_time_ms, received_at: Instant::now() };
        let epoch = begun.position.epoch;
        if !begun.standing.is_unreadable {
            self.handle_begun((epoch, begun.position.after));
        }
        self.parts.status.clear_stopped();
        let (granted, budget) = (welcome.granted, self.parts.config.budget);
        let granted = budget.map_or(granted, |budget| budget.limited(granted));
        let sender = Sender::new(Direction::Up, granted, trim, &begun)
            .with_stop_after(self.pass.last())
            .with_peer_clock(clock)
            .with_path(&self.path)
            .with_delay(self.hold_until(kind));
        let at = cursor.confirmed();
        let receiver = Receiver::new(Direction::Down, EntryLimits::default(), at);
        let session = Session::new(sender, receiver, heartbeat, Instant::now())
            .with_progress_timeout(self.parts.config.progress_timeout());
        let (generation, hub_origin) = (welcome.generation, welcome.origin);
        let session = Box::new(session);
        Ok(HubConnection { channel, session, generation, epoch, hub_origin, cursor })
    }

    /// Learns from the hub's cursor whether the last session's entries arrived.
    fn handle_begun(&mut self, at: (Epoch, Seq)) {
        if self.path.handle_start(at) == PathFinding::Progress {
            self.connect_retry.reset();
            self.transport.handle_arrived();
        }
        self.parts.status.post_stuck(self.path.stuck());
    }

    /// Over HTTP the two directions have separate connections, so none has to wait.
    fn hold_until(&self, kind: TransportKind) -> Option<Instant> {
        match kind {
            TransportKind::WebSocket => self.path.delay_until(Instant::now(), rand::random()),
            TransportKind::Http => None,
        }
    }

    async fn read_positions(&self) -> Result<(OriginStanding, Cursor), StoreError> {
        tokio::try_join!(self.origin.last_known_standing(), self.copy.cursor_or_search())
    }

    async fn carry(
        &mut self,
        kind: TransportKind,
        open: HubConnection,
    ) -> (Disconnect, SessionResult) {
        let HubConnection { channel, session, generation, epoch, hub_origin, cursor } = open;
        let began = Instant::now();
        self.handle_welcomed(kind, generation);
        let Self { parts, origin, copy, transport, path, outage, is_redis_suspect, pass, .. } =
            self;
        let urgent_sent = Notify::new();
        let connected = log_connected(parts.account.hub.clone(), kind, outage, *is_redis_suspect);
        let before = parts.status.status().counts;
        let news = parts.hints.watch_stream(origin.key());
        let copy = copy.for_session();
        let stores = SessionStores {
            origin,
            copy: &copy,
            news: &news,
            epoch,
            return_wait: &|| OWN_REDIS_RETRY,
        };
        let until = transport.poll_timeout().filter(|_| kind == TransportKind::Http);
        let (status, watchdog) = (&parts.status, &parts.watchdog);
        let mut observer = status.metrics().traffic.observe(&hub_origin, &cursor);
        let mut stuck = path.stuck();
        let report = |event: SessionEvent<'_>| {
            observer.handle(event, unix_ms);
            status.metrics().handle(event);
            match event {
                SessionEvent::Unusable(side, error) => {
                    status.post_stopped(stopped_field(side), Some(&error_chain(error)))
                }
                SessionEvent::Usable(side) => status.post_stopped(stopped_field(side), None),
                SessionEvent::Work(_) | SessionEvent::Session(_) => {}
            }
            let SessionEvent::Session(session) = event else { return };
            post_stopped(status, session);
            status.post_session(before, session);
            if stuck.take_if(|stuck| stuck.seq <= session.sender().acked()).is_some() {
                status.post_stuck(None);
            }
            let mut watchdog = watchdog.lock().unwrap_or_else(PoisonError::into_inner);
            watchdog.handle_progress(Instant::now(), SESSION_TIMEOUT);
            if session.sender().acked_entries() > 0 {
                watchdog.handle_acknowledged();
            }
            if pass.last().is_some_and(|last| session.sender().acked() >= last) {
                urgent_sent.notify_one();
            }
        };
        let FrameChannel { frames, outbox, activity } = channel;
        let leave = async {
            tokio::select! {
                goaway = leave(parts.shutdown.clone(), until) => goaway,
                () = status.budget_spent(*pass) => parting("the traffic budget is used up"),
                () = urgent_sent.notified() => parting("the urgent entries are sent"),
            }
        };
        let outcome = tokio::select! {
            outcome = drive(session, stores, frames, outbox, || activity.at(), leave, report) => outcome,
            never = connected => match never {},
            never = parts.authenticator.keep_fresh(|error| status.post_unsaved_state(error)) => match never {},
        };
        path.handle_end(&outcome.session.sender().summary(), outcome.parting());
        if matches!(&outcome.end, Ok(SessionEnd::ClosedByPeer(goaway)) if goaway.reason == GoawayReason::Restart)
        {
            status.post_stopped(|stopped| &mut stopped.hub, None);
        }
        let carried =
            outcome.session.sender().acked_entries() + outcome.session.receiver().received();
        let progress = progress(&outcome, (hub_origin.last, cursor.confirmed().1));
        let result = SessionResult { duration: began.elapsed(), carried, progress };
        (Disconnect::from_session(&outcome.end), result)
    }

    fn handle_welcomed(&mut self, kind: TransportKind, generation: u64) {
        self.parts.authenticator.handle_welcomed();
        self.transport.handle_welcomed(kind);
        self.refused_retry.reset();
        self.parts.status.post_connected(kind, generation);
    }
}

/// Logs the connection and the end of an outage. After a Redis failure, logs only once the session
/// has lasted for [`REDIS_STABLE`]. Never returns.
async fn log_connected(
    hub: ServiceUrl,
    kind: TransportKind,
    outage: &mut OutageLog,
    is_redis_suspect: bool,
) -> Infallible {
    if is_redis_suspect {
        tokio::time::sleep(REDIS_STABLE).await;
    }
    let transport = kind.word();
    match outage.handle_recovery(Instant::now()) {
        Some(outage) => {
            let down_for_seconds = outage.duration.as_secs();
            info!(%hub, transport, count = outage.count, down_for_seconds, "reconnected to hub");
        }
        None => info!(%hub, transport, "connected to hub"),
    }
    std::future::pending().await
}

/// Posts the streams that cannot be used, as the session shows them.
fn post_stopped(status: &StatusHandle, session: &Session) {
    if let Some(reason) = session.hold_reason() {
        status.post_stopped(
            |stopped| &mut stopped.hub,
            Some(&format!("reported by the hub: {reason}")),
        );
    }
    if !session.sender().is_unreadable() {
        status.post_stopped(stopped_field(StreamSide::Out), None);
    }
}

fn stopped_field(side: StreamSide) -> fn(&mut StoppedStreams) -> &mut Option<String> {
    match side {
        StreamSide::Out => |stopped| &mut stopped.out,
        StreamSide::In => |stopped| &mut stopped.r#in,
    }
}

/// Returns whether each direction with waiting entries made progress.
fn progress(outcome: &SessionOutcome, (last, cursor): (Seq, Seq)) -> SessionProgress {
    let (sender, received) = (outcome.session.sender(), outcome.session.receiver().received());
    let is_up_stuck = !sender.summary().has_progress() && sender.backlog().0 > 0;
    let is_down_stuck = last > cursor && outcome.session.receiver().ack().seq <= cursor;
    match outcome.parting() {
        SessionEnding::Broken if is_up_stuck || is_down_stuck => SessionProgress::None,
        _ if sender.acked_entries() + received > 0 => SessionProgress::Made,
        SessionEnding::Broken | SessionEnding::Closed => SessionProgress::Unknown,
    }
}

const SHUTTING_DOWN: &str = "agent is shutting down";

/// Resolves when the shutdown begins, or when it is time to try another transport.
async fn leave(shutdown: Shutdown, until: Option<Instant>) -> Goaway {
    let retry = async {
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    let message = tokio::select! {
        () = shutdown.begun() => SHUTTING_DOWN,
        () = retry => "retrying a websocket",
    };
    parting(message)
}

fn parting(message: &str) -> Goaway {
    Goaway { reason: GoawayReason::Restart, message: message.to_owned(), wait_ms: 0 }
}
