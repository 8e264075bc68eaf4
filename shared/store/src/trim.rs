//! Trims the in stream of a hub: only what every consumer group has read, or by length and age alone. The latter counts
//! the entries that a consumer group loses by it.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use redis::{FromRedisValue, Script, Value, cmd};

use super::{
    Redis, StoreError,
    keys::HubKeys,
    scripts::{DENY_OOM, with_seqs},
};
use crate::limits::{LOST_MAX_LEN, TRIM_ENTRIES_MAX, TRIM_REPORT_INTERVAL};
use spoke_protocol::Seq;

static TRIM: LazyLock<Script> =
    LazyLock::new(|| with_seqs(DENY_OOM, include_str!("scripts/trim.lua")));

/// The result of trimming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// The number of removed entries.
    pub entries: u64,
    /// The number of those that a consumer group had not read. They are in the ledger.
    pub unread: u64,
}

impl Trimmed {
    /// Returns whether there may be more to remove.
    pub fn has_more(&self) -> bool {
        has_more(self.entries)
    }
}

/// Removes entries beyond about `max_len` that are older than `min_age`: at most [`TRIM_ENTRIES_MAX`].
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn trim(
    redis: &Redis,
    keys: &HubKeys,
    max_len: u64,
    min_age: Duration,
) -> Result<Trimmed, StoreError> {
    let mut script = TRIM.key(keys.inbound());
    script.key(keys.trim()).key(keys.lost());
    script.arg(max_len).arg(min_age.as_millis() as u64).arg(TRIM_ENTRIES_MAX);
    script.arg(TRIM_REPORT_INTERVAL.as_millis() as u64).arg(LOST_MAX_LEN);
    let (entries, unread): (u64, u64) = redis.invoke(&script).await?;
    Ok(Trimmed { entries, unread })
}

/// The result of trimming only what is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrimmedRead {
    /// The number of removed entries.
    pub entries: u64,
    /// The number of entries that are left.
    pub left: u64,
    /// Whether more would have been removed if groups had read more, or if there were a group.
    pub is_held: bool,
    /// The consumer group that has read and acknowledged least; none if there is no group.
    pub slowest_group: Option<String>,
}

impl TrimmedRead {
    /// Returns whether there may be more to remove.
    pub fn has_more(&self) -> bool {
        has_more(self.entries)
    }
}

/// Removes entries beyond about `max_len` that are older than `min_age` and that every consumer group has acknowledged:
/// at most [`TRIM_ENTRIES_MAX`]. Without a group nothing is known to be read, and nothing is removed.
///
/// Groups only move forward, so what they had acknowledged when they were asked is safe to remove later.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn trim_read(
    redis: &Redis,
    keys: &HubKeys,
    max_len: u64,
    min_age: Duration,
) -> Result<TrimmedRead, StoreError> {
    let (stream, mut connection) = (keys.inbound(), redis.connection());
    let left: u64 = cmd("XLEN").arg(&stream).query_async(&mut connection).await?;
    let mut trimmed = TrimmedRead { left, ..TrimmedRead::default() };
    if left <= max_len {
        return Ok(trimmed);
    }
    let (seconds, _): (u64, u64) = cmd("TIME").query_async(&mut connection).await?;
    let oldest = Duration::from_secs(seconds).saturating_sub(min_age).as_millis() as u64;
    let mut slowest: Option<(Seq, String)> = None;
    let groups = cmd("XINFO").arg("GROUPS").arg(&stream).query_async(&mut connection).await?;
    for group in Vec::<GroupPosition>::from_redis_value(groups)? {
        let unread = group.first_unacknowledged(redis, &stream).await?;
        if slowest.as_ref().is_none_or(|(least, _)| unread < *least) {
            slowest = Some((unread, group.name));
        }
    }
    let oldest = Seq::new(oldest, 0);
    trimmed.is_held = slowest.as_ref().is_none_or(|(unread, _)| *unread < oldest);
    let Some((unread, group)) = slowest else { return Ok(trimmed) };
    let keep_from = unread.min(oldest);
    let excess = (left - max_len).min(TRIM_ENTRIES_MAX);
    let mut trim = cmd("XTRIM");
    trim.arg(&stream).arg("MINID").arg("~").arg(keep_from.to_string());
    trim.arg("LIMIT").arg(excess);
    trimmed.entries = trim.query_async(&mut connection).await?;
    trimmed.left -= trimmed.entries;
    trimmed.slowest_group = Some(group);
    Ok(trimmed)
}

/// Returns whether the limit of one call was reached; an approximate one may be missed by a little.
fn has_more(removed: u64) -> bool {
    removed >= TRIM_ENTRIES_MAX / 2
}

/// The position of a consumer group.
struct GroupPosition {
    name: String,
    last_delivered: Seq,
    pending: u64,
}

impl FromRedisValue for GroupPosition {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        let mut fields = HashMap::<String, Value>::from_redis_value(value)?;
        let mut field = |name: &str| {
            let missing = || redis::ParsingError::from(format!("XINFO GROUPS has no {name}"));
            fields.remove(name).ok_or_else(missing)
        };
        Ok(Self {
            name: String::from_redis_value(field("name")?)?,
            last_delivered: seq(field("last-delivered-id")?)?,
            pending: u64::from_redis_value(field("pending")?)?,
        })
    }
}

impl GroupPosition {
    /// Returns the first ID that this group may not have acknowledged yet.
    async fn first_unacknowledged(&self, redis: &Redis, stream: &str) -> Result<Seq, StoreError> {
        let next = self.last_delivered.after();
        if self.pending == 0 {
            return Ok(next);
        }
        let mut pending = cmd("XPENDING");
        pending.arg(stream).arg(&self.name);
        let (_, first, _, _): (u64, Value, Value, Value) =
            pending.query_async(&mut redis.connection()).await?;
        match first {
            // All were acknowledged in the meantime.
            Value::Nil => Ok(next),
            first => Ok(next.min(seq(first).map_err(redis::RedisError::from)?)),
        }
    }
}

fn seq(value: Value) -> Result<Seq, redis::ParsingError> {
    let text = String::from_redis_value(value)?;
    text.parse().map_err(|_| redis::ParsingError::from(format!("{text} is not a stream ID")))
}
