//! The way to Redis: one connection for all commands, pipelined, that comes back by itself.
//!
//! A command that finds no connection makes one, and all that come meanwhile wait for it. Nobody
//! else retries, neither here nor in the library: its `ConnectionManager` was used before, which notices
//! a connection that was closed while idle by the command that fails on it, remembers a refused login
//! for ever, and stays with a peer that is gone without a word until TCP gives up. Here a connection
//! that is closed, refused or silent is forgotten at once. To hear of the close it speaks RESP3, in
//! which the library tells.
//!
//! So is one whose server says that it is not the one to ask (`READONLY`, `LOADING`, …): behind a name or
//! a floating address another may have taken its place, and an open connection would stay with the old one
//! for ever. The next command resolves the name anew, and connections of one's own follow.

mod inner;

use std::{
    fmt, slice,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{
    Cmd, FromRedisValue, Pipeline, PushInfo, RedisError, RedisFuture, RedisResult, Script,
    ScriptInvocation, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

pub(super) use self::inner::ConnectionVerdict;
use self::inner::{SharedConnection, connect};
use super::{
    StoreError,
    compatibility::{ServerGreeting, writable_replica},
    health::{Health, HealthSubject},
    stats::RedisStats,
};
use crate::RedisUrl;

/// One Redis. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<SharedConnection>,
}

/// To run commands on. Cheap to clone.
#[derive(Clone)]
pub struct RedisConnection {
    shared: Arc<SharedConnection>,
}

impl Redis {
    /// Connects with the first command, not yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the URL, or a file that it names, cannot be used.
    pub fn open(url: &RedisUrl) -> Result<Self, StoreError> {
        Self::make(url, None)
    }

    /// The same for one that has to take writes: probes add to the stream `key`, which never exists.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_writable(url: &RedisUrl, key: String) -> Result<Self, StoreError> {
        Self::make(url, Some(key))
    }

    fn make(url: &RedisUrl, probed: Option<String>) -> Result<Self, StoreError> {
        let (url, client) = (url.clone(), url.client()?);
        let (current, figures) = (Mutex::default(), RedisStats::default());
        let health = Health::new(HealthSubject::Writes);
        Ok(Self {
            shared: Arc::new(SharedConnection { url, client, probed, current, figures, health }),
        })
    }

    /// The connection, to run commands on. A command waits `limits::REDIS_REPLY_TIMEOUT` for its reply
    /// at the most; one that blocks on purpose needs a connection of its own.
    pub fn connection(&self) -> RedisConnection {
        RedisConnection { shared: Arc::clone(&self.shared) }
    }

    /// How it does.
    pub fn stats(&self) -> &RedisStats {
        &self.shared.figures
    }

    /// Whether it can be used.
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// A new connection that is shared with nobody, for what holds up all that comes behind it or what
    /// Redis says unasked. It does not come back by itself.
    ///
    /// # Errors
    /// `RedisError` as Redis gives it.
    pub async fn dedicated_connection(
        &self,
        hear: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        connect(&self.shared.url, hear).await
    }

    /// Takes in what came on a connection of one's own.
    pub(super) fn handle_answered(
        &self,
        took: Duration,
        answered: Result<&[Value], &RedisError>,
    ) -> ConnectionVerdict {
        self.shared.handle_answered(took, answered)
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// `StoreError` says why not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(redis::cmd("PING").query_async(&mut self.connection()).await?)
    }

    /// Whether Redis takes writes, where it is to be written to. Nothing is changed.
    ///
    /// # Errors
    /// `StoreError` says why not.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let way = &self.shared;
        let mut probe = redis::pipe();
        probe.cmd("HELLO");
        if let Some(key) = &way.probed {
            // To a stream that is not there nothing is added.
            probe.cmd("XADD").arg(key).arg("NOMKSTREAM").arg("MAXLEN").arg(1);
            probe.arg("*").arg("probe").arg(1);
        }
        let answer = async |mut connection: MultiplexedConnection| {
            let answers = connection.req_packed_commands(&probe, 0, probe.len()).await?;
            let greeting = ServerGreeting::read(answers.first().cloned().unwrap_or(Value::Nil));
            let written =
                answers.into_iter().nth(1).map_or(Ok(Value::Nil), Value::extract_error)?;
            match way.probed.is_some() && greeting.is_replica {
                true => Err(writable_replica()),
                false => Ok(written),
            }
        };
        let (generation, answered) = way.run(answer, slice::from_ref).await;
        match answered.map_err(StoreError::from) {
            Err(error) if error.is_outage() => Err(error),
            // What else is wrong with the probe says nothing of Redis.
            Ok(_) | Err(_) => {
                way.health.handle_success(generation);
                Ok(())
            }
        }
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

    /// Runs a transaction that calls a script by its digest, loading it where Redis does not have it
    /// yet.
    ///
    /// # Errors
    /// `StoreError`. One that is `Unreachable` does not say whether the transaction ran.
    pub async fn transact<T: FromRedisValue>(
        &self,
        transaction: &Pipeline,
        script: &Script,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection();
        match transaction.query_async(&mut connection).await {
            Err(error) if is_no_script(&error) => {
                script.load_async(&mut connection).await?;
                Ok(transaction.query_async(&mut connection).await?)
            }
            result => Ok(result?),
        }
    }
}

fn is_no_script(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT") || error.to_string().contains("NOSCRIPT")
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let command =
            async |mut connection: MultiplexedConnection| connection.req_packed_command(cmd).await;
        Box::pin(async move { self.shared.run(command, slice::from_ref).await.1 })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let commands = async move |mut connection: MultiplexedConnection| {
            connection.req_packed_commands(cmd, offset, count).await
        };
        Box::pin(async move { self.shared.run(commands, Vec::as_slice).await.1 })
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

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(self.shared.client.get_connection_info().addr()).finish()
    }
}

#[cfg(test)]
mod tests;
