//! What an operator does to clients, behind the commands.

use secrecy::{ExposeSecret, SecretString};
use spoke_protocol::client_id::ClientId;
use spoke_store::StoreError;

use super::{
    ClientRecord, Store,
    scripts::{EXTEND, PROVISION, REVOKE},
};

/// Keys looked at in one step of a scan.
const SCAN_COUNT: usize = 1000;
/// Clients read in one round trip.
const PAGE: usize = 500;

/// Whether a client is provisioned for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioning {
    /// Only an unknown client.
    New,
    /// A known one too: what it had is void and its sessions end.
    Again,
}

/// What became of a request for more time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extended {
    /// The deadline is moved.
    Yes,
    /// There is nobody of this name waiting to register.
    Unknown,
    /// It has registered.
    Registered,
    /// It is revoked.
    Revoked,
}

/// A client as it is listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name.
    pub client: ClientId,
    /// What is stored of it.
    pub record: ClientRecord,
    /// Live sessions.
    pub sessions: u64,
    /// Whether only a proof registers it any more.
    pub is_code_locked: bool,
}

impl Store {
    /// Gives the client an OTP secret and a deadline. The number of sessions that ended with it;
    /// none if the client is known and this was to be a new one.
    ///
    /// # Errors
    /// `StoreError`, as for all that follow.
    pub async fn provision(
        &self,
        client: &ClientId,
        otp_secret: &SecretString,
        deadline_ms: u64,
        provisioning: Provisioning,
    ) -> Result<Option<u64>, StoreError> {
        let mut call = PROVISION.prepare_invoke();
        call.key(self.keys.client(client))
            .key(self.keys.sessions(client))
            .arg(otp_secret.expose_secret())
            .arg(deadline_ms)
            .arg(match provisioning {
                Provisioning::New => "new",
                Provisioning::Again => "again",
            });
        let ended: i64 = self.redis.invoke(&call).await?;
        Ok(u64::try_from(ended).ok())
    }

    /// Moves the deadline of a client that has not registered yet.
    pub async fn extend(
        &self,
        client: &ClientId,
        deadline_ms: u64,
    ) -> Result<Extended, StoreError> {
        let mut call = EXTEND.prepare_invoke();
        call.key(self.keys.client(client)).arg(deadline_ms);
        let answer: String = self.redis.invoke(&call).await?;
        Ok(match answer.as_str() {
            "extended" => Extended::Yes,
            "registered" => Extended::Registered,
            "revoked" => Extended::Revoked,
            _ => Extended::Unknown,
        })
    }

    /// Shuts a client out. The number of sessions that ended; none for an unknown client.
    pub async fn revoke(&self, client: &ClientId) -> Result<Option<u64>, StoreError> {
        let mut call = REVOKE.prepare_invoke();
        call.key(self.keys.client(client)).key(self.keys.sessions(client));
        let ended: i64 = self.redis.invoke(&call).await?;
        Ok(u64::try_from(ended).ok())
    }

    /// All clients, by name.
    pub async fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let mut clients = self.scan().await?;
        clients.sort_unstable();
        clients.dedup();
        let mut listed = Vec::with_capacity(clients.len());
        for page in clients.chunks(PAGE) {
            listed.extend(self.read(page).await?);
        }
        Ok(listed)
    }

    /// One client; none if it is unknown.
    pub async fn show(&self, client: &ClientId) -> Result<Option<Listed>, StoreError> {
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

    /// Those of a page that are still there.
    async fn read(&self, page: &[ClientId]) -> Result<Vec<Listed>, StoreError> {
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
        let mut listed = Vec::with_capacity(page.len());
        for (client, answer) in page.iter().zip(answers.chunks_exact(3)) {
            let answer = redis::Value::Array(answer.to_vec());
            let (exists, record, sessions): (bool, ClientRecord, u64) =
                redis::from_redis_value(answer).map_err(redis::RedisError::from)?;
            if exists {
                let (client, is_code_locked) = (client.clone(), record.is_code_locked(all_wrong));
                listed.push(Listed { client, record, sessions, is_code_locked });
            }
        }
        Ok(listed)
    }
}
