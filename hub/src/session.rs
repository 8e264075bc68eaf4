//! One WebSocket of an agent: `spoke.v1` from the handshake to the goodbye.

use std::{
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, iter},
};
use secrecy::ExposeSecret;
use spoke_diagnostics::{clock::unix_ms, error_chain::error_chain};
use spoke_protocol::{
    entry::{Direction, EntryLimits},
    instance::InstanceId,
    limits::HEARTBEAT,
    message::{
        Cursor, Features, Frame, Goaway, GoawayReason, Hello, MAJOR, MINOR, OriginState,
        ReceiveLimits, Welcome,
    },
    partner::PartnerId,
    seq::Seq,
    sync::{
        receiver::Receiver,
        resume::SenderStart,
        sender::{Sender, TrimMode, path::LinkPath},
        session::{Heartbeat, Session, SessionEnd},
    },
};
use spoke_service::{
    api_error::ApiError, last_activity::LastActivity, limits::HANDSHAKE_TIMEOUT,
    server::PeerAddress,
};
use spoke_store::{
    driver::{self, SessionEvent, SessionOutcome, SessionStores, TransportError},
    limits::GOODBYE_TIMEOUT,
    presence::{OriginReach, SessionOpen, Transport},
    session_tokens::{client_key, digest, session_key},
};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use tracing::{Instrument, Span, debug, field, info, info_span, warn};

use crate::{
    arrival::{self, Told},
    bearer::Caller,
    frames::Frames,
    hub::{Hub, SessionFault},
    intake::Intake,
    live::Ticket,
    metrics::end_word,
    presence,
    socket::Socket,
};

/// An upgraded connection of somebody who was let in.
pub struct Arrived {
    /// The hub.
    pub hub: Hub,
    /// Who it is.
    pub caller: Caller,
    /// Where from.
    pub address: PeerAddress,
    /// When the last byte came.
    pub heard: LastActivity,
    /// Its place among the client's connections.
    pub ticket: Ticket,
    /// Tells it to go.
    pub stopped: oneshot::Receiver<Goaway>,
}

impl Arrived {
    /// Names the session in the log; its generation is recorded once it has one.
    pub fn span(&self) -> Span {
        let (client, address) = (&self.caller.client, self.address);
        info_span!("session", %client, %address, generation = field::Empty)
    }

    /// Begins a session: from here on every older one of this client is fenced.
    ///
    /// # Errors
    /// 409 for a second device with the same identity, 503.
    pub async fn begin(
        &self,
        version: &str,
        instance: InstanceId,
        hello: Option<&Hello>,
    ) -> Result<(u64, PartnerId), ApiError> {
        let (hub, client) = (&self.hub, &self.caller.client);
        let address = self.address.to_string();
        let transport = Transport::WebSocket;
        let (hub_name, address) = (&hub.name, &address);
        let reach = hello.map(|Hello { origin, .. }| OriginReach {
            first: origin.first,
            last: origin.last,
            added: origin.added,
        });
        let epochs = hello.map(|hello| (hello.origin.epoch, hello.cursor.epoch));
        let arrival = SessionOpen {
            version,
            address,
            hub: hub_name,
            instance,
            transport,
            reach,
            registered_at_ms: self.caller.registered_at_ms,
            epochs: epochs.unwrap_or_default(),
        };
        let cursor = hello.map_or(Seq::ZERO, |hello| hello.cursor.seq);
        let (generation, partner) = arrival::begin(hub, client, &arrival, cursor).await?;
        hub.metrics.superseded.add(hub.live.begin(&self.ticket, generation));
        Ok((generation, partner))
    }

    /// Ends it, unless a newer one has begun.
    pub async fn end(&self, generation: u64) {
        presence::note_end(&self.hub, &self.caller.client, generation).await;
    }

    /// Resolves when this session must go: the hub stops, a newer session, a token that ended.
    pub async fn leave(&mut self) -> Goaway {
        let hub = &self.hub;
        let key = SessionKey::of(hub, &self.caller);
        tokio::select! {
            Ok(goaway) = &mut self.stopped => goaway,
            () = hub.shutdown.begun() => hub.restart(),
            goaway = token_ended(hub, &self.caller, &key) => goaway,
        }
    }
}

/// The key of auth's session that a connection lives on: the one of its token, or what that was refreshed
/// into.
pub(crate) struct SessionKey(Mutex<String>);

impl SessionKey {
    pub(crate) fn of(hub: &Hub, caller: &Caller) -> Self {
        let digest = digest(caller.token.expose_secret());
        Self(Mutex::new(session_key(&hub.config.auth_key_prefix, &digest)))
    }

    pub(crate) fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, key: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

/// Resolves once the session has ended or its client is let in no more. Looks again at each hint of the
/// session's key or of its client's. A token that was refreshed hands its connections on to the new one:
/// auth has written down which that is, so nobody has to tell it here, which behind an entry that is under
/// way nobody could. While auth's Redis does not answer, nothing is known, and no session is closed for
/// that.
pub(crate) async fn token_ended(hub: &Hub, caller: &Caller, key: &SessionKey) -> Goaway {
    let mut session = hub.hints.watch_key(&key.get());
    let client = hub.hints.watch_key(&client_key(&hub.config.auth_key_prefix, &caller.client));
    // Both resolve at once for what came before, which takes one look.
    session.changed().await;
    loop {
        tokio::select! {
            () = client.changed() => {}
            () = session.changed() => {}
        }
        match hub.sessions.find_client_by_key(&key.get()).await {
            Ok(Some(found)) if found.client == caller.client => {
                if let Some(next) = found.next {
                    session = hub.hints.watch_key(&next);
                    key.set(next);
                }
            }
            Ok(_) => {
                let message = "the session has ended or was revoked; log in again".to_owned();
                return Goaway { reason: GoawayReason::Unauthorized, message, wait_ms: 0 };
            }
            Err(_) => {}
        }
    }
}

/// Serves an agent to the end of its connection.
///
/// Ten thousand idle agents are as many of these futures: what is large lives in boxes, and what only
/// the beginning needs is gone by then.
pub fn serve(arrived: Arrived, socket: Socket) -> impl Future<Output = ()> + Send {
    let span = arrived.span();
    let (sink, stream) = socket.split();
    run(Box::new(arrived), Frames::new(stream), Box::pin(sink)).instrument(span)
}

async fn run(
    mut arrived: Box<Arrived>,
    mut frames: Frames,
    mut sink: Pin<Box<SplitSink<Socket, Message>>>,
) {
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(HANDSHAKE_TIMEOUT, greeting(&mut frames)) => greeted,
        goaway = Box::pin(arrived.leave()) => Ok(Err(Some(goaway))),
    };
    let hello = match greeted {
        Ok(Ok(hello)) => hello,
        Ok(Err(Some(goaway))) => {
            dismiss(&arrived.hub, &mut sink, goaway).await;
            return frames.discard().await;
        }
        Ok(Err(None)) => return debug!("gone before its HELLO"),
        Err(_) => {
            let goaway = refusal(GoawayReason::Protocol, "no HELLO in time");
            dismiss(&arrived.hub, &mut sink, goaway).await;
            return frames.discard().await;
        }
    };
    let greeted = match Box::pin(Greeted::new(&arrived, &hello)).await {
        Ok(greeted) => Box::new(greeted),
        Err(refusal) => {
            dismiss(&arrived.hub, &mut sink, arrival::goaway(&refusal)).await;
            return frames.discard().await;
        }
    };
    Span::current().record("generation", greeted.generation);
    let welcome = Frame::Welcome(Box::new(greeted.welcome(&arrived.hub)));
    if let Err(error) = sink.send(Message::Binary(welcome.encode(Features::default()))).await {
        debug!(error = error_chain(&error), "gone before its WELCOME");
    } else {
        info!(
            version = hello.version,
            cursor = %greeted.cursor.seq,
            down = ?greeted.begun.position.finding,
            "session begins"
        );
        let features = greeted.features;
        frames.agree(features);
        let outbox = sink
            .sink_map_err(|error| TransportError::Broken(error.into()))
            .with_flat_map(move |frame: Frame| iter(messages(&frame, features).map(Ok)));
        let outbox = Box::pin(outbox);
        let outcome = greeted.drive(&mut arrived, &mut frames, outbox).await;
        report(&arrived.hub, &outcome);
    }
    arrived.end(greeted.generation).await;
    frames.discard().await;
}

/// A session past its HELLO.
struct Greeted {
    generation: u64,
    partner: PartnerId,
    begun: SenderStart,
    /// The device's, as it told.
    origin: OriginState,
    cursor: Cursor,
    features: Features,
}

impl Greeted {
    async fn new(arrived: &Arrived, hello: &Hello) -> Result<Self, ApiError> {
        let hub = &arrived.hub;
        let (generation, partner) =
            arrived.begin(&hello.version, hello.instance, Some(hello)).await?;
        let Hello { origin, cursor, partner: of, .. } = *hello;
        let told = Told { origin, cursor, partner: of };
        let standing = arrival::stand(hub, &arrived.caller, (generation, partner), &told).await;
        let (begun, cursor) = match hub.checked(standing) {
            Ok(standing) => standing,
            Err(refusal) => {
                arrived.end(generation).await;
                return Err(refusal);
            }
        };
        let features = hub.features().common(hello.features);
        Ok(Self { generation, partner, begun, origin, cursor, features })
    }

    fn welcome(&self, hub: &Hub) -> Welcome {
        Welcome {
            major: MAJOR,
            minor: MINOR,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: self.generation,
            cursor: self.cursor,
            origin: self.begun.standing.origin_state(),
            granted: ReceiveLimits::default(),
            heartbeat_ms: HEARTBEAT.as_millis() as u64,
            server_time_ms: unix_ms(),
            features: hub.features().common(self.features),
            partner: self.partner,
        }
    }

    async fn drive(
        &self,
        arrived: &mut Arrived,
        frames: &mut Frames,
        outbox: impl futures_util::Sink<Frame, Error = TransportError> + Unpin,
    ) -> SessionOutcome {
        let (hub, client) = (arrived.hub.clone(), arrived.caller.client.clone());
        let (origin, copy) =
            (hub.origin(&client), hub.copy(&arrived.caller, Some(self.generation)));
        let news = hub.hints.watch_stream(origin.key());
        let epoch = self.begun.position.epoch;
        let return_wait = || hub.return_wait();
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
            false => hub.paths.begin(&client, at, now),
        };
        let sender =
            Sender::new(Direction::Down, ReceiveLimits::default(), TrimMode::Keep, &self.begun);
        let sender = sender.with_path(&path).with_delay(path.delay_until(now, rand::random()));
        let cursor = self.cursor.confirmed();
        let receiver = Receiver::new(Direction::Up, EntryLimits::default(), cursor);
        let session = Session::new(sender, receiver, Heartbeat::Answers, Instant::now());
        let session = Box::new(session);
        let heard = arrived.heard.clone();
        let traffic = &hub.metrics.traffic;
        // Where an epoch has ended, what it lost is found with the next one's beginning.
        self.begun.position.loss.iter().for_each(|loss| traffic.sent.handle_loss(loss));
        let mut observer = Box::new(traffic.observe(&self.origin, &self.cursor));
        let (intake, refused) = Intake::new(hub.clone(), client.clone());
        let charges = intake.charges();
        frames.take_in(intake);
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
                    hub.paths.handle_acked(&client, acked, Instant::now());
                }
            }
            observer.handle(shown, unix_ms);
        };
        let leave = Box::pin(async {
            tokio::select! {
                goaway = arrived.leave() => goaway,
                Ok(goaway) = refused => goaway,
            }
        });
        let outcome =
            driver::drive(session, stores, frames, outbox, || heard.at(), leave, count).await;
        let trip = outcome.session.sender().summary();
        hub.paths.end(&client, &trip, outcome.parting(), Instant::now());
        outcome
    }
}

/// The first frame. `Err(None)`: there was none.
async fn greeting(frames: &mut Frames) -> Result<Hello, Option<Goaway>> {
    match frames.next().await {
        Some(Ok(Frame::Hello(hello))) if hello.major == MAJOR => Ok(*hello),
        Some(Ok(Frame::Hello(hello))) => {
            let message = format!(
                "this hub speaks version {MAJOR} of the protocol and the agent version {}; bring \
                 both to the same",
                hello.major
            );
            Err(Some(refusal(GoawayReason::Version, &message)))
        }
        Some(Ok(_)) => {
            Err(Some(refusal(GoawayReason::Protocol, "the first frame has to be HELLO")))
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

async fn dismiss(hub: &Hub, sink: &mut Pin<Box<SplitSink<Socket, Message>>>, goaway: Goaway) {
    let (reason, message) = (goaway.reason.word(), &goaway.message);
    // A second device comes back for ever; it is said aloud where it is found.
    if goaway.reason != GoawayReason::Superseded
        && hub.session_faults.record(SessionFault::Refused(reason))
    {
        info!(reason, message, "session refused");
    } else {
        debug!(reason, message, "session refused");
    }
    let mut messages = iter(messages(&Frame::Goaway(goaway), Features::default()).map(Ok));
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, sink.send_all(&mut messages)).await;
}

/// A frame is one message; behind a GOAWAY the close frame says the same in its code.
fn messages(frame: &Frame, features: Features) -> impl Iterator<Item = Message> + use<> {
    let close = match frame {
        Frame::Goaway(goaway) => Some(close(goaway.reason)),
        _ => None,
    };
    [Some(Message::Binary(frame.encode(features))), close].into_iter().flatten()
}

/// The close frame for a reason. The codes from 4000 are ours to give (RFC 6455, 7.4.2).
pub fn close(reason: GoawayReason) -> Message {
    let code = match reason {
        GoawayReason::Unauthorized => 4401,
        GoawayReason::Superseded => 4409,
        GoawayReason::Restart => 1012,
        GoawayReason::Unavailable => 1013,
        GoawayReason::Gap
        | GoawayReason::StaleEpoch
        | GoawayReason::EpochAhead
        | GoawayReason::SeqAhead
        | GoawayReason::Protocol
        | GoawayReason::Version
        | GoawayReason::Other => 1002,
    };
    Message::Close(Some(CloseFrame { code: code.into(), reason: reason.word().into() }))
}

fn report(hub: &Hub, outcome: &SessionOutcome) {
    let received = outcome.session.receiver().received();
    let sent = outcome.session.sender().acked_entries();
    let word = end_word(&outcome.end);
    hub.metrics.ended.add(word, 1);
    match &outcome.end {
        // A path that carries nothing takes many with it; the rest are counted.
        Ok(end @ (SessionEnd::AckTimeout | SessionEnd::IdleTimeout(_)))
            if hub.session_faults.record(SessionFault::Ended(word)) =>
        {
            warn!(received, sent, cause = %end, "session ends");
        }
        Ok(end) => info!(received, sent, cause = %end, "session ends"),
        // Said aloud as what it is, a fault of redis.
        Err(driver::SessionError::Store(error)) => {
            hub.unavailable(error);
            info!(received, sent, cause = error_chain(error), "session ends");
        }
        Err(error) => {
            info!(received, sent, cause = error_chain(error), "session ends");
        }
    }
}
