//! The newest entries of one client in both directions, and its lines of the loss ledger, cut to what is shown to a
//! person.

use std::sync::LazyLock;

use bytes::Bytes;
use redis::{Script, Value};

use crate::{
    Redis, StoreError, decode,
    limits::{LOSSES_SCAN, RECENT_BYTES, RECENT_ENTRIES, RECENT_FIELDS, RECENT_SCAN},
    loss_ledger::{self, LedgerLine},
    partitions::Partition,
    scripts::looking_back,
};
use spoke_protocol::{ClientId, Seq};

static RECENT: LazyLock<Script> =
    LazyLock::new(|| looking_back(include_str!("../scripts/recent.lua")));

/// The newest entries of a stream, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecentEntries {
    /// The entries.
    pub entries: Vec<RecentEntry>,
    /// Whether there may be older ones.
    pub is_cut: bool,
}

/// The shown part of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentEntry {
    /// Its ID in this stream.
    pub id: Seq,
    /// Its first fields.
    pub fields: Vec<RecentField>,
    /// The number of other fields.
    pub fields_left: usize,
}

/// The shown part of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentField {
    /// The beginning of its name.
    pub name: Bytes,
    /// The beginning of its value.
    pub value: Bytes,
    /// The number of other bytes of the value.
    pub bytes_left: usize,
}

/// Returns the newest entries from a client, among the newest entries of all clients.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn recent_up(
    Partition { redis, keys }: &Partition,
    client: &ClientId,
) -> Result<RecentEntries, StoreError> {
    let (all, at_once) = RECENT_SCAN;
    let mut recent = RecentEntries::default();
    let mut from = "+".to_owned();
    for _ in 0..all / at_once {
        let wanted = RECENT_ENTRIES - recent.entries.len();
        let (next, mut found) =
            read_recent(redis, &keys.inbound(), &from, client.as_str(), wanted).await?;
        recent.entries.append(&mut found);
        recent.is_cut = !next.is_empty();
        if next.is_empty() || recent.entries.len() >= RECENT_ENTRIES {
            break;
        }
        from = next;
    }
    Ok(recent)
}

/// Returns the newest entries for a client.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn recent_down(
    Partition { redis, keys }: &Partition,
    client: &ClientId,
) -> Result<RecentEntries, StoreError> {
    let (next, entries) = read_recent(redis, &keys.out(client), "+", "", RECENT_ENTRIES).await?;
    Ok(RecentEntries { entries, is_cut: !next.is_empty() })
}

/// Returns a client's lines among the newest of the ledger, newest first.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn recent_losses(
    Partition { redis, keys }: &Partition,
    client: &ClientId,
) -> Result<Vec<LedgerLine>, StoreError> {
    let (looked, shown) = LOSSES_SCAN;
    let lines = loss_ledger::newest(redis, &keys.lost(), looked).await?;
    Ok(lines.into_iter().filter(|line| line.client == client.as_str()).take(shown).collect())
}

async fn read_recent(
    redis: &Redis,
    stream: &str,
    from: &str,
    client: &str,
    wanted: usize,
) -> Result<(String, Vec<RecentEntry>), StoreError> {
    let mut script = RECENT.key(stream);
    script.arg(from).arg(client).arg(wanted).arg(RECENT_SCAN.1).arg(RECENT_BYTES);
    script.arg(RECENT_FIELDS.0).arg(RECENT_FIELDS.1);
    let mut answer = decode::list(redis.invoke(&script).await?)?.into_iter();
    let mut next = || answer.next().ok_or(decode::unexpected("the reply of recent.lua"));
    let from = decode::text(next()?)?;
    Ok((from, decode::list(next()?)?.into_iter().map(recent_entry).collect::<Result<_, _>>()?))
}

fn recent_entry(entry: Value) -> Result<RecentEntry, StoreError> {
    let mut parts = decode::list(entry)?.into_iter();
    let mut next = || parts.next().ok_or(decode::unexpected("an entry of recent.lua"));
    let (id, fields) = (decode::seq(next()?)?, decode::count(next()?)? as usize);
    let mut shown = Vec::new();
    while let Ok(name) = next() {
        let (value, length) = (decode::bytes(next()?)?, decode::count(next()?)? as usize);
        let bytes_left = length.saturating_sub(value.len());
        shown.push(RecentField { name: decode::bytes(name)?, value, bytes_left });
    }
    let fields_left = fields.saturating_sub(shown.len());
    Ok(RecentEntry { id, fields: shown, fields_left })
}
