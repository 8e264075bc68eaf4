//! The way to Redis: one connection for all commands, pipelined, that comes back by itself.
//!
//! `ConnectionManager` reconnects after a fault of the connection, but it stays with two others: a
//! login that was refused (the password was mended since, or `maxclients` was reached) it remembers for
//! ever, and a connection that never answers (the peer is gone without a word) it keeps using until
//! TCP gives up, a quarter of an hour later. So after either we take a new one.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline,
    ProtocolVersion, RedisError, RedisFuture, RedisResult, ScriptInvocation, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};

use super::StoreError;
use crate::{
    config::RedisUrl,
    limits::{REDIS_CONNECT_TIMEOUT, REDIS_REPLY_TIMEOUT},
};

/// One Redis. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
}

/// To run commands on. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    current: Mutex<Current>,
}

struct Current {
    manager: ConnectionManager,
    /// How often a new one was taken, so that a hundred faults at once take one.
    generation: u64,
}

impl Redis {
    /// Connects with the first command, not yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn open(url: &RedisUrl) -> Result<Self, StoreError> {
        let client = Client::open(url.as_str())?;
        let current = Mutex::new(Current { manager: manager(&client)?, generation: 0 });
        Ok(Self { shared: Arc::new(Shared { client, current }) })
    }

    /// The connection, to run commands on. A command waits `limits::REDIS_REPLY_TIMEOUT` for its reply
    /// at the most; one that blocks on purpose needs a connection of its own.
    pub fn connection(&self) -> Connection {
        Connection { shared: Arc::clone(&self.shared) }
    }

    /// A client for connections of one's own, speaking RESP3, in which Redis can say something unasked.
    ///
    /// # Errors
    /// None that `open` did not have.
    pub fn resp3_client(&self) -> RedisResult<Client> {
        let info = self.shared.client.get_connection_info().clone();
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Client::open(info.set_redis_settings(redis).into_connection_info()?)
    }

    /// A new connection that is shared with nobody, for what holds up all that comes behind it. It
    /// does not come back by itself.
    ///
    /// # Errors
    /// `RedisError` as Redis gives it.
    pub async fn own_connection(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(REDIS_CONNECT_TIMEOUT))
            .set_response_timeout(Some(REDIS_REPLY_TIMEOUT));
        self.shared.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// `StoreError` says why not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(redis::cmd("PING").query_async(&mut self.connection()).await?)
    }

    /// Runs a script by its digest, loading it where Redis does not have it yet.
    ///
    /// # Errors
    /// `StoreError`. One that is `Unreachable` does not say whether the script ran.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        Ok(script.invoke_async(&mut self.connection()).await?)
    }
}

/// One try to connect for each command that finds no connection: who retries is the caller.
fn manager(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(REDIS_CONNECT_TIMEOUT))
        .set_response_timeout(Some(REDIS_REPLY_TIMEOUT));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> (ConnectionManager, u64) {
        let current = self.lock();
        (current.manager.clone(), current.generation)
    }

    /// Commands under way on the old connection end with it.
    fn handle_result<T>(&self, result: &RedisResult<T>, generation: u64) {
        let Err(error) = result else { return };
        if !is_stuck(error) {
            return;
        }
        let mut current = self.lock();
        if current.generation == generation
            && let Ok(manager) = manager(&self.client)
        {
            *current = Current { manager, generation: generation + 1 };
        }
    }
}

fn is_stuck(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || error.is_timeout()
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (mut manager, generation) = self.shared.take();
            let result = manager.req_packed_command(cmd).await;
            self.shared.handle_result(&result, generation);
            result
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let (mut manager, generation) = self.shared.take();
            let result = manager.req_packed_commands(cmd, offset, count).await;
            self.shared.handle_result(&result, generation);
            result
        })
    }

    fn get_db(&self) -> i64 {
        self.shared.client.get_connection_info().redis_settings().db()
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(self.shared.client.get_connection_info().addr()).finish()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(self.shared.client.get_connection_info().addr()).finish()
    }
}

#[cfg(test)]
mod tests;
