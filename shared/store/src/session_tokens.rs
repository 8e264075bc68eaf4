//! Who a session token belongs to: what auth writes and the hub asks.
//!
//! Only the digest of a token is in Redis, so that whoever reads the database cannot take a
//! device's place. The digest needs no salt: a token is 256 random bits and cannot be guessed.

use std::sync::LazyLock;

use redis::Script;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{Redis, StoreError};
use spoke_protocol::client_id::ClientId;

/// The field of a session that holds its client's name.
pub const CLIENT_FIELD: &str = "client";
/// Functions that auth's scripts and the lookup of a session share.
pub const CLIENT_LUA: &str = include_str!("scripts/client_registration.lua");

/// Writes nothing, so a hub may look at a replica.
static LOOKUP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        &["#!lua flags=no-writes\n", CLIENT_LUA, include_str!("scripts/session.lua")].concat(),
    )
});

/// The client that a live session belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionClient {
    /// Its name.
    pub client: ClientId,
    /// The registration that the session belongs to, in milliseconds since 1970. It grows strictly with
    /// each registration of a new secret; 0 if the session has none.
    pub registered_at_ms: u64,
    /// The key of the session that it was refreshed into.
    pub next: Option<String>,
}

/// Reads live sessions. Cheap to clone.
#[derive(Clone)]
pub struct SessionTokens {
    redis: Redis,
    prefix: String,
}

impl SessionTokens {
    /// The sessions below auth's key prefix.
    pub fn new(redis: Redis, prefix: impl Into<String>) -> Self {
        Self { redis, prefix: prefix.into() }
    }

    /// Returns the client of this token; none if the token was never given out, its session has ended,
    /// or its client is disabled, deleted, or registered again since. One round trip.
    ///
    /// # Errors
    /// `StoreError` when Redis does not answer; nothing is known about the token then.
    pub async fn find_client(
        &self,
        token: &SecretString,
    ) -> Result<Option<SessionClient>, StoreError> {
        self.find_client_by_key(&session_key(&self.prefix, &digest(token.expose_secret()))).await
    }

    /// The same by the session's key.
    ///
    /// # Errors
    /// As `client_of`.
    pub async fn find_client_by_key(&self, key: &str) -> Result<Option<SessionClient>, StoreError> {
        let mut call = LOOKUP.prepare_invoke();
        call.key(key).arg(client_prefix(&self.prefix));
        let found: Option<(String, u64, Option<String>)> = self.redis.invoke(&call).await?;
        Ok(found.and_then(|(name, registered_at_ms, next)| {
            Some(SessionClient { client: name.parse().ok()?, registered_at_ms, next })
        }))
    }
}

/// The SHA-256 of a token, as 64 hex digits.
pub fn digest(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// The key of the session with this digest. It is gone when the session has ended.
pub fn session_key(prefix: &str, digest: &str) -> String {
    format!("{}{digest}:h", session_prefix(prefix))
}

/// What all session keys begin with: whoever watches keys for ended sessions watches these.
pub fn session_prefix(prefix: &str) -> String {
    format!("{prefix}:session:")
}

/// The hash of a client, which operators may also write by hand.
pub fn client_key(prefix: &str, client: &ClientId) -> String {
    format!("{}{client}:h", client_prefix(prefix))
}

/// What the keys of all clients begin with.
pub fn client_prefix(prefix: &str) -> String {
    format!("{prefix}:client:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_kept_under_the_digest_of_its_token() {
        assert_eq!(
            session_key("spoke-auth", &digest("abc")),
            "spoke-auth:session:\
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad:h"
        );
    }
}
