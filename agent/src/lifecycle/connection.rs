//! One connection: look where the streams stand, dial, shake hands, carry, part.

use std::{
    convert::Infallible,
    sync::PoisonError,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use spoke_diagnostics::{clock::unix_ms, error_chain::error_chain, tls_error::explain};
use spoke_protocol::{
    entry::{Direction, EntryLimits},
    limits::{HEARTBEAT, IDLE_TIMEOUT},
    message::{
        Cursor, Features, Frame, Goaway, GoawayReason, Hello, MAJOR, MINOR, OriginState, Welcome,
    },
    partner::{Partner, PartnerId, PartnerMatch},
    seq::{Epoch, Seq},
    sync::{
        receiver::Receiver,
        resume::{OriginStanding, ResumeFinding},
        sender::{
            PeerClock, Sender,
            path::{PathFinding, SessionEnding},
        },
        session::{Heartbeat, Session, SessionEnd},
    },
};
use spoke_service::{config::ServiceUrl, limits::HANDSHAKE_TIMEOUT, shutdown::Shutdown};
use spoke_store::{
    StoreError,
    driver::{SessionEvent, SessionOutcome, SessionStores, StreamSide, TransportError, drive},
    origin::StartWith,
};
use tracing::{Instrument, info, info_span, warn};

use super::{
    Lifecycle,
    ending::{Cause, Ending},
    trouble::Trouble,
};
use crate::{
    dial::websocket,
    enrolment::Serial,
    limits::OWN_REDIS_RETRY,
    status::{Board, Stopped},
    transport::{Kind, Line, http, ws},
};

/// How a try to connect went.
pub(super) struct Visit {
    pub(super) ending: Ending,
    pub(super) kind: Kind,
    /// The token it was tried with.
    pub(super) serial: Serial,
    /// Only where it got as far as WELCOME.
    pub(super) welcomed: Option<Welcomed>,
}

pub(super) struct Welcomed {
    pub(super) lived: Duration,
    /// Entries, both ways.
    pub(super) carried: u64,
    pub(super) yielded: Yield,
}

/// What a session shows of its transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Yield {
    /// It carried something.
    Something,
    /// It broke, and carried nothing of what waited.
    Nothing,
    /// Nothing waited, or it did not break.
    Unclear,
}

struct Open {
    line: Line,
    session: Box<Session>,
    generation: u64,
    epoch: Epoch,
    /// The hub's origin and the copy here, as the handshake told.
    there: OriginState,
    cursor: Cursor,
}

/// The fastest and the slowest heartbeat that is kept to, whatever the hub asks for.
const HEARTBEATS: (Duration, Duration) = (Duration::from_secs(1), HEARTBEAT);
/// A store in trouble ends a session before.
const STEADY: Duration = Duration::from_secs(2);
/// A session moves at each heartbeat, or ends.
const MOVE_WITHIN: Duration = Duration::from_secs(2 * IDLE_TIMEOUT.as_secs());

impl Lifecycle {
    pub(super) async fn connect(&mut self) -> Visit {
        let kind = self.choice.kind(Instant::now());
        let Some((token, serial)) = self.parts.access.token() else {
            unreachable!("the enrolment says connect only with a token");
        };
        let shutdown = self.parts.shutdown.clone();
        let opened = tokio::select! {
            () = shutdown.begun() => Err(Ending::new(Cause::Left, STOPS)),
            opened = self.open(kind, &token) => opened,
        };
        match opened {
            Ok(open) => {
                let client = self.parts.account.client.clone();
                let span = info_span!("session", %client, session = open.generation);
                let (ending, welcomed) = self.carry(kind, open).instrument(span).await;
                Visit { ending, kind, serial, welcomed: Some(welcomed) }
            }
            Err(ending) => Visit { ending, kind, serial, welcomed: None },
        }
    }

    /// From nothing to an established session. The device's Redis comes first: without it there is
    /// nothing to carry.
    async fn open(&mut self, kind: Kind, token: &secrecy::SecretString) -> Result<Open, Ending> {
        let features = match self.parts.config.compression {
            true => Features::COMPRESSION,
            false => Features::default(),
        };
        match self.parts.redis.probe().await {
            // What is carried and trimmed is what makes room.
            Err(error) if !error.is_full() => return Err(Ending::from(&error)),
            _ => {}
        }
        let (standing, cursor) = self.stand().await.map_err(|error| Ending::from(&error))?;
        let origin = standing.origin_state();
        let partner = standing.memory.partner.map_or(PartnerId::UNKNOWN, |partner| partner.id);
        let hub = &self.parts.account.hub;
        let mut line = match kind {
            Kind::WebSocket => {
                let dialled = websocket::open(&self.parts.dialer, hub, token).await;
                let (socket, heard) = dialled.map_err(|error| Ending::from(&error))?;
                ws::line(socket, heard, features)
            }
            Kind::Http => http::line(self.parts.http.clone(), self.parts.access.tokens()),
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let (major, minor, instance) = (MAJOR, MINOR, self.instance);
        let hello = Hello { major, minor, version, origin, cursor, features, instance, partner };
        let shaking = shake_hands(&mut line, hello);
        let welcome = tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking)
            .await
            .unwrap_or_else(|_| Err(Ending::new(Cause::Broken, "no WELCOME came in time")))?;
        let place = format!("{} {}", self.parts.account.client, self.parts.account.hub);
        let partner = Some(Partner { id: welcome.partner, address: place });
        // A hub that does not say changes nothing of what is remembered.
        let partner = partner.filter(|partner| partner.id.is_known());
        let with = StartWith { partner_match: PartnerMatch::Same, partner };
        let begun = self.origin.start_sender(&welcome.cursor, &with, unix_ms()).await;
        let begun = begun.map_err(|error| Ending::from(&error))?;
        match begun.position.finding {
            ResumeFinding::Agree => {}
            ResumeFinding::CopyRewound => warn!(
                from = %begun.position.after,
                "the hub has lost entries that it had acknowledged; sending what is still here again"
            ),
            ResumeFinding::OriginReplaced => warn!(
                epoch = %begun.position.epoch,
                from = %begun.position.after,
                "the out stream of this device was wiped, rewound or replaced; a new epoch begins"
            ),
            ResumeFinding::NewPartner => info!(
                epoch = %begun.position.epoch,
                from = %begun.position.after,
                "the hub or the name of this device is not the one from before; waiting entries are sent under a new epoch"
            ),
            ResumeFinding::ForeignCursor => {
                let (epoch, cursor) = (begun.position.epoch, welcome.cursor.seq);
                warn!(
                    %epoch,
                    %cursor,
                    from = %begun.position.after,
                    "the hub's cursor was moved by somebody else with this device's credentials; nothing \
                     was taken for acknowledged, and a new epoch begins: revoke this client and provision \
                     it again"
                );
                let message =
                    "the hub's cursor was moved by somebody else with this device's credentials";
                self.parts.board.post_fault(Cause::ForeignCursor.word(), message);
            }
        }
        let losses = begun.position.loss.iter();
        losses.for_each(|loss| self.parts.board.figures().traffic.sent.handle_loss(loss));
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms);
        let heartbeat = Heartbeat::Pings(heartbeat.clamp(HEARTBEATS.0, HEARTBEATS.1));
        let trim = self.parts.config.trim();
        let clock = PeerClock { unix_ms: welcome.server_time_ms, received_at: Instant::now() };
        let epoch = begun.position.epoch;
        if !begun.standing.is_unreadable {
            self.handle_begun((epoch, begun.position.after));
        }
        self.parts.board.forget_stopped();
        let sender = Sender::new(Direction::Up, welcome.granted, trim, &begun)
            .with_peer_clock(clock)
            .with_path(&self.path)
            .with_delay(self.hold_until(kind));
        let at = cursor.confirmed();
        let receiver = Receiver::new(Direction::Down, EntryLimits::default(), at);
        let session = Session::new(sender, receiver, heartbeat, Instant::now())
            .with_progress_timeout(self.parts.config.progress_timeout());
        let (generation, there) = (welcome.generation, welcome.origin);
        Ok(Open { line, session: Box::new(session), generation, epoch, there, cursor })
    }

    /// Where the hub's cursor stands tells what became of the last session's entries.
    fn handle_begun(&mut self, at: (Epoch, Seq)) {
        if self.path.handle_start(at) == PathFinding::Progress {
            self.connect_retry.reset();
            self.choice.handle_arrived();
        }
        self.parts.board.post_stuck(self.path.stuck());
    }

    /// Over HTTP the two directions have connections of their own.
    fn hold_until(&self, kind: Kind) -> Option<Instant> {
        match kind {
            Kind::WebSocket => self.path.delay_until(Instant::now(), rand::random()),
            Kind::Http => None,
        }
    }

    async fn stand(&self) -> Result<(OriginStanding, Cursor), StoreError> {
        tokio::try_join!(self.origin.last_known_standing(), self.copy.cursor_or_search())
    }

    async fn carry(&mut self, kind: Kind, open: Open) -> (Ending, Welcomed) {
        let Open { line, session, generation, epoch, there, cursor } = open;
        let began = Instant::now();
        self.handle_welcomed(kind, generation);
        let Self { parts, origin, copy, choice, path, trouble, is_store_in_doubt, .. } = self;
        let connected =
            said_connected(parts.account.hub.clone(), kind, trouble, *is_store_in_doubt);
        let before = parts.board.status().counts;
        let news = parts.hints.watch_stream(origin.key());
        let copy = copy.for_session();
        let stores = SessionStores {
            origin,
            copy: &copy,
            news: &news,
            epoch,
            return_wait: &|| OWN_REDIS_RETRY,
        };
        let until = choice.poll_timeout().filter(|_| kind == Kind::Http);
        let (board, progress) = (&parts.board, &parts.progress);
        let mut observer = board.figures().traffic.observe(&there, &cursor);
        let mut stuck = path.stuck();
        let report = |shown: SessionEvent<'_>| {
            observer.handle(shown, unix_ms);
            board.figures().handle(shown);
            match shown {
                SessionEvent::Unusable(side, error) => {
                    board.post_stopped(of(side), Some(&error_chain(error)))
                }
                SessionEvent::Usable(side) => board.post_stopped(of(side), None),
                SessionEvent::Work(_) | SessionEvent::Session(_) => {}
            }
            let SessionEvent::Session(session) = shown else { return };
            post_stopped(board, session);
            board.post_figures(before, session);
            if stuck.take_if(|stuck| stuck.seq <= session.sender().acked()).is_some() {
                board.post_stuck(None);
            }
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.handle_move(Instant::now(), MOVE_WITHIN);
            if session.sender().acked_entries() > 0 {
                progress.handle_acknowledged();
            }
        };
        let Line { frames, outbox, heard } = line;
        let leave = leave(parts.shutdown.clone(), until);
        let outcome = tokio::select! {
            outcome = drive(session, stores, frames, outbox, || heard.at(), leave, report) => outcome,
            never = connected => match never {},
            never = parts.access.keep_fresh(|unkept| board.post_unkept(unkept)) => match never {},
        };
        path.handle_end(&outcome.session.sender().summary(), outcome.parting());
        if matches!(&outcome.end, Ok(SessionEnd::ClosedByPeer(goaway)) if goaway.reason == GoawayReason::Restart)
        {
            board.post_stopped(|stopped| &mut stopped.hub, None);
        }
        let carried =
            outcome.session.sender().acked_entries() + outcome.session.receiver().received();
        let yielded = yielded(&outcome, (there.last, cursor.confirmed().1));
        (Ending::of_session(&outcome.end), Welcomed { lived: began.elapsed(), carried, yielded })
    }

    fn handle_welcomed(&mut self, kind: Kind, generation: u64) {
        self.parts.access.handle_welcomed();
        self.choice.handle_welcomed(kind);
        self.refused_retry.reset();
        self.parts.board.post_connected(kind, generation);
    }
}

/// Says that the trouble is over; where it was a store's, only once the session has lived for a while. Ends
/// never.
async fn said_connected(
    hub: ServiceUrl,
    kind: Kind,
    trouble: &mut Trouble,
    is_in_doubt: bool,
) -> Infallible {
    if is_in_doubt {
        tokio::time::sleep(STEADY).await;
    }
    let transport = kind.word();
    match trouble.handle_good(Instant::now()) {
        Some(over) => {
            let lasted = over.lasted.as_secs();
            info!(%hub, transport, faults = over.count, after_seconds = lasted, "connected again");
        }
        None => info!(%hub, transport, "connected"),
    }
    std::future::pending().await
}

/// What the session shows of streams that cannot be used.
fn post_stopped(board: &Board, session: &Session) {
    if let Some(why) = session.hold_reason() {
        board.post_stopped(|stopped| &mut stopped.hub, Some(&format!("the hub says: {why}")));
    }
    if !session.sender().is_unreadable() {
        board.post_stopped(of(StreamSide::Out), None);
    }
}

fn of(side: StreamSide) -> fn(&mut Stopped) -> &mut Option<String> {
    match side {
        StreamSide::Out => |stopped| &mut stopped.out,
        StreamSide::In => |stopped| &mut stopped.r#in,
    }
}

/// Each direction that has something waiting is to get on.
fn yielded(outcome: &SessionOutcome, (last, cursor): (Seq, Seq)) -> Yield {
    let (sender, received) = (outcome.session.sender(), outcome.session.receiver().received());
    let is_up_barren = !sender.summary().has_progress() && sender.backlog().0 > 0;
    let is_down_barren = last > cursor && outcome.session.receiver().ack().seq <= cursor;
    match outcome.parting() {
        SessionEnding::Broken if is_up_barren || is_down_barren => Yield::Nothing,
        _ if sender.acked_entries() + received > 0 => Yield::Something,
        SessionEnding::Broken | SessionEnding::Closed => Yield::Unclear,
    }
}

const STOPS: &str = "this agent stops";

/// HELLO and WELCOME; anything else is the end.
async fn shake_hands(line: &mut Line, hello: Hello) -> Result<Welcome, Ending> {
    let broken = |error: TransportError| match explain(&error) {
        Some(why) => {
            Ending::new(Cause::Untrusted, format!("failed to set up TLS with the hub: {why}"))
        }
        None => Ending::new(Cause::Broken, error_chain(&error)),
    };
    line.outbox.send(Frame::Hello(Box::new(hello))).await.map_err(broken)?;
    match line.frames.next().await {
        Some(Ok(Frame::Welcome(welcome))) if welcome.major == MAJOR => Ok(*welcome),
        Some(Ok(Frame::Welcome(welcome))) => Err(Ending::new(
            Cause::Version,
            format!(
                "the hub speaks version {}.{} of the protocol and this agent {MAJOR}.{MINOR}; \
                 update the older one",
                welcome.major, welcome.minor
            ),
        )),
        Some(Ok(Frame::Goaway(goaway))) => Err(Ending::told(&goaway)),
        Some(Ok(_)) => {
            Err(Ending::new(Cause::Confused, "the hub began with something else than WELCOME"))
        }
        Some(Err(error @ TransportError::Malformed(_))) => {
            Err(Ending::new(Cause::Confused, error_chain(&error)))
        }
        Some(Err(error)) => Err(broken(error)),
        None => Err(Ending::new(Cause::Broken, "the hub closed the connection instead of WELCOME")),
    }
}

/// Resolves when the agent stops, or when it is time to try another transport.
async fn leave(shutdown: Shutdown, until: Option<Instant>) -> Goaway {
    let another = async {
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    let message = tokio::select! {
        () = shutdown.begun() => STOPS,
        () = another => "it is time to try a websocket again",
    };
    Goaway { reason: GoawayReason::Restart, message: message.to_owned(), wait_ms: 0 }
}
