//! Trims the in stream of a hub, and counts the entries that a consumer group loses by it.

use std::{sync::LazyLock, time::Duration};

use redis::Script;

use super::{
    Redis, StoreError,
    keys::HubKeys,
    scripts::{DENY_OOM, with_seqs},
};
use crate::limits::{LOST_MAX_LEN, TRIM_ENTRIES_MAX, TRIM_REPORT_INTERVAL};

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
    /// Returns whether the limit of one call was reached, so that there may be more.
    pub fn is_full(&self) -> bool {
        self.entries >= TRIM_ENTRIES_MAX / 2
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
