//! Who is connected to the hub: the generation that fences, two devices with one identity, and what
//! `spoke-hub clients` shows.
//!
//! A hub process says that it lives with one key that expires, and a session counts while its hub
//! does: so a hub that is killed takes its sessions with it, and no idle client costs a command.

use std::{fmt, sync::LazyLock};

use redis::{AsyncCommands, Script, Value, cmd};

use super::{
    Redis, StoreError, decode,
    keys::HubKeys,
    scripts::{DENY_OOM, with_seqs},
};
use crate::limits::{BELL_TTL, FORMER_INSTANCES_MAX, HUB_TTL};
use spoke_protocol::{
    client_id::ClientId,
    entry::Direction,
    instance::InstanceId,
    limits::{EPOCHS_REMEMBERED_MAX, IDLE_TIMEOUT},
    partner::PartnerId,
    seq::{Epoch, Seq},
};

static ARRIVE: LazyLock<Script> =
    LazyLock::new(|| with_seqs(DENY_OOM, include_str!("scripts/open_session.lua")));
static RESET: LazyLock<Script> =
    LazyLock::new(|| with_seqs(DENY_OOM, include_str!("scripts/reset_client.lua")));
static DEPART: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/close_session.lua")));

/// What a new session says of itself.
#[derive(Debug, Clone, Copy)]
pub struct SessionOpen<'a> {
    /// The agent's version.
    pub version: &'a str,
    /// The address it came from.
    pub address: &'a str,
    /// The hub process that holds it.
    pub hub: &'a str,
    /// The process that comes.
    pub instance: InstanceId,
    /// How.
    pub transport: Transport,
    /// How far its out stream reaches, if it says so.
    pub reach: Option<OriginReach>,
    /// When the client was registered, in milliseconds since 1970; 0 where that is not known.
    pub registered_at_ms: u64,
    /// The epochs of its out stream and of its in stream, as it tells them.
    pub epochs: (Epoch, Epoch),
}

/// How far a device's out stream reaches, as it says when it comes: shown to operators, no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OriginReach {
    /// The first entry it still has; `0-0` for none.
    pub first: Seq,
    /// The last ID it has given out.
    pub last: Seq,
    /// How many entries were ever added to it.
    pub added: u64,
}

/// How a session is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By a connection, at whose end it is over.
    WebSocket,
    /// By requests: it is over when none came for `limits::IDLE_TIMEOUT`.
    Http,
}

/// What came of an arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOpened {
    /// The session of this generation, and what the client is to this hub; every older session of the
    /// client is fenced from here on.
    Opened(u64, PartnerId),
    /// None: it is a second device with this identity, and the first is connected.
    Refused(IdentityConflict),
    /// None: it tells of a life of a stream that is more than `limits::EPOCHS_REMEMBERED_MAX` further than the one
    /// known here.
    EpochAhead(Direction, Epoch),
}

/// The device that holds the place of another with the same identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConflict {
    /// Where it came from.
    pub address: String,
    /// Since when it is connected, in milliseconds since 1970.
    pub connected_since_ms: u64,
    /// How many arrivals of this client were refused so far.
    pub refused: u64,
    /// Whether the one that was refused now has not been since it held the place last.
    pub is_first: bool,
}

/// The newest session of a client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewestSession {
    /// Its generation; 0 if there never was one.
    pub generation: u64,
    /// The hub that holds its connection, while there is one.
    pub hub: Option<String>,
}

impl Transport {
    /// The word in the client's hash.
    pub fn word(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for OriginReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.first, self.last, self.added)
    }
}

impl OriginReach {
    /// As it is written down; none for anything else.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (first, last, added) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            added: added.parse().ok()?,
        })
    }
}

/// Begins a session, or refuses a second device.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn open_session(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
    arrival: &SessionOpen<'_>,
    now_ms: u64,
) -> Result<SessionOpened, StoreError> {
    let instance = Some(arrival.instance).filter(|instance| instance.is_known());
    let mut script = ARRIVE.key(keys.client(client));
    script.key(keys.bell(client)).key(keys.identity());
    script.arg(now_ms).arg(arrival.version).arg(arrival.address).arg(arrival.hub);
    script.arg(instance.map(|instance| instance.to_string()).unwrap_or_default());
    script.arg(arrival.transport.word()).arg(keys.hub_prefix());
    script.arg(IDLE_TIMEOUT.as_millis() as u64).arg(FORMER_INSTANCES_MAX);
    script.arg(BELL_TTL.as_millis() as u64);
    script.arg(arrival.reach.map(|reach| reach.to_string()).unwrap_or_default());
    let (up, down) = arrival.epochs;
    script.arg(arrival.registered_at_ms).arg(up.0).arg(down.0).arg(EPOCHS_REMEMBERED_MAX);
    script.arg(hex::encode(rand::random::<[u8; 16]>()));
    arrived(redis.invoke(&script).await?, client)
}

fn arrived(reply: Value, client: &ClientId) -> Result<SessionOpened, StoreError> {
    let mut parts = decode::list(reply)?.into_iter();
    let mut next = || parts.next().ok_or(decode::unexpected("the answer of open_session.lua"));
    let word = decode::bytes(next()?)?;
    if word.as_ref() == b"begun" {
        let (generation, hub) = (decode::count(next()?)?, decode::text(next()?)?);
        return Ok(SessionOpened::Opened(generation, PartnerId::new(&hub, client)));
    }
    if word.as_ref() == b"epoch-ahead" {
        let direction = Direction::from_word(&decode::text(next()?)?);
        let direction = direction.ok_or(decode::unexpected("the answer of open_session.lua"))?;
        return Ok(SessionOpened::EpochAhead(direction, Epoch(decode::count(next()?)?)));
    }
    Ok(SessionOpened::Refused(IdentityConflict {
        address: String::from_utf8_lossy(&decode::bytes(next()?)?).into_owned(),
        connected_since_ms: decode::count(next()?)?,
        refused: decode::count(next()?)?,
        is_first: decode::count(next()?)? == 1,
    }))
}

/// Begins the way up of a client anew, and gives the epoch that its copy is in then; none if the hub has
/// nothing of this client.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn reset_client(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
) -> Result<Option<Epoch>, StoreError> {
    let epoch: u64 = redis.invoke(&RESET.key(keys.client(client))).await?;
    Ok(Some(Epoch(epoch)).filter(|epoch| epoch.is_known()))
}

/// Ends a session, unless a newer one has begun.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn close_session(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
    generation: u64,
    now_ms: u64,
) -> Result<(), StoreError> {
    let mut script = DEPART.key(keys.client(client));
    script.arg(generation).arg(now_ms);
    redis.invoke(&script).await
}

/// The newest generation of a client; 0 if it never had a session.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn generation(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
) -> Result<u64, StoreError> {
    let generation: Option<u64> =
        redis.connection().hget(keys.client(client), "generation").await?;
    Ok(generation.unwrap_or(0))
}

/// The newest session of a client.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn newest_session(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
) -> Result<NewestSession, StoreError> {
    let mut hmget = cmd("HMGET");
    hmget.arg(keys.client(client)).arg(&["generation", "connected_since", "hub", "transport"]);
    let (generation, since, hub, transport): (
        Option<u64>,
        Option<u64>,
        Option<String>,
        Option<String>,
    ) = hmget.query_async(&mut redis.connection()).await?;
    let is_held = since.is_some() && transport.as_deref() == Some(Transport::WebSocket.word());
    Ok(NewestSession { generation: generation.unwrap_or(0), hub: hub.filter(|_| is_held) })
}

/// The client was heard of: what keeps a session over requests.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn touch(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
    now_ms: u64,
) -> Result<(), StoreError> {
    Ok(redis.connection().hset(keys.client(client), "last_seen", now_ms).await?)
}

/// Says for `limits::HUB_TTL` that this hub lives.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn refresh_hub(
    redis: &Redis,
    keys: &HubKeys,
    name: &str,
    version: &str,
) -> Result<(), StoreError> {
    let ttl_ms = HUB_TTL.as_millis() as u64;
    Ok(redis.connection().pset_ex(keys.hub(name), version, ttl_ms).await?)
}

/// Says that this hub has ended.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn remove_hub(redis: &Redis, keys: &HubKeys, name: &str) -> Result<(), StoreError> {
    Ok(redis.connection().del(keys.hub(name)).await?)
}
