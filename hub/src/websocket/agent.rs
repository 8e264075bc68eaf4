//! The `spoke.v1` WebSocket of one agent, from handshake to close.

use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::{
    ClientId, Direction, EntryLimits, EntryRate, PartnerId,
    limits::HEARTBEAT,
    message::{
        Cursor, Features, Frame, Goaway, GoawayReason, Hello, MAJOR, MINOR, OriginState,
        ReceiveLimits, Welcome,
    },
    sync::{
        Heartbeat, LinkPath, Receiver, Sender, SenderStart, Session, SessionEnd, StuckEntry,
        TrimMode,
    },
};
use spoke_service::{api_error::ApiError, limits::HANDSHAKE_TIMEOUT};
use spoke_store::{
    driver::{self, SessionEvent, SessionOutcome, SessionStores, TransportError},
    limits::GOODBYE_TIMEOUT,
};
use tracing::{Instrument, Span, debug, info, warn};

use super::{
    admission::{BatchAdmission, PendingCharges},
    context::SessionContext,
    frame_sink::FrameSink,
    frames::FrameStream,
    socket::ServerSocket,
};
use crate::{
    metrics::end_word,
    session_open::{self, ReportedState},
    state::{HubState, SessionFault},
};

/// Serves an agent until its connection ends.
///
/// Ten thousand idle agents are as many of these futures. So the handshake and the end are boxed
/// while they run, and this one has only what an idle session needs.
pub(crate) fn serve(
    context: Box<SessionContext>,
    socket: ServerSocket,
) -> impl Future<Output = ()> + Send {
    let span = context.span();
    let (sink, stream) = socket.split();
    let frames = Box::new(FrameStream::new(stream));
    run(context, frames, Box::new(FrameSink::new(sink))).instrument(span)
}

async fn run(
    mut context: Box<SessionContext>,
    mut frames: Box<FrameStream>,
    mut sink: Box<FrameSink>,
) {
    let started = Box::pin(shake_hands(&mut context, &mut frames, &mut sink)).await;
    let Some(session) = started else { return };
    let generation = session.generation;
    session.drive(&mut context, &mut frames, sink).await;
    Box::pin(end(&context, generation, &mut frames)).await;
}

/// Answers HELLO with WELCOME. Returns `None` if there is no session; the peer knows why by then.
async fn shake_hands(
    context: &mut SessionContext,
    frames: &mut FrameStream,
    sink: &mut FrameSink,
) -> Option<Box<AgentSession>> {
    let received = tokio::select! {
        received = tokio::time::timeout(HANDSHAKE_TIMEOUT, read_hello(frames)) => {
            let timed_out = |_| Err(Some(refusal(GoawayReason::Protocol, "HELLO timed out")));
            received.unwrap_or_else(timed_out)
        }
        goaway = context.leave() => Err(Some(goaway)),
    };
    let started = match received {
        Ok(hello) => match AgentSession::new(context, &hello).await {
            Ok(session) => Ok((hello, Box::new(session))),
            Err(refusal) => Err(session_open::goaway(&refusal)),
        },
        Err(Some(goaway)) => Err(goaway),
        Err(None) => {
            debug!("connection closed before HELLO");
            return None;
        }
    };
    let (hello, session) = match started {
        Ok(started) => started,
        Err(goaway) => {
            send_goaway(&context.hub, sink, goaway).await;
            frames.discard().await;
            return None;
        }
    };
    Span::current().record("session", session.generation);
    let welcome = Frame::Welcome(Box::new(session.welcome(&context.hub, context.caller.rate)));
    if let Err(error) = sink.send(welcome).await {
        debug!(error = error_chain(&error), "connection closed before WELCOME");
        end(context, session.generation, frames).await;
        return None;
    }
    info!(
        version = hello.version,
        cursor = %session.cursor.seq,
        down = ?session.begun.position.finding,
        "session started"
    );
    frames.set_features(session.features);
    sink.set_features(session.features);
    Some(session)
}

/// Records the end of a session, and reads what the peer still sends.
async fn end(context: &SessionContext, generation: u64, frames: &mut FrameStream) {
    context.end(generation).await;
    frames.discard().await;
}

/// Session after HELLO.
struct AgentSession {
    generation: u64,
    partner: PartnerId,
    begun: SenderStart,
    /// State of the device's out stream, from HELLO.
    origin: OriginState,
    cursor: Cursor,
    features: Features,
}

impl AgentSession {
    async fn new(context: &SessionContext, hello: &Hello) -> Result<Self, ApiError> {
        let hub = &context.hub;
        let (generation, partner) =
            context.begin(&hello.version, hello.instance, Some(hello)).await?;
        let Hello { origin, cursor, partner: of, .. } = *hello;
        let reported = ReportedState { origin, cursor, partner: of };
        let standing =
            session_open::resume_streams(hub, &context.caller, (generation, partner), &reported)
                .await;
        let (begun, cursor) = match hub.store_result(standing) {
            Ok(standing) => standing,
            Err(refusal) => {
                context.end(generation).await;
                return Err(refusal);
            }
        };
        let features = hub.features().common(hello.features);
        Ok(Self { generation, partner, begun, origin, cursor, features })
    }

    fn welcome(&self, hub: &HubState, rate: Option<EntryRate>) -> Welcome {
        Welcome {
            major: MAJOR,
            minor: MINOR,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: self.generation,
            cursor: self.cursor,
            origin: self.begun.standing.origin_state(),
            granted: hub.quota.granted(rate, hub.connections.count()),
            heartbeat_ms: HEARTBEAT.as_millis() as u64,
            server_time_ms: unix_ms(),
            features: hub.features().common(self.features),
            partner: self.partner,
        }
    }

    /// Carries entries until the session ends.
    async fn drive(
        self: Box<Self>,
        context: &mut SessionContext,
        frames: &mut FrameStream,
        sink: Box<FrameSink>,
    ) {
        let (hub, client) = (context.hub.clone(), context.caller.client.clone());
        let (origin, copy) =
            (hub.origin(&client), context.caller.copy(&hub, Some(self.generation)));
        let news = hub.hints.watch_stream(origin.key());
        let epoch = self.begun.position.epoch;
        let return_wait = || hub.reconnect_wait();
        let stores = SessionStores {
            origin: &origin,
            copy: &copy,
            news: &news,
            epoch,
            return_wait: &return_wait,
        };
        let (session, mut stuck) = self.session(&hub, &client);
        let last_activity = context.last_activity.clone();
        let traffic = &hub.metrics.traffic;
        // Losses of an ended epoch are found when the next one begins.
        self.begun.position.loss.iter().for_each(|loss| traffic.sent.handle_loss(loss));
        let mut observer = Box::new(traffic.observe(&self.origin, &self.cursor));
        // An idle session does not need what the handshake found.
        drop(self);
        let charges = PendingCharges::default();
        let (admission, refused) =
            BatchAdmission::new(hub.clone(), context.caller.rated(), charges.clone());
        frames.set_admission(admission);
        let mut report = |shown: SessionEvent<'_>| {
            match shown {
                SessionEvent::Unusable(_, error) => hub.handle_unusable(&client, error),
                SessionEvent::Usable(_) => info!("stream can be used again"),
                SessionEvent::Work(_) | SessionEvent::Session(_) => {}
            }
            if let SessionEvent::Session(session) = shown {
                match session.is_unwritable() {
                    true => charges.release_all(),
                    false => charges.release(&session.receiver().ack()),
                }
                let acked = session.sender().acked();
                if stuck.take_if(|stuck| stuck.seq <= acked).is_some() {
                    hub.link_paths.handle_acked(&client, acked, Instant::now());
                }
            }
            observer.handle(shown, unix_ms);
        };
        let leave = Box::pin(async {
            tokio::select! {
                goaway = context.leave() => goaway,
                Ok(goaway) = refused => goaway,
            }
        });
        let last_received = || last_activity.at();
        let outcome =
            driver::drive(session, stores, frames, sink, last_received, leave, &mut report).await;
        let trip = outcome.session.sender().summary();
        hub.link_paths.end(&client, &trip, outcome.parting(), Instant::now());
        log_end(&hub, &outcome);
    }

    /// Returns the session of the protocol, and the entry that the link failed with before, if any.
    fn session(&self, hub: &HubState, client: &ClientId) -> (Box<Session>, Option<StuckEntry>) {
        let position = &self.begun.position;
        let now = Instant::now();
        let path = match self.begun.standing.is_unreadable {
            true => LinkPath::default(),
            false => hub.link_paths.begin(client, (position.epoch, position.after), now),
        };
        let sender =
            Sender::new(Direction::Down, ReceiveLimits::default(), TrimMode::Keep, &self.begun);
        let sender = sender.with_path(&path).with_delay(path.delay_until(now, rand::random()));
        let cursor = self.cursor.confirmed();
        let receiver = Receiver::new(Direction::Up, EntryLimits::default(), cursor);
        let session = Session::new(sender, receiver, Heartbeat::Answers, Instant::now());
        (Box::new(session), path.stuck())
    }
}

/// Reads the HELLO. Returns `Err(None)` if the connection closed before it.
async fn read_hello(frames: &mut FrameStream) -> Result<Hello, Option<Goaway>> {
    match frames.next().await {
        Some(Ok(Frame::Hello(hello))) if hello.major == MAJOR => Ok(*hello),
        Some(Ok(Frame::Hello(hello))) => {
            let message = format!(
                "unsupported protocol version {}: this hub speaks version {MAJOR}; update the older of \
                 hub and agent",
                hello.major
            );
            Err(Some(refusal(GoawayReason::Version, &message)))
        }
        Some(Ok(_)) => {
            Err(Some(refusal(GoawayReason::Protocol, "unexpected first frame, expected HELLO")))
        }
        Some(Err(TransportError::Malformed(error))) => {
            Err(Some(refusal(GoawayReason::Protocol, &error_chain(error.as_ref()))))
        }
        Some(Err(TransportError::Broken(_))) | None => Err(None),
    }
}

fn refusal(reason: GoawayReason, message: &str) -> Goaway {
    Goaway { reason, message: message.to_owned(), wait_ms: 0 }
}

async fn send_goaway(hub: &HubState, sink: &mut FrameSink, goaway: Goaway) {
    let (reason, message) = (goaway.reason.word(), &goaway.message);
    // A duplicate device reconnects forever; `session_open` logs it as a warning once.
    if goaway.reason != GoawayReason::Superseded
        && hub.session_faults.record(SessionFault::Refused(reason))
    {
        info!(reason, error = message, "session refused");
    } else {
        debug!(reason, error = message, "session refused");
    }
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, sink.send(Frame::Goaway(goaway))).await;
}

fn log_end(hub: &HubState, outcome: &SessionOutcome) {
    let received = outcome.session.receiver().received();
    let sent = outcome.session.sender().acked_entries();
    let word = end_word(&outcome.end);
    hub.metrics.ended.add(word, 1);
    match &outcome.end {
        // A stalled path affects many sessions at once; further ones are counted.
        Ok(end @ (SessionEnd::AckTimeout | SessionEnd::IdleTimeout(_)))
            if hub.session_faults.record(SessionFault::Ended(word)) =>
        {
            warn!(received, sent, reason = word, error = %end, "session timed out");
        }
        Ok(end) => info!(received, sent, reason = word, error = %end, "session ended"),
        // `unavailable` logs it as a Redis fault.
        Err(driver::SessionError::Store(error)) => {
            hub.unavailable(error);
            info!(received, sent, reason = word, error = error_chain(error), "session ended");
        }
        Err(error) => {
            info!(received, sent, reason = word, error = error_chain(error), "session ended");
        }
    }
}
