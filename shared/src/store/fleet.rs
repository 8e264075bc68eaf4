//! What an operator at the hub asks of Redis: who the clients are, what came in, and to send one entry.

use bytes::Bytes;
use redis::{AsyncCommands, Value, cmd};

use super::{Redis, StoreError, keys::HubKeys, origin::OriginStore, presence::Transport, reply};
use crate::{
    client::ClientId,
    entry::{Entry, Field},
    limits::IDLE_TIMEOUT,
    seq::{Epoch, Seq},
    sync::position::Standing,
};

/// What the hub knows of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRow {
    /// Who it is.
    pub client: ClientId,
    /// Since when it is connected, in milliseconds since 1970.
    pub connected_since: Option<u64>,
    /// How, by the word of `presence::Transport`; while it is connected.
    pub transport: Option<String>,
    /// The hub process that it is connected to.
    pub hub: Option<String>,
    /// When it was last heard of.
    pub last_seen: Option<u64>,
    /// The agent's version, as it says itself.
    pub version: String,
    /// Where it came from last.
    pub address: String,
    /// Other devices with its identity.
    pub clones: Option<Clones>,
    /// The epoch and seq of its last entry here.
    pub cursor: (Epoch, Seq),
    /// How many of its entries were appended.
    pub received: u64,
    /// How many of its entries are known to be lost.
    pub lost: u64,
    /// Its out stream.
    pub out: Standing,
}

/// Sessions that were refused since another device held the client's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clones {
    /// How many.
    pub refused: u64,
    /// Where the last of them came from.
    pub address: String,
    /// When that was, in milliseconds since 1970.
    pub at_ms: u64,
}

/// All clients that ever had a session or an entry here, by name.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn clients(
    redis: &Redis,
    keys: &HubKeys,
    now_ms: u64,
) -> Result<Vec<ClientRow>, StoreError> {
    let prefix = keys.client_prefix();
    let mut names = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(format!("{}*:h", escaped(&prefix)));
        scan.arg("COUNT").arg(1000);
        let (next, found): (String, Vec<String>) =
            scan.query_async(&mut redis.connection()).await?;
        let inner = |key: &str| key.strip_prefix(&prefix)?.strip_suffix(":h")?.parse().ok();
        names.extend(found.iter().filter_map(|key| inner(key)));
        if next == "0" {
            break;
        }
        cursor = next;
    }
    names.sort();
    // SCAN may give a key twice.
    names.dedup();
    let mut rows = Vec::with_capacity(names.len());
    for client in names {
        rows.push(row(redis, keys, client, now_ms).await?);
    }
    Ok(rows)
}

async fn row(
    redis: &Redis,
    keys: &HubKeys,
    client: ClientId,
    now_ms: u64,
) -> Result<ClientRow, StoreError> {
    const FIELDS: [&str; 13] = [
        "connected_since",
        "last_seen",
        "agent_version",
        "address",
        "in_epoch",
        "in_seq",
        "in_added",
        "hub",
        "transport",
        "clones",
        "clone_address",
        "clone_at",
        "in_lost",
    ];
    let mut hmget = cmd("HMGET");
    hmget.arg(keys.client(&client)).arg(&FIELDS);
    let known: Vec<Option<String>> = hmget.query_async(&mut redis.connection()).await?;
    let text = |at: usize| known.get(at).cloned().flatten().unwrap_or_default();
    let number = |at: usize| text(at).parse().ok();
    let is_live = is_live(redis, keys, &text(7), &text(8), number(1), now_ms).await?;
    let word = |at: usize| Some(text(at)).filter(|text| is_live && !text.is_empty());
    let out = OriginStore::hub(redis.clone(), keys, &client).standing().await?;
    Ok(ClientRow {
        connected_since: number(0).filter(|_| is_live),
        transport: word(8),
        hub: word(7),
        last_seen: number(1),
        version: text(2),
        address: text(3),
        clones: number(9).map(|refused| Clones {
            refused,
            address: text(10),
            at_ms: number(11).unwrap_or(0),
        }),
        cursor: (Epoch(text(4).parse().unwrap_or(0)), text(5).parse().unwrap_or_default()),
        received: number(6).unwrap_or(0),
        lost: number(12).unwrap_or(0),
        out,
        client,
    })
}

/// Whether a session that was not seen to end still is one; arrive.lua has the same rule.
async fn is_live(
    redis: &Redis,
    keys: &HubKeys,
    hub: &str,
    transport: &str,
    last_seen: Option<u64>,
    now_ms: u64,
) -> Result<bool, StoreError> {
    if transport == Transport::Http.word() {
        let silent_ms = now_ms.abs_diff(last_seen.unwrap_or(0));
        return Ok(u128::from(silent_ms) < IDLE_TIMEOUT.as_millis());
    }
    Ok(redis.connection().exists(keys.hub(hub)).await?)
}

/// The newest ID of the in stream.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn newest(redis: &Redis, keys: &HubKeys) -> Result<Seq, StoreError> {
    let mut last = cmd("XREVRANGE");
    last.arg(keys.inbound()).arg("+").arg("-").arg("COUNT").arg(1);
    let entries = reply::entries(last.query_async(&mut redis.connection()).await?)?;
    Ok(entries.first().map_or(Seq::ZERO, |entry| entry.seq))
}

/// Entries of the in stream after `after`, without waiting.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn inbound(
    redis: &Redis,
    keys: &HubKeys,
    after: Seq,
    count: usize,
) -> Result<Vec<Entry>, StoreError> {
    let mut range = cmd("XRANGE");
    range.arg(keys.inbound()).arg(format!("({after}")).arg("+").arg("COUNT").arg(count);
    reply::entries(range.query_async(&mut redis.connection()).await?)
}

/// Adds an entry to a client's out stream; none if nobody knows this client, neither hub nor auth.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn send(
    (redis, keys): (&Redis, &HubKeys),
    (auth_redis, auth_key): (&Redis, &str),
    client: &ClientId,
    fields: &[Field],
) -> Result<Option<Seq>, StoreError> {
    let (mut here, mut there) = (cmd("EXISTS"), cmd("EXISTS"));
    let known: u64 = here.arg(keys.client(client)).query_async(&mut redis.connection()).await?;
    let let_in: u64 = there.arg(auth_key).query_async(&mut auth_redis.connection()).await?;
    if known + let_in == 0 {
        return Ok(None);
    }
    let mut xadd = cmd("XADD");
    xadd.arg(keys.out(client)).arg("*");
    for (name, value) in fields {
        xadd.arg::<&[u8]>(name).arg::<&[u8]>(value);
    }
    let id: Value = xadd.query_async(&mut redis.connection()).await?;
    reply::seq(id).map(Some)
}

/// A prefix as a pattern that matches itself.
fn escaped(prefix: &str) -> String {
    prefix.chars().fold(String::new(), |mut text, char| {
        if "*?[]\\^".contains(char) {
            text.push('\\');
        }
        text.push(char);
        text
    })
}

/// Fields of text, as a command line gives them.
pub fn fields(words: &[String]) -> Vec<Field> {
    let bytes = |word: &String| Bytes::copy_from_slice(word.as_bytes());
    words.chunks_exact(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1]))).collect()
}
