//! The sessions of the hub: the generation that fences writes, duplicate identities, and the data of
//! `spoke-hub clients`.
//!
//! A hub process has one key that expires, and a session counts while the key of its hub exists. So the sessions of a
//! killed hub end with it, and an idle client costs no command.

use std::{fmt, sync::LazyLock};

use redis::{AsyncCommands, Script, Value, cmd};

use super::{Redis, StoreError, decode, keys::HubKeys, scripts::of_copy};
use crate::limits::{BELL_TTL, FORMER_INSTANCES_MAX, HUB_TTL, OPEN_TRIES_MAX};
use spoke_protocol::{
    ClientId, Direction, Epoch, InstanceId, PartnerId, Seq,
    limits::{EPOCHS_REMEMBERED_MAX, IDLE_TIMEOUT},
};

static OPEN_SESSION: LazyLock<Script> =
    LazyLock::new(|| of_copy(include_str!("scripts/open_session.lua")));
static RESET: LazyLock<Script> =
    LazyLock::new(|| of_copy(include_str!("scripts/reset_client.lua")));
static CLOSE_SESSION: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/close_session.lua")));

/// A request to open a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionOpen<'a> {
    /// The agent's version.
    pub version: &'a str,
    /// Its address.
    pub address: &'a str,
    /// The hub process.
    pub hub: &'a str,
    /// The agent process.
    pub instance: InstanceId,
    /// The transport.
    pub transport: Transport,
    /// The extent of its out stream, if it was sent.
    pub reach: Option<OriginReach>,
    /// When the client was registered, in milliseconds since 1970; 0 if that is not known.
    pub registered_at_ms: u64,
    /// The epochs of its out stream and of its in stream, from its HELLO.
    pub epochs: (Epoch, Epoch),
}

/// The extent of a device's out stream, from its HELLO. It is only shown to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OriginReach {
    /// The first entry that it still has; `0-0` for none.
    pub first: Seq,
    /// The last ID that it has generated.
    pub last: Seq,
    /// The number of entries ever added to it.
    pub added: u64,
}

/// The transport of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A connection. The session ends with it.
    WebSocket,
    /// Requests. The session ends after [`IDLE_TIMEOUT`] without one.
    Http,
}

/// The result of [`open_session`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOpened {
    /// The session was opened, with this generation and this identity of client and hub. Every older session of the
    /// client is fenced.
    Opened(u64, PartnerId),
    /// The session was refused: a second device has this identity, and the first one is connected.
    Refused(IdentityConflict),
    /// The session was refused: the epoch of a stream is more than [`EPOCHS_REMEMBERED_MAX`] ahead of the one that is
    /// known here.
    EpochAhead(Direction, Epoch),
}

/// The connected device with the same identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConflict {
    /// Its address.
    pub address: String,
    /// Since when it is connected, in milliseconds since 1970.
    pub connected_since_ms: u64,
    /// The number of sessions of this client that were refused so far.
    pub refused: u64,
    /// Whether the refused process was not refused before, since it was last connected.
    pub is_first: bool,
}

/// The newest session of a client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewestSession {
    /// Its generation; 0 if there was none.
    pub generation: u64,
    /// The hub that has its connection, while there is one.
    pub hub: Option<String>,
}

impl Transport {
    /// Returns the word in the client's hash.
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
    /// Parses the text that `Display` writes; none for any other text.
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

/// Opens a session, or refuses a second device.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn open_session(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
    open: &SessionOpen<'_>,
    now_ms: u64,
) -> Result<SessionOpened, StoreError> {
    // Most clients come back to the same hub, or their last session is closed.
    let mut assumed = open.hub.to_owned();
    for _ in 0..OPEN_TRIES_MAX {
        let reply = try_open((redis, keys), client, open, (&assumed, now_ms)).await?;
        match session_opened(reply, client)? {
            OpenReply::Opened(opened) => return Ok(opened),
            OpenReply::OtherHub(hub) => assumed = hub,
        }
    }
    Err(StoreError::contended("the hub of the client's session changed with every try"))
}

async fn try_open(
    (redis, keys): (&Redis, &HubKeys),
    client: &ClientId,
    open: &SessionOpen<'_>,
    (assumed_hub, now_ms): (&str, u64),
) -> Result<Value, StoreError> {
    let instance = Some(open.instance).filter(|instance| instance.is_known());
    let mut script = OPEN_SESSION.key(keys.client(client));
    script.key(keys.bell(client)).key(keys.identity()).key(keys.hub(assumed_hub));
    script.arg(now_ms).arg(open.version).arg(open.address).arg(open.hub);
    script.arg(instance.map(|instance| instance.to_string()).unwrap_or_default());
    script.arg(open.transport.word()).arg(assumed_hub);
    script.arg(IDLE_TIMEOUT.as_millis() as u64).arg(FORMER_INSTANCES_MAX);
    script.arg(BELL_TTL.as_millis() as u64);
    script.arg(open.reach.map(|reach| reach.to_string()).unwrap_or_default());
    let (up, down) = open.epochs;
    script.arg(open.registered_at_ms).arg(up.0).arg(down.0).arg(EPOCHS_REMEMBERED_MAX);
    script.arg(new_identity());
    redis.invoke(&script).await
}

/// An identity for a hub that has none.
pub(crate) fn new_identity() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// A reply of open_session.lua.
enum OpenReply {
    Opened(SessionOpened),
    /// Nothing was changed: this hub has the last session.
    OtherHub(String),
}

fn session_opened(reply: Value, client: &ClientId) -> Result<OpenReply, StoreError> {
    let mut parts = decode::list(reply)?.into_iter();
    let mut next = || parts.next().ok_or(decode::unexpected("the reply of open_session.lua"));
    Ok(OpenReply::Opened(match decode::bytes(next()?)?.as_ref() {
        b"hub" => return Ok(OpenReply::OtherHub(decode::text(next()?)?)),
        b"begun" => {
            let (generation, hub) = (decode::count(next()?)?, decode::text(next()?)?);
            SessionOpened::Opened(generation, PartnerId::new(&hub, client))
        }
        b"epoch-ahead" => {
            let direction = Direction::from_word(&decode::text(next()?)?);
            let direction = direction.ok_or(decode::unexpected("the reply of open_session.lua"))?;
            SessionOpened::EpochAhead(direction, Epoch(decode::count(next()?)?))
        }
        _ => SessionOpened::Refused(IdentityConflict {
            address: String::from_utf8_lossy(&decode::bytes(next()?)?).into_owned(),
            connected_since_ms: decode::count(next()?)?,
            refused: decode::count(next()?)?,
            is_first: decode::count(next()?)? == 1,
        }),
    }))
}

/// Resets the cursor of a client in a new epoch, and returns that epoch; none if the hub has no cursor of this client.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn reset_client(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
) -> Result<Option<Epoch>, StoreError> {
    let epoch: u64 = redis.invoke(&RESET.key(keys.client(client))).await?;
    Ok(Some(Epoch(epoch)).filter(|epoch| epoch.is_known()))
}

/// Closes a session, unless a newer one has been opened.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn close_session(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
    generation: u64,
    now_ms: u64,
) -> Result<(), StoreError> {
    let mut script = CLOSE_SESSION.key(keys.client(client));
    script.arg(generation).arg(now_ms);
    redis.invoke(&script).await
}

/// Returns the newest generation of a client; 0 if it never had a session.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn generation(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
) -> Result<u64, StoreError> {
    let generation: Option<u64> =
        redis.connection().hget(keys.client(client), "generation").await?;
    Ok(generation.unwrap_or(0))
}

/// Returns the newest session of a client.
///
/// # Errors
/// [`StoreError`] if Redis fails.
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

/// Refreshes the key of this hub for [`HUB_TTL`].
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn refresh_hub(
    redis: &Redis,
    keys: &HubKeys,
    name: &str,
    version: &str,
) -> Result<(), StoreError> {
    let ttl_ms = HUB_TTL.as_millis() as u64;
    Ok(redis.connection().pset_ex(keys.hub(name), version, ttl_ms).await?)
}

/// Removes the key of this hub.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn remove_hub(redis: &Redis, keys: &HubKeys, name: &str) -> Result<(), StoreError> {
    Ok(redis.connection().del(keys.hub(name)).await?)
}
