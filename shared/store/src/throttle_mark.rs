//! The mark in a client's hash that a hub slows the client down, for `spoke-hub clients`.
//!
//! The hub refreshes the mark while that lasts, and removes it at the end. A hub that is killed leaves a mark that
//! is no longer refreshed, so a reader looks at its age.

use redis::cmd;

use super::{Redis, StoreError, keys::HubKeys};
use spoke_protocol::ClientId;

/// The fields of the mark.
pub(crate) const FIELDS: [&str; 3] = ["throttled_by", "throttled_since", "throttled_at"];

/// A hub slows a client down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThrottleMark {
    /// Why: `rate` for its own rate, `memory` where Redis is nearly full.
    pub cause: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// When the mark was written, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Writes the mark.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn write(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
    mark: &ThrottleMark,
) -> Result<(), StoreError> {
    let [cause, since, at] = FIELDS;
    let mut hset = cmd("HSET");
    hset.arg(keys.client(client)).arg(cause).arg(&mark.cause);
    hset.arg(since).arg(mark.since_ms).arg(at).arg(mark.at_ms);
    Ok(hset.query_async(&mut redis.connection()).await?)
}

/// Removes the mark.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn remove(redis: &Redis, keys: &HubKeys, client: &ClientId) -> Result<(), StoreError> {
    let mut hdel = cmd("HDEL");
    hdel.arg(keys.client(client)).arg(&FIELDS);
    Ok(hdel.query_async(&mut redis.connection()).await?)
}
