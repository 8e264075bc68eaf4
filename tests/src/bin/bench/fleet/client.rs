//! One client: connects, carries entries, and reconnects by the agent's own rules.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use secrecy::SecretString;
use spoke_agent::{
    CONNECT_RETRY, Dialer, Disconnect, DisconnectCause, FrameChannel, REFUSED_RETRY,
    ReconnectDelay, WebSocketError, open_websocket, websocket_frames,
};
use spoke_diagnostics::unix_ms;
use spoke_protocol::{
    ClientId, Direction, EntryLimits, Epoch, InstanceId, PartnerId, RetryDelay,
    limits::RECONNECT_WAIT_MIN,
    message::{Features, Frame, Hello, MAJOR, MINOR, Welcome},
    sync::{Heartbeat, Receiver, Sender, Session, TrimMode},
};
use spoke_service::{config::ServiceUrl, limits::HANDSHAKE_TIMEOUT};
use spoke_store::{
    CopyStore, Hints, OriginStore, Redis, StartWith,
    driver::{SessionStores, drive},
    keys::DeviceKeys,
};
use tokio::{sync::Semaphore, time::timeout};

use super::play::SessionCounters;

/// The key prefix of all devices.
pub(super) const KEYS: &str = "bench:";
/// A session of this age has shown that the link works, even if it carried nothing.
const GOOD_SESSION: Duration = Duration::from_secs(60);

/// What the clients of a process share.
pub(super) struct Shared {
    pub(super) hub: ServiceUrl,
    pub(super) dialer: Dialer,
    pub(super) redis: Redis,
    pub(super) hints: Hints,
    pub(super) counters: SessionCounters,
}

/// A client.
pub(super) struct Client {
    shared: Arc<Shared>,
    origin: OriginStore,
    copy: CopyStore,
    token: SecretString,
    instance: InstanceId,
    connect_retry: RetryDelay,
    refused_retry: RetryDelay,
}

struct Open {
    line: FrameChannel,
    session: Session,
    epoch: Epoch,
}

/// Why there is no session, for the agent's rules and for the benchmark's count.
struct Failure {
    ending: Disconnect,
    word: String,
}

/// The keys of a client's device.
pub(super) fn device_keys(client: &ClientId) -> DeviceKeys {
    DeviceKeys::new(&format!("{KEYS}{client}"))
}

impl Client {
    /// A client that has not connected yet.
    pub(super) fn new(shared: Arc<Shared>, name: &ClientId, token: SecretString) -> Self {
        let keys = device_keys(name);
        Self {
            origin: OriginStore::device(shared.redis.clone(), &keys, name),
            copy: CopyStore::device(shared.redis.clone(), &keys, name),
            shared,
            token,
            instance: InstanceId(rand::random()),
            connect_retry: RetryDelay::new(CONNECT_RETRY.0, CONNECT_RETRY.1),
            refused_retry: RetryDelay::new(REFUSED_RETRY.0, REFUSED_RETRY.1),
        }
    }

    /// Runs without end. Its first try waits for a permit.
    pub(super) async fn run(mut self, connecting: Arc<Semaphore>) {
        let mut permit = connecting.acquire_owned().await.ok();
        loop {
            let opened = self.open().await;
            permit.take();
            let failure = match opened {
                Ok(open) => self.carry(open).await,
                Err(failure) => failure,
            };
            self.shared.counters.handle_ending(failure.word);
            let wait = match failure.ending.reconnect_delay() {
                ReconnectDelay::Fixed(wait) => RetryDelay::after_hint(wait, rand::random()),
                ReconnectDelay::None => continue,
                ReconnectDelay::Backoff(hint) => self.connect_retry.next(hint, rand::random()),
                ReconnectDelay::DuplicateIdentity(hint) => {
                    self.refused_retry.next(hint, rand::random())
                }
                ReconnectDelay::Refused => self.refused_retry.next(None, rand::random()),
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn open(&self) -> Result<Open, Failure> {
        let state = tokio::try_join!(self.origin.standing(), self.copy.cursor());
        let (standing, cursor) = state.map_err(|error| Disconnect::from(&error))?;
        let (socket, heard) = open_websocket(&self.shared.dialer, &self.shared.hub, &self.token)
            .await
            .map_err(denied)?;
        let features = Features::COMPRESSION;
        let mut line = websocket_frames(socket, heard, features);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let (major, minor, instance) = (MAJOR, MINOR, self.instance);
        let origin = standing.origin_state();
        let hello = Hello {
            major,
            minor,
            version,
            origin,
            cursor,
            features,
            instance,
            partner: PartnerId::UNKNOWN,
        };
        let welcome = timeout(HANDSHAKE_TIMEOUT, shake_hands(&mut line, hello)).await;
        let welcome = welcome.unwrap_or_else(|_| Err(broken("no WELCOME within the timeout")))?;
        let begun = self.origin.start_sender(&welcome.cursor, &StartWith::SAME, unix_ms()).await;
        let begun = begun.map_err(|error| Disconnect::from(&error))?;
        let heartbeat = Heartbeat::Pings(Duration::from_millis(welcome.heartbeat_ms));
        let sender = Sender::new(Direction::Up, welcome.granted, TrimMode::Keep, &begun);
        let at = (cursor.epoch, cursor.seq);
        let receiver = Receiver::new(Direction::Down, EntryLimits::default(), at);
        let session = Session::new(sender, receiver, heartbeat, Instant::now());
        Ok(Open { line, session, epoch: begun.position.epoch })
    }

    async fn carry(&mut self, open: Open) -> Failure {
        let Open { line: FrameChannel { frames, outbox, activity }, session, epoch } = open;
        let (began, counters) = (Instant::now(), &self.shared.counters);
        counters.handle_begun();
        let (origin, copy) = (&self.origin, &self.copy.for_session());
        let news = &self.shared.hints.watch_stream(origin.key());
        let stores =
            SessionStores { origin, copy, news, epoch, return_wait: &|| RECONNECT_WAIT_MIN };
        let never = std::future::pending();
        let outcome =
            drive(Box::new(session), stores, frames, outbox, || activity.at(), never, |_| {}).await;
        counters.handle_ended();
        let (sent, taken) =
            (outcome.session.sender().acked_entries(), outcome.session.receiver().received());
        if sent + taken > 0 || began.elapsed() > GOOD_SESSION {
            self.connect_retry.reset();
        }
        Disconnect::from_session(&outcome.end).into()
    }
}

impl From<Disconnect> for Failure {
    fn from(ending: Disconnect) -> Self {
        Self { word: ending.cause.word().to_owned(), ending }
    }
}

/// The only refusal that means a busy hub is 503 with `Retry-After`. (The wait of a GOAWAY may happen
/// to be 0.)
fn denied(error: WebSocketError) -> Failure {
    let mut failure = Failure::from(Disconnect::from(&error));
    if let WebSocketError::Broken { source, .. } = &error {
        failure.word = format!("broken before the upgrade, {:?}", source.kind());
    }
    if let WebSocketError::Rejected { response, .. } = &error
        && failure.ending.cause == DisconnectCause::Busy
        && (response.status != 503 || response.retry_after.is_none())
    {
        failure.word = format!("status {}, wait {:?}", response.status, response.retry_after);
    }
    failure
}

async fn shake_hands(line: &mut FrameChannel, hello: Hello) -> Result<Welcome, Failure> {
    let sent = line.outbox.send(Frame::Hello(Box::new(hello))).await;
    sent.map_err(|error| broken(error.to_string()))?;
    match line.frames.next().await {
        Some(Ok(Frame::Welcome(welcome))) => Ok(*welcome),
        Some(Ok(Frame::Goaway(goaway))) => Err(Disconnect::from_goaway(&goaway).into()),
        Some(Ok(_)) => Err(Disconnect::new(DisconnectCause::Confused, "no WELCOME").into()),
        Some(Err(error)) => Err(broken(error.to_string())),
        None => Err(broken("closed instead of WELCOME")),
    }
}

fn broken(message: impl Into<String>) -> Failure {
    let ending = Disconnect::new(DisconnectCause::Broken, message);
    let word = format!("broken before WELCOME, {}", ending.message);
    Failure { ending, word }
}
