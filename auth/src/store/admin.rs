//! The changes that an operator makes to clients.

use secrecy::{ExposeSecret, SecretString};
use spoke_protocol::{ClientId, EntryRate};
use spoke_store::StoreError;

use super::{
    AuthStore, ClientRecord,
    scripts::{EXTEND, PROVISION, REVOKE, SET_RATE},
};

/// Keys per step of a scan.
const SCAN_COUNT: usize = 1000;
/// Clients per round trip.
const PAGE: usize = 500;

/// Which clients may be provisioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProvisionMode {
    /// Only an unknown one.
    New,
    /// A known one too: its former secret is void and its sessions end.
    Again,
}

/// The result of moving a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtendResult {
    /// The deadline was moved.
    Extended,
    /// The client is unknown, or was not provisioned.
    Unknown,
    /// The client has registered.
    Registered,
    /// The client is revoked.
    Revoked,
}

/// A client, as the commands show it.
#[derive(Debug, Clone)]
pub(crate) struct ClientListing {
    /// Its ID.
    pub(crate) client: ClientId,
    /// Its stored fields.
    pub(crate) record: ClientRecord,
    /// The number of its live sessions.
    pub(crate) sessions: u64,
    /// Whether its codes are locked, so that only a proof registers it.
    pub(crate) is_code_locked: bool,
}

impl AuthStore {
    /// Gives the client an OTP secret and a deadline. Returns the number of sessions that ended by it; `None` if the
    /// client is known and `mode` is [`ProvisionMode::New`].
    ///
    /// # Errors
    /// [`StoreError`], as of all methods below.
    pub(crate) async fn provision(
        &self,
        client: &ClientId,
        otp_secret: &SecretString,
        deadline_ms: u64,
        mode: ProvisionMode,
    ) -> Result<Option<u64>, StoreError> {
        let mut call = PROVISION.prepare_invoke();
        call.key(self.keys.client(client))
            .key(self.keys.sessions(client))
            .arg(otp_secret.expose_secret())
            .arg(deadline_ms)
            .arg(match mode {
                ProvisionMode::New => "new",
                ProvisionMode::Again => "again",
            });
        let ended: i64 = self.invoke_with_sessions(call).await?;
        Ok(u64::try_from(ended).ok())
    }

    /// Moves the deadline of a client that has not registered yet.
    pub(crate) async fn extend(
        &self,
        client: &ClientId,
        deadline_ms: u64,
    ) -> Result<ExtendResult, StoreError> {
        let mut call = EXTEND.prepare_invoke();
        call.key(self.keys.client(client)).arg(deadline_ms);
        let answer: String = self.redis.invoke(&call).await?;
        Ok(match answer.as_str() {
            "extended" => ExtendResult::Extended,
            "registered" => ExtendResult::Registered,
            "revoked" => ExtendResult::Revoked,
            _ => ExtendResult::Unknown,
        })
    }

    /// Revokes a client. Returns the number of sessions that ended; `None` for an unknown client.
    pub(crate) async fn revoke(&self, client: &ClientId) -> Result<Option<u64>, StoreError> {
        let mut call = REVOKE.prepare_invoke();
        call.key(self.keys.client(client)).key(self.keys.sessions(client));
        let ended: i64 = self.invoke_with_sessions(call).await?;
        Ok(u64::try_from(ended).ok())
    }

    /// Sets the rate of a client at the hub; `None` for that of the hub's settings. Returns `false` for an unknown
    /// client.
    pub(crate) async fn set_rate(
        &self,
        client: &ClientId,
        rate: Option<EntryRate>,
    ) -> Result<bool, StoreError> {
        let mut call = SET_RATE.prepare_invoke();
        call.key(self.keys.client(client));
        call.arg(rate.map(|rate| rate.to_string()).unwrap_or_default());
        self.redis.invoke(&call).await
    }

    /// Reads all clients, sorted by ID.
    pub(crate) async fn list(&self) -> Result<Vec<ClientListing>, StoreError> {
        let mut clients = self.scan().await?;
        clients.sort_unstable();
        clients.dedup();
        let mut listings = Vec::with_capacity(clients.len());
        for page in clients.chunks(PAGE) {
            listings.extend(self.read(page).await?);
        }
        Ok(listings)
    }

    /// Reads one client; `None` if it is unknown.
    pub(crate) async fn show(
        &self,
        client: &ClientId,
    ) -> Result<Option<ClientListing>, StoreError> {
        Ok(self.read(std::slice::from_ref(client)).await?.pop())
    }

    async fn scan(&self) -> Result<Vec<ClientId>, StoreError> {
        let mut connection = self.redis.connection();
        let (mut cursor, mut clients) = (0u64, Vec::new());
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(self.keys.any_client()).arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await?;
            let names = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
            clients.extend(names.filter_map(|key| self.keys.client_of(key)));
            if next == 0 {
                return Ok(clients);
            }
            cursor = next;
        }
    }

    /// Reads the clients of a page that still exist.
    async fn read(&self, page: &[ClientId]) -> Result<Vec<ClientListing>, StoreError> {
        let mut connection = self.redis.connection();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let now_ms = seconds * 1000 + micros / 1000;
        let all_wrong = redis::cmd("GET").arg(self.keys.wrong_codes()).to_owned();
        let all_wrong: Option<String> = all_wrong.query_async(&mut connection).await?;
        let all_wrong = all_wrong.and_then(|count| count.parse().ok()).unwrap_or_default();
        let mut pipe = redis::pipe();
        for client in page {
            let key = self.keys.client(client);
            pipe.exists(&key).hmget(&key, &ClientRecord::FIELDS);
            pipe.zcount(self.keys.sessions(client), now_ms, "+inf");
        }
        let answers: Vec<redis::Value> = pipe.query_async(&mut connection).await?;
        let mut listings = Vec::with_capacity(page.len());
        for (client, answer) in page.iter().zip(answers.chunks_exact(3)) {
            let answer = redis::Value::Array(answer.to_vec());
            let (exists, record, sessions): (bool, ClientRecord, u64) =
                redis::from_redis_value(answer).map_err(redis::RedisError::from)?;
            if exists {
                let (client, is_code_locked) = (client.clone(), record.is_code_locked(all_wrong));
                listings.push(ClientListing { client, record, sessions, is_code_locked });
            }
        }
        Ok(listings)
    }
}
