//! Auth's part of Redis: clients and their sessions. Changes that belong together are made by one script, and each
//! script checks again what its caller has read before.

mod keys;
mod admin;
mod client_record;
mod scripts;

use std::time::Duration;

use redis::{FromRedisValue, ScriptInvocation, Value};
use secrecy::{ExposeSecret, SecretString};
use spoke_protocol::ClientId;
use spoke_store::{Redis, StoreError, session_tokens};

pub(crate) use admin::{ClientListing, ExtendResult, ProvisionMode};
pub(crate) use client_record::{ClientRecord, RegistrationState};

use self::{
    keys::AuthKeys,
    scripts::{ATTEMPT, FORGIVE, LOGIN, LOGOUT, REFRESH, REGISTER, ROTATE},
};
use crate::{
    limits::{
        REFRESHED_LIFE, SESSION_CALLS_MAX, TOKENS_PER_CLIENT_MAX, WRONG_CODES_ALL_MAX,
        WRONG_CODES_ALL_WINDOW, WRONG_CODES_FEW, WRONG_CODES_MAX,
    },
    session_token::SessionToken,
};

/// Reads and writes clients and sessions. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AuthStore {
    redis: Redis,
    prefix: String,
    keys: AuthKeys,
    session_ttl: Duration,
}

/// A client, read for a registration.
#[derive(Debug)]
pub(crate) struct RegistrationLookup {
    /// `None` for an unknown client.
    pub(crate) record: Option<ClientRecord>,
    /// How the registration was counted.
    pub(crate) count: AttemptCount,
}

/// How a registration was counted before its code was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptCount {
    /// Not counted: the client cannot register.
    NotCounted,
    /// Counted as wrong.
    Wrong {
        /// Wrong ones in the client's window, this one included.
        count: u32,
        /// Wrong ones for all clients, this one included.
        all: u32,
        /// Whether codes are locked from now on.
        is_last: bool,
    },
    /// Not counted: there were too many, and the client's codes are locked.
    Locked,
}

/// The result of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegisterResult {
    /// The secret is the client's from now on.
    Registered,
    /// The client has a secret already, this one or another.
    Taken,
    /// The deadline has passed, the code was used, or the client was revoked or provisioned again.
    Refused,
}

/// A bcrypt hash of a device's secret, and the secret's tag.
#[derive(Clone, Copy)]
pub(crate) struct TaggedHash<'a> {
    /// The bcrypt hash.
    pub(crate) hash: &'a SecretString,
    /// [`DeviceSecret::tag`](crate::device_secret::DeviceSecret::tag).
    pub(crate) tag: &'a str,
}

/// A registration with a right code or proof.
pub(crate) struct Registration<'a> {
    /// The client that registers.
    pub(crate) client: &'a ClientId,
    /// The stored OTP secret that the code was checked with.
    pub(crate) otp_secret: &'a SecretString,
    /// The time step that the code belongs to.
    pub(crate) step: u64,
    /// The time of the registration, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// The device's secret.
    pub(crate) secret: TaggedHash<'a>,
}

impl AuthStore {
    /// Uses the keys below `prefix`. Sessions live for `session_ttl`.
    pub(crate) fn new(redis: Redis, prefix: &str, session_ttl: Duration) -> Self {
        Self { redis, prefix: prefix.to_owned(), keys: AuthKeys::new(prefix), session_ttl }
    }

    /// Returns the Redis, for its statistics.
    pub(crate) fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Returns the key that a probe writes to. It never exists.
    pub(crate) fn probe_key(prefix: &str) -> String {
        format!("{prefix}:probe:x")
    }

    /// Reads a client; `None` for an unknown one.
    ///
    /// # Errors
    /// [`StoreError`], as of all methods below.
    pub(crate) async fn client(
        &self,
        client: &ClientId,
    ) -> Result<Option<ClientRecord>, StoreError> {
        let key = self.keys.client(client);
        let mut pipe = redis::pipe();
        pipe.exists(&key).hmget(&key, &ClientRecord::FIELDS);
        let (exists, record): (bool, ClientRecord) =
            pipe.query_async(&mut self.redis.connection()).await?;
        Ok(exists.then_some(record))
    }

    /// Reads a client for a registration, and counts a wrong code until [`forgive`](Self::forgive).
    pub(crate) async fn attempt(
        &self,
        client: &ClientId,
        now_ms: u64,
    ) -> Result<RegistrationLookup, StoreError> {
        let mut call = ATTEMPT.prepare_invoke();
        call.key(self.keys.client(client))
            .key(self.keys.wrong_codes())
            .arg(now_ms)
            .arg(WRONG_CODES_MAX)
            .arg(WRONG_CODES_ALL_MAX)
            .arg(WRONG_CODES_FEW)
            .arg(WRONG_CODES_ALL_WINDOW.as_millis() as u64)
            .arg(&ClientRecord::FIELDS);
        let (exists, record, word, count, all): (bool, ClientRecord, String, u32, u32) =
            self.redis.invoke(&call).await?;
        let count = match word.as_str() {
            "counted" => AttemptCount::Wrong { count, all, is_last: false },
            "last" => AttemptCount::Wrong { count, all, is_last: true },
            "locked" => AttemptCount::Locked,
            _ => AttemptCount::NotCounted,
        };
        Ok(RegistrationLookup { record: exists.then_some(record), count })
    }

    /// Takes back the wrong code that [`attempt`](Self::attempt) counted for the client's deadline.
    pub(crate) async fn forgive(
        &self,
        client: &ClientId,
        deadline_ms: u64,
    ) -> Result<(), StoreError> {
        let mut call = FORGIVE.prepare_invoke();
        call.key(self.keys.client(client)).key(self.keys.wrong_codes()).arg(deadline_ms);
        self.redis.invoke(&call).await
    }

    /// Registers the client, unless it is registered already.
    pub(crate) async fn register(
        &self,
        it: &Registration<'_>,
    ) -> Result<RegisterResult, StoreError> {
        let mut call = REGISTER.prepare_invoke();
        call.key(self.keys.client(it.client))
            .key(self.keys.sessions(it.client))
            .arg(it.otp_secret.expose_secret())
            .arg(it.step)
            .arg(it.now_ms)
            .arg(it.secret.hash.expose_secret())
            .arg(it.secret.tag);
        let answer: String = self.invoke_with_sessions(call).await?;
        Ok(match answer.as_str() {
            "registered" => RegisterResult::Registered,
            "taken" => RegisterResult::Taken,
            _ => RegisterResult::Refused,
        })
    }

    /// Stores the next secret of a client, if `secret_hash` is still the hash of its secret. Returns `false` if not.
    pub(crate) async fn rotate(
        &self,
        client: &ClientId,
        secret_hash: &SecretString,
        next: TaggedHash<'_>,
    ) -> Result<bool, StoreError> {
        let mut call = ROTATE.prepare_invoke();
        call.key(self.keys.client(client))
            .arg(secret_hash.expose_secret())
            .arg(next.hash.expose_secret())
            .arg(next.tag);
        self.redis.invoke(&call).await
    }

    /// Opens a session, if this is still a secret of the client. Returns `false` if not.
    pub(crate) async fn log_in(
        &self,
        client: &ClientId,
        secret: TaggedHash<'_>,
        token: &SessionToken,
    ) -> Result<bool, StoreError> {
        let mut call = LOGIN.prepare_invoke();
        call.key(self.keys.client(client))
            .key(self.session_key(token))
            .key(self.keys.sessions(client))
            .arg(secret.hash.expose_secret())
            .arg(client.as_str())
            .arg(self.session_ttl_ms())
            .arg(TOKENS_PER_CLIENT_MAX)
            .arg(secret.tag);
        self.invoke_with_sessions(call).await
    }

    /// Opens the session `new` for the holder of `live`, which lives for [`REFRESHED_LIFE`] at most from now on.
    /// Returns `false` if `live` has ended or its client was revoked.
    pub(crate) async fn refresh(
        &self,
        client: &ClientId,
        live: &SessionToken,
        new: &SessionToken,
    ) -> Result<bool, StoreError> {
        let mut call = REFRESH.prepare_invoke();
        call.key(self.keys.client(client))
            .key(self.session_key(new))
            .key(self.keys.sessions(client))
            .key(self.session_key(live))
            .arg(client.as_str())
            .arg(self.session_ttl_ms())
            .arg(TOKENS_PER_CLIENT_MAX)
            .arg(REFRESHED_LIFE.as_millis() as u64);
        self.invoke_with_sessions(call).await
    }

    /// Ends a client's session and all others of the same login. Returns `false` if it had ended before.
    pub(crate) async fn log_out(
        &self,
        client: &ClientId,
        token: &SessionToken,
    ) -> Result<bool, StoreError> {
        let mut call = LOGOUT.prepare_invoke();
        call.key(self.session_key(token)).key(self.keys.sessions(client));
        self.invoke_with_sessions(call).await
    }

    /// Runs a script that may end the sessions of a client, with those that the client has as further keys. The script
    /// returns them if they are others than those of the call.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails, or if the sessions change with every try.
    async fn invoke_with_sessions<T: FromRedisValue>(
        &self,
        mut call: ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        for _ in 0..SESSION_CALLS_MAX {
            match self.redis.invoke(&call).await? {
                listed @ Value::Array(_) => {
                    let sessions: Vec<String> = redis::from_redis_value(listed)?;
                    sessions.into_iter().for_each(|session| {
                        call.key(session);
                    });
                }
                answer => return Ok(redis::from_redis_value(answer)?),
            }
        }
        Err(StoreError::contended("the sessions of the client changed with every try"))
    }

    /// Returns the client of a live session; `None` if the session has ended or its client was revoked.
    pub(crate) async fn client_of(
        &self,
        token: &SessionToken,
    ) -> Result<Option<ClientId>, StoreError> {
        let sessions = session_tokens::SessionTokens::new(self.redis.clone(), &self.prefix);
        Ok(sessions.find_client(token.secret()).await?.map(|found| found.client))
    }

    fn session_key(&self, token: &SessionToken) -> String {
        session_tokens::session_key(&self.prefix, &token.digest())
    }

    fn session_ttl_ms(&self) -> u64 {
        u64::try_from(self.session_ttl.as_millis()).unwrap_or(u64::MAX)
    }
}
