//! What auth keeps in Redis: clients and their sessions. What has to change together changes in one
//! script, and whatever a script's caller found out beforehand the script checks again.

mod keys;
mod operator;
mod record;
mod scripts;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use spoke_shared::{
    client::ClientId,
    limits::TOKENS_PER_CLIENT_MAX,
    store::{Redis, StoreError, session},
};

pub use operator::{Extended, Listed, Provisioning};
pub use record::{ClientRecord, Standing};

use self::{
    keys::Keys,
    scripts::{LOGIN, LOGOUT, REFRESH, REGISTER, ROTATE},
};
use crate::token::SessionToken;

/// Auth's part of Redis. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    redis: Redis,
    prefix: String,
    keys: Keys,
    session_ttl: Duration,
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

    /// Whether Redis answers.
    ///
    /// # Errors
    /// `StoreError` says why not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.redis.ping().await
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

    /// Registers the client unless somebody was faster.
    pub async fn register(&self, it: &Registration<'_>) -> Result<Registered, StoreError> {
        let mut call = REGISTER.prepare_invoke();
        call.key(self.keys.client(it.client))
            .key(self.keys.sessions(it.client))
            .arg(it.otp_secret.expose_secret())
            .arg(it.step)
            .arg(it.now_ms)
            .arg(it.secret_hash.expose_secret());
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
        secret_hash: &SecretString,
        token: &SessionToken,
    ) -> Result<bool, StoreError> {
        let mut call = LOGIN.prepare_invoke();
        call.key(self.keys.client(client))
            .key(self.session_key(token))
            .key(self.keys.sessions(client))
            .arg(secret_hash.expose_secret())
            .arg(client.as_str())
            .arg(self.session_ttl_ms())
            .arg(TOKENS_PER_CLIENT_MAX);
        self.redis.invoke(&call).await
    }

    /// Opens a session with `new` for the holder of `live`, and says who that is; none when `live`
    /// is no live session or its client may not come any more.
    pub async fn refresh(
        &self,
        live: &SessionToken,
        new: &SessionToken,
    ) -> Result<Option<ClientId>, StoreError> {
        let Some(client) = self.client_of(live).await? else { return Ok(None) };
        let mut call = REFRESH.prepare_invoke();
        call.key(self.keys.client(&client))
            .key(self.session_key(new))
            .key(self.keys.sessions(&client))
            .key(self.session_key(live))
            .arg(client.as_str())
            .arg(self.session_ttl_ms())
            .arg(TOKENS_PER_CLIENT_MAX);
        let is_open: bool = self.redis.invoke(&call).await?;
        Ok(is_open.then_some(client))
    }

    /// Ends a session and says whose it was; none when there was none to end.
    pub async fn log_out(&self, token: &SessionToken) -> Result<Option<ClientId>, StoreError> {
        let Some(client) = self.client_of(token).await? else { return Ok(None) };
        let mut call = LOGOUT.prepare_invoke();
        call.key(self.session_key(token)).key(self.keys.sessions(&client));
        let was_live: bool = self.redis.invoke(&call).await?;
        Ok(was_live.then_some(client))
    }

    async fn client_of(&self, token: &SessionToken) -> Result<Option<ClientId>, StoreError> {
        let sessions = session::Sessions::new(self.redis.clone(), &self.prefix);
        Ok(sessions.client_of(token.secret()).await?.map(|found| found.client))
    }

    fn session_key(&self, token: &SessionToken) -> String {
        session::session_key(&self.prefix, &token.digest())
    }

    fn session_ttl_ms(&self) -> u64 {
        u64::try_from(self.session_ttl.as_millis()).unwrap_or(u64::MAX)
    }
}
