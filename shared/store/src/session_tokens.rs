//! Session tokens: auth writes them, and the hub finds the client of a token.
//!
//! Only the digest of a token is in Redis, so that a reader of the database cannot impersonate a device. The digest
//! needs no salt: a token is 256 random bits and cannot be guessed.

use std::sync::LazyLock;

use redis::{AsyncCommands, Script};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{Redis, StoreError};
use spoke_protocol::{ClientId, EntryRate};

/// The field of a session with its client's name.
pub const CLIENT_FIELD: &str = "client";
/// The field of a client with the rate that an operator has set for it, an [`EntryRate`] as text.
pub const RATE_FIELD: &str = "rate";
/// Functions that auth's scripts and the lookup of a session share, in Lua.
pub const CLIENT_LUA: &str = include_str!("scripts/client_registration.lua");

/// Writes nothing, so that a hub may use a replica.
static LOOKUP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        &["#!lua flags=no-writes\n", CLIENT_LUA, include_str!("scripts/session.lua")].concat(),
    )
});

/// The client of a live session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionClient {
    /// Its name.
    pub client: ClientId,
    /// The registration that the session belongs to, in milliseconds since 1970. It grows strictly with
    /// each registration of a new secret; 0 if the session has none.
    pub registered_at_ms: u64,
    /// The key of the session that it was refreshed into.
    pub next: Option<String>,
    /// The rate that an operator has set for the client.
    pub rate: Option<EntryRate>,
}

/// Reads live sessions. Cheap to clone.
#[derive(Clone)]
pub struct SessionTokens {
    redis: Redis,
    prefix: String,
}

impl SessionTokens {
    /// Creates a reader of the sessions with auth's key prefix.
    pub fn new(redis: Redis, prefix: impl Into<String>) -> Self {
        Self { redis, prefix: prefix.into() }
    }

    /// Returns the client of this token; none if the token is unknown, its session has ended, or its client is disabled,
    /// deleted, or registered again since. Two round trips, since the client's key follows from the session.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails; nothing is known about the token then.
    pub async fn find_client(
        &self,
        token: &SecretString,
    ) -> Result<Option<SessionClient>, StoreError> {
        self.find_client_by_key(&session_key(&self.prefix, &digest(token.expose_secret()))).await
    }

    /// Returns the client of the session with this key.
    ///
    /// # Errors
    /// As [`Self::find_client`].
    pub async fn find_client_by_key(&self, key: &str) -> Result<Option<SessionClient>, StoreError> {
        let named: Option<String> = self.redis.connection().hget(key, CLIENT_FIELD).await?;
        let Some(client) = named.and_then(|name| name.parse::<ClientId>().ok()) else {
            return Ok(None);
        };
        let mut call = LOOKUP.prepare_invoke();
        call.key(key).key(client_key(&self.prefix, &client)).arg(client.as_str());
        let found: Option<(u64, Option<String>, Option<String>)> = self.redis.invoke(&call).await?;
        Ok(found.map(|(registered_at_ms, next, rate)| {
            // An invalid rate, written by hand, counts as none.
            let rate = rate.and_then(|rate| rate.parse().ok());
            SessionClient { client, registered_at_ms, next, rate }
        }))
    }
}

/// Returns the SHA-256 of a token, as 64 hex digits.
pub fn digest(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// Returns the key of the session with this digest. The key expires with the session.
pub fn session_key(prefix: &str, digest: &str) -> String {
    format!("{}{digest}:h", session_prefix(prefix))
}

/// Returns the prefix of all session keys, by which ended sessions are watched.
pub fn session_prefix(prefix: &str) -> String {
    format!("{prefix}:session:")
}

/// Returns the key of a client's hash, which operators may also write by hand.
pub fn client_key(prefix: &str, client: &ClientId) -> String {
    format!("{}{client}:h", client_prefix(prefix))
}

/// Returns the prefix of all client keys.
pub fn client_prefix(prefix: &str) -> String {
    format!("{prefix}:client:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_stored_under_the_digest_of_its_token() {
        assert_eq!(
            session_key("spoke-auth", &digest("abc")),
            "spoke-auth:session:\
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad:h"
        );
    }
}
