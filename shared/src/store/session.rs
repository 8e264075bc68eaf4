//! Who a session token belongs to: what auth writes and the hub asks.
//!
//! Only the digest of a token is in Redis, so that whoever reads the database cannot take a
//! device's place. The digest needs no salt: a token is 256 random bits and cannot be guessed.

use redis::AsyncCommands;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{Redis, StoreError};
use crate::client::ClientId;

/// The field of a session that holds its client's name.
pub const CLIENT_FIELD: &str = "client";

/// Reads live sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    redis: Redis,
    prefix: String,
}

impl Sessions {
    /// The sessions below auth's key prefix.
    pub fn new(redis: Redis, prefix: impl Into<String>) -> Self {
        Self { redis, prefix: prefix.into() }
    }

    /// The client whom this token lets in, or none when it was never given out or has ended.
    ///
    /// # Errors
    /// `StoreError` when Redis does not answer; nothing is known about the token then.
    pub async fn client_of(&self, token: &SecretString) -> Result<Option<ClientId>, StoreError> {
        let key = session_key(&self.prefix, &digest(token.expose_secret()));
        let name: Option<String> = self.redis.connection().hget(key, CLIENT_FIELD).await?;
        Ok(name.and_then(|name| name.parse().ok()))
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
