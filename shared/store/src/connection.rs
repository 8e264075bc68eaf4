//! The connection to Redis: one for all commands, pipelined, which reconnects automatically.
//!
//! A command without a connection makes one, and later commands wait for it. There is no other retry, neither here nor
//! in the library. A connection that is closed, refused or silent is dropped at once. It uses RESP3, in which the
//! library reports a close. Rejected: the library's `ConnectionManager`, which detects a connection that was closed
//! while idle only by a failing command, keeps a refused login for ever, and stays with a silent peer until TCP gives
//! up.
//!
//! A connection is also dropped if its server says that it is not the right one (`READONLY`, `LOADING`, …): another
//! server may have taken over the name or the floating address, and an open connection would stay with the old one. The
//! next command resolves the name again, and dedicated connections follow.

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
use self::inner::{SharedConnection, connect, find_primary};
use super::{
    StoreError,
    compatibility::{ServerGreeting, writable_replica},
    health::{Health, HealthSubject},
    stats::RedisStats,
};
use crate::{
    RedisUrl,
    discovery::{Discovery, PrimarySurvey},
    redis_url::ServerAddress,
};

/// A Redis. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<SharedConnection>,
}

/// A connection to run commands on. Cheap to clone.
#[derive(Clone)]
pub struct RedisConnection {
    shared: Arc<SharedConnection>,
}

impl Redis {
    /// Opens a Redis for keys that are all in the slot of `key`, if it is a cluster. The first command connects, which
    /// needs a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError`] if the URL, or a file in it, cannot be used, or if `key` chooses no slot of a cluster.
    pub fn open(url: &RedisUrl, key: &str) -> Result<Self, StoreError> {
        Self::make(url, key, None)
    }

    /// Opens a Redis that has to accept writes: probes add to the stream `key`, which never exists.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_writable(url: &RedisUrl, key: String) -> Result<Self, StoreError> {
        Self::make(url, &key.clone(), Some(key))
    }

    fn make(url: &RedisUrl, key: &str, probed: Option<String>) -> Result<Self, StoreError> {
        let db = url.client(None)?.get_connection_info().redis_settings().db();
        let shared = SharedConnection {
            url: url.clone(),
            discovery: Discovery::of(url, key)?.map(Arc::new),
            db,
            probed,
            current: Mutex::default(),
            stats: RedisStats::default(),
            health: Health::new(HealthSubject::Writes),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the connection, to run commands on. A command waits at most
    /// [`REDIS_REPLY_TIMEOUT`](crate::limits::REDIS_REPLY_TIMEOUT) for its reply; a blocking command needs a
    /// [`Self::dedicated_connection`].
    pub fn connection(&self) -> RedisConnection {
        RedisConnection { shared: Arc::clone(&self.shared) }
    }

    /// Returns latency and error metrics.
    pub fn stats(&self) -> &RedisStats {
        &self.shared.stats
    }

    /// Returns the health.
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Makes a connection that is not shared, for blocking commands and for push messages. It does not reconnect.
    ///
    /// # Errors
    /// [`RedisError`] if connecting fails.
    pub async fn dedicated_connection(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        let primary = find_primary(self.shared.discovery.as_deref()).await?;
        connect(&self.shared.url, primary.as_ref(), on_push).await
    }

    /// Returns whether Sentinels or the nodes of a cluster tell which server is the primary.
    pub fn is_discovered(&self) -> bool {
        self.shared.discovery.is_some()
    }

    /// Asks all of them for the primary; none for a server that the URL names.
    pub async fn survey_primary(&self) -> Option<PrimarySurvey> {
        Some(self.shared.discovery.as_ref()?.survey().await)
    }

    /// Resolves when a Sentinel announces a new primary, for one task.
    pub(super) async fn new_primary_announced(&self) {
        match &self.shared.discovery {
            Some(discovery) => discovery.announced().await,
            None => std::future::pending().await,
        }
    }

    /// Ends all commands on a server that is no longer the primary, and returns the one that is.
    pub(super) async fn leave_old_primary(&self) -> Option<ServerAddress> {
        self.shared.leave_old_primary().await
    }

    /// Takes the replies of a dedicated connection.
    pub(super) fn handle_answered(
        &self,
        took: Duration,
        answered: Result<&[Value], &RedisError>,
    ) -> ConnectionVerdict {
        self.shared.handle_answered(took, answered)
    }

    /// Checks that Redis replies.
    ///
    /// # Errors
    /// [`StoreError`] if it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(redis::cmd("PING").query_async(&mut self.connection()).await?)
    }

    /// Checks that Redis accepts writes, if it was opened for writing. Nothing is changed.
    ///
    /// # Errors
    /// [`StoreError`] if it does not.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut probe = redis::pipe();
        probe.cmd("HELLO");
        if let Some(key) = &shared.probed {
            // NOMKSTREAM adds nothing to a stream that does not exist.
            probe.cmd("XADD").arg(key).arg("NOMKSTREAM").arg("MAXLEN").arg(1);
            probe.arg("*").arg("probe").arg(1);
        }
        let answer = async |mut connection: MultiplexedConnection| {
            let answers = connection.req_packed_commands(&probe, 0, probe.len()).await?;
            let greeting = ServerGreeting::read(answers.first().cloned().unwrap_or(Value::Nil));
            let written =
                answers.into_iter().nth(1).map_or(Ok(Value::Nil), Value::extract_error)?;
            match shared.probed.is_some() && greeting.is_replica {
                true => Err(writable_replica()),
                false => Ok(written),
            }
        };
        let (generation, answered) = shared.run(answer, slice::from_ref).await;
        match answered.map_err(StoreError::from) {
            Err(error) if error.is_outage() => Err(error),
            // Any other error of the probe says nothing about Redis as a whole.
            Ok(_) | Err(_) => {
                shared.health.handle_success(generation);
                Ok(())
            }
        }
    }

    /// Runs a script by its digest, and loads it if Redis does not have it yet.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] if it is unknown whether the script ran; another [`StoreError`] if Redis fails.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        Ok(script.invoke_async(&mut self.connection()).await?)
    }

    /// Runs a command that calls a script by its digest, and loads the script if Redis does not have it yet. Returns the
    /// reply with the errors in it.
    ///
    /// # Errors
    /// [`RedisError`] if the whole call failed.
    pub(super) async fn call(&self, command: &Cmd, script: &Script) -> RedisResult<Value> {
        let mut connection = self.connection();
        match query(&mut connection, command).await {
            Err(error) if is_no_script(&error) => {
                script.load_async(&mut connection).await?;
                query(&mut connection, command).await
            }
            reply => reply,
        }
    }
}

async fn query(connection: &mut RedisConnection, command: &Cmd) -> RedisResult<Value> {
    match connection.req_packed_command(command).await? {
        error @ Value::ServerError(_) => error.extract_error(),
        reply => Ok(reply),
    }
}

pub(super) fn is_no_script(error: &RedisError) -> bool {
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
        self.shared.db
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.shared.url).finish()
    }
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.shared.url).finish()
    }
}

#[cfg(test)]
mod tests;
