//! What auth keeps in Redis: clients and their sessions. What has to change together changes in one
//! script, and whatever a script's caller found out beforehand the script checks again.

mod keys;
mod operator;
mod record;
mod scripts;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use spoke_protocol::client_id::ClientId;
use spoke_store::{Redis, StoreError, session_tokens};

pub use operator::{Extended, Listed, Provisioning};
pub use record::{ClientRecord, Standing};

use self::{
    keys::Keys,
    scripts::{ATTEMPT, FORGIVE, LOGIN, LOGOUT, REFRESH, REGISTER, ROTATE},
};
use crate::{
    limits::{
        REFRESHED_LIFE, TOKENS_PER_CLIENT_MAX, WRONG_CODES_ALL_MAX, WRONG_CODES_ALL_WINDOW,
        WRONG_CODES_FEW, WRONG_CODES_MAX,
    },
    token::SessionToken,
};

/// Auth's part of Redis. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    redis: Redis,
    prefix: String,
    keys: Keys,
    session_ttl: Duration,
}

/// A client as it was found by an attempt to register.
#[derive(Debug)]
pub struct Attempt {
    /// What is known of it; none for an unknown one.
    pub record: Option<ClientRecord>,
    /// How the attempt was counted.
    pub counted: Counted,
}

/// How an attempt to register was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Not at all: nobody can register here.
    Not,
    /// As a wrong one.
    Wrong {
        /// Of how many in the client's window.
        count: u32,
        /// Of how many for all clients.
        all: u32,
        /// Whether codes are locked from now on.
        is_last: bool,
    },
    /// Not at all: there were too many, and codes are locked.
    Locked,
}

/// What a registration came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The secret is the client's from now on.
    Yes,
    /// The client has a secret already, this one or another.
    Taken,
    /// The deadline passed, the code was used, or the client was revoked or provisioned again.
    No,
}

/// A registration whose code was found right.
pub struct Registration<'a> {
    /// Who registers.
    pub client: &'a ClientId,
    /// The OTP secret that the code was checked with, as stored.
    pub otp_secret: &'a SecretString,
    /// The step the code belongs to.
    pub step: u64,
    /// When this is, ms since 1970.
    pub now_ms: u64,
    /// The bcrypt hash of the device's secret.
    pub secret_hash: &'a SecretString,
    /// The tag of the device's secret.
    pub secret_tag: &'a str,
}

impl Store {
    /// The keys below `prefix`; sessions opened here live for `session_ttl`.
    pub fn new(redis: Redis, prefix: &str, session_ttl: Duration) -> Self {
        Self { redis, prefix: prefix.to_owned(), keys: Keys::new(prefix), session_ttl }
    }

    /// Its Redis, for the figures.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Is never there: what a probe would write to.
    pub fn probe_key(prefix: &str) -> String {
        format!("{prefix}:probe:x")
    }

    /// What is known of a client; none for an unknown one.
    ///
    /// # Errors
    /// `StoreError`, as for all that follow.
    pub async fn client(&self, client: &ClientId) -> Result<Option<ClientRecord>, StoreError> {
        let key = self.keys.client(client);
        let mut pipe = redis::pipe();
        pipe.exists(&key).hmget(&key, &ClientRecord::FIELDS);
        let (exists, record): (bool, ClientRecord) =
            pipe.query_async(&mut self.redis.connection()).await?;
        Ok(exists.then_some(record))
    }

    /// Reads a client that somebody wants to register, and counts that as wrong until `forgive`.
    pub async fn attempt(&self, client: &ClientId, now_ms: u64) -> Result<Attempt, StoreError> {
        let mut call = ATTEMPT.prepare_invoke();
        call.key(self.keys.client(client))
            .key(self.keys.wrong_codes())
            .arg(now_ms)
            .arg(WRONG_CODES_MAX)
            .arg(WRONG_CODES_ALL_MAX)
            .arg(WRONG_CODES_FEW)
            .arg(WRONG_CODES_ALL_WINDOW.as_millis() as u64)
            .arg(&ClientRecord::FIELDS);
        let (is_there, record, word, count, all): (bool, ClientRecord, String, u32, u32) =
            self.redis.invoke(&call).await?;
        let counted = match word.as_str() {
            "counted" => Counted::Wrong { count, all, is_last: false },
            "last" => Counted::Wrong { count, all, is_last: true },
            "locked" => Counted::Locked,
            _ => Counted::Not,
        };
        Ok(Attempt { record: is_there.then_some(record), counted })
    }

    /// Takes back what `attempt` counted for the client's deadline.
    pub async fn forgive(&self, client: &ClientId, deadline_ms: u64) -> Result<(), StoreError> {
        let mut call = FORGIVE.prepare_invoke();
        call.key(self.keys.client(client)).key(self.keys.wrong_codes()).arg(deadline_ms);
        self.redis.invoke(&call).await
    }

    /// Registers the client unless somebody was faster.
    pub async fn register(&self, it: &Registration<'_>) -> Result<Registered, StoreError> {
        let mut call = REGISTER.prepare_invoke();
        call.key(self.keys.client(it.client))
            .key(self.keys.sessions(it.client))
            .arg(it.otp_secret.expose_secret())
            .arg(it.step)
            .arg(it.now_ms)
            .arg(it.secret_hash.expose_secret())
            .arg(it.secret_tag);
        let answer: String = self.redis.invoke(&call).await?;
        Ok(match answer.as_str() {
            "registered" => Registered::Yes,
            "taken" => Registered::Taken,
            _ => Registered::No,
        })
    }

    /// Takes down the secret that a client wants to have next, as hash and tag, if this is still its
    /// secret. False when it is not.
    pub async fn rotate(
        &self,
        client: &ClientId,
        secret_hash: &SecretString,
        (next_hash, next_tag): (&SecretString, &str),
    ) -> Result<bool, StoreError> {
        let mut call = ROTATE.prepare_invoke();
        call.key(self.keys.client(client))
            .arg(secret_hash.expose_secret())
            .arg(next_hash.expose_secret())
            .arg(next_tag);
        self.redis.invoke(&call).await
    }

    /// Opens a session, if this is still a secret of the client's. False when it is not.
    pub async fn log_in(
        &self,
        client: &ClientId,
        (secret_hash, secret_tag): (&SecretString, &str),
        token: &SessionToken,
    ) -> Result<bool, StoreError> {
        let mut call = LOGIN.prepare_invoke();
        call.key(self.keys.client(client))
            .key(self.session_key(token))
            .key(self.keys.sessions(client))
            .arg(secret_hash.expose_secret())
            .arg(client.as_str())
            .arg(self.session_ttl_ms())
            .arg(TOKENS_PER_CLIENT_MAX)
            .arg(secret_tag);
        self.redis.invoke(&call).await
    }

    /// Opens a session with `new` for the client who holds `live`, which stays for `REFRESHED_LIFE` at
    /// most. False when that has ended or its
    /// client may not come any more.
    pub async fn refresh(
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
        self.redis.invoke(&call).await
    }

    /// Ends a client's session and all others of the same login. False when it had ended before.
    pub async fn log_out(
        &self,
        client: &ClientId,
        token: &SessionToken,
    ) -> Result<bool, StoreError> {
        let mut call = LOGOUT.prepare_invoke();
        call.key(self.session_key(token)).key(self.keys.sessions(client));
        self.redis.invoke(&call).await
    }

    /// The client of a live session; none when it has ended or its client may not come any more.
    pub async fn client_of(&self, token: &SessionToken) -> Result<Option<ClientId>, StoreError> {
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
