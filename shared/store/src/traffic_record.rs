//! The traffic that a device has used in a period of its budget, in its state hash.

use redis::cmd;

use super::{Redis, StoreError, keys::DeviceKeys};

const FIELDS: [&str; 2] = ["budget_start", "budget_used"];

/// The traffic of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrafficRecord {
    /// The start of the period, in milliseconds since 1970.
    pub start_ms: u64,
    /// Bytes used in it, or a little more.
    pub used: u64,
}

/// Reads the record; none if there is none, or it cannot be parsed.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn read(redis: &Redis, keys: &DeviceKeys) -> Result<Option<TrafficRecord>, StoreError> {
    let mut hmget = cmd("HMGET");
    hmget.arg(keys.state()).arg(&FIELDS);
    let (start, used): (Option<String>, Option<String>) =
        hmget.query_async(&mut redis.connection()).await?;
    let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
    Ok(number(start).zip(number(used)).map(|(start_ms, used)| TrafficRecord { start_ms, used }))
}

/// Writes the record.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn write(
    redis: &Redis,
    keys: &DeviceKeys,
    record: TrafficRecord,
) -> Result<(), StoreError> {
    let [start, used] = FIELDS;
    let mut hset = cmd("HSET");
    hset.arg(keys.state()).arg(start).arg(record.start_ms).arg(used).arg(record.used);
    Ok(hset.query_async(&mut redis.connection()).await?)
}
