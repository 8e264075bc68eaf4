//! The `spoke.v1` WebSocket of one agent, from handshake to close.

use std::{pin::Pin, time::Instant};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, iter},
};
use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::{
    Direction, EntryLimits, EntryRate, PartnerId,
    limits::HEARTBEAT,
    message::{
        Cursor, Features, Frame, Goaway, GoawayReason, Hello, MAJOR, MINOR, OriginState,
        ReceiveLimits, Welcome,
    },
    sync::{Heartbeat, LinkPath, Receiver, Sender, SenderStart, Session, SessionEnd, TrimMode},
};
use spoke_service::{api_error::ApiError, limits::HANDSHAKE_TIMEOUT};
use spoke_store::{
    driver::{self, SessionEvent, SessionOutcome, SessionStores, TransportError},
    limits::GOODBYE_TIMEOUT,
};
use tokio_tungstenite::tungstenite::Message;
use tracing::{Instrument, Span, debug, info, warn};

use super::{
    admission::BatchAdmission, close::close_frame, context::SessionContext, frames::FrameStream,
    socket::ServerSocket,
};
use crate::{
    metrics::end_word,
    session_open::{self, ReportedState},
    state::{HubState, SessionFault},
};

/// Serves an agent until its connection ends.
///
/// Ten thousand idle agents are as many of these futures: large values are boxed, and the state of
/// the handshake is dropped when the session starts.
pub(crate) fn serve(
    context: SessionContext,
    socket: ServerSocket,
) -> impl Future<Output = ()> + Send {
    let span = context.span();
    let (sink, stream) = socket.split();
    run(Box::new(context), FrameStream::new(stream), Box::pin(sink)).instrument(span)
}

async fn run(
    mut context: Box<SessionContext>,
    mut frames: FrameStream,
    mut sink: Pin<Box<SplitSink<ServerSocket, Message>>>,
) {
    let received = tokio::select! {
        received = tokio::time::timeout(HANDSHAKE_TIMEOUT, read_hello(&mut frames)) => received,
        goaway = Box::pin(context.leave()) => Ok(Err(Some(goaway))),
    };
    let hello = match received {
        Ok(Ok(hello)) => hello,
        Ok(Err(Some(goaway))) => {
            send_goaway(&context.hub, &mut sink, goaway).await;
            return frames.discard().await;
        }
        Ok(Err(None)) => return debug!("connection closed before HELLO"),
        Err(_) => {
            let goaway = refusal(GoawayReason::Protocol, "HELLO timed out");
            send_goaway(&context.hub, &mut sink, goaway).await;
            return frames.discard().await;
        }
    };
    let session = match Box::pin(AgentSession::new(&context, &hello)).await {
        Ok(session) => Box::new(session),
        Err(refusal) => {
            send_goaway(&context.hub, &mut sink, session_open::goaway(&refusal)).await;
            return frames.discard().await;
        }
    };
    Span::current().record("session", session.generation);
    let welcome = Frame::Welcome(Box::new(session.welcome(&context.hub, context.caller.rate)));
    if let Err(error) = sink.send(Message::Binary(welcome.encode(Features::default()))).await {
        debug!(error = error_chain(&error), "connection closed before WELCOME");
    } else {
        info!(
            version = hello.version,
            cursor = %session.cursor.seq,
            down = ?session.begun.position.finding,
            "session started"
        );
        let features = session.features;
        frames.set_features(features);
        let outbox = sink
            .sink_map_err(|error| TransportError::Broken(error.into()))
            .with_flat_map(move |frame: Frame| iter(encode_messages(&frame, features).map(Ok)));
        let outbox = Box::pin(outbox);
        let outcome = session.drive(&mut context, &mut frames, outbox).await;
        log_end(&context.hub, &outcome);
    }
    context.end(session.generation).await;
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
            granted: hub.quota.granted(rate),
            heartbeat_ms: HEARTBEAT.as_millis() as u64,
            server_time_ms: unix_ms(),
            features: hub.features().common(self.features),
            partner: self.partner,
        }
    }

    async fn drive(
        &self,
        context: &mut SessionContext,
        frames: &mut FrameStream,
        outbox: impl futures_util::Sink<Frame, Error = TransportError> + Unpin,
    ) -> SessionOutcome {
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
        let at = (epoch, self.begun.position.after);
        let now = Instant::now();
        let path = match self.begun.standing.is_unreadable {
            true => LinkPath::default(),
            false => hub.link_paths.begin(&client, at, now),
        };
        let sender =
            Sender::new(Direction::Down, ReceiveLimits::default(), TrimMode::Keep, &self.begun);
        let sender = sender.with_path(&path).with_delay(path.delay_until(now, rand::random()));
        let cursor = self.cursor.confirmed();
        let receiver = Receiver::new(Direction::Up, EntryLimits::default(), cursor);
        let session = Session::new(sender, receiver, Heartbeat::Answers, Instant::now());
        let session = Box::new(session);
        let last_activity = context.last_activity.clone();
        let traffic = &hub.metrics.traffic;
        // Losses of an ended epoch are found when the next one begins.
        self.begun.position.loss.iter().for_each(|loss| traffic.sent.handle_loss(loss));
        let mut observer = Box::new(traffic.observe(&self.origin, &self.cursor));
        let (admission, refused) = BatchAdmission::new(hub.clone(), context.caller.rated());
        let charges = admission.charges();
        frames.set_admission(admission);
        let mut stuck = path.stuck();
        let count = |shown: SessionEvent<'_>| {
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
        let outcome =
            driver::drive(session, stores, frames, outbox, || last_activity.at(), leave, count)
                .await;
        let trip = outcome.session.sender().summary();
        hub.link_paths.end(&client, &trip, outcome.parting(), Instant::now());
        outcome
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

async fn send_goaway(
    hub: &HubState,
    sink: &mut Pin<Box<SplitSink<ServerSocket, Message>>>,
    goaway: Goaway,
) {
    let (reason, message) = (goaway.reason.word(), &goaway.message);
    // A duplicate device reconnects forever; `session_open` logs it as a warning once.
    if goaway.reason != GoawayReason::Superseded
        && hub.session_faults.record(SessionFault::Refused(reason))
    {
        info!(reason, error = message, "session refused");
    } else {
        debug!(reason, error = message, "session refused");
    }
    let mut encode_messages =
        iter(encode_messages(&Frame::Goaway(goaway), Features::default()).map(Ok));
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, sink.send_all(&mut encode_messages)).await;
}

/// Encodes a frame as one message. A close frame with the matching code follows a GOAWAY.
fn encode_messages(frame: &Frame, features: Features) -> impl Iterator<Item = Message> + use<> {
    let close = match frame {
        Frame::Goaway(goaway) => Some(close_frame(goaway.reason)),
        _ => None,
    };
    [Some(Message::Binary(frame.encode(features))), close].into_iter().flatten()
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
