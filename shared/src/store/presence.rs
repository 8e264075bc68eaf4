//! Who is connected to the hub: the generation that fences, and what `spoke-hub clients` shows.

use std::sync::LazyLock;

use redis::{AsyncCommands, Script};

use super::{Redis, StoreError, keys::HubKeys};
use crate::client::ClientId;

static ARRIVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("arrive.lua")));
static DEPART: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("depart.lua")));

/// What a new session says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The agent's version.
    pub version: &'a str,
    /// The address it came from.
    pub address: &'a str,
    /// The hub process that holds it.
    pub hub: &'a str,
}

/// Begins a session and gives its generation; every older session of the client is fenced from
/// here on.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn begin(
    redis: &Redis,
    keys: &HubKeys,
    client: &ClientId,
    arrival: &Arrival<'_>,
    now_ms: u64,
) -> Result<u64, StoreError> {
    let mut script = ARRIVE.key(keys.client(client));
    script.arg(now_ms).arg(arrival.version).arg(arrival.address).arg(arrival.hub);
    redis.invoke(&script).await
}

/// Ends a session, unless a newer one has begun.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn end(
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
