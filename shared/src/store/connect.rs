//! The way to Redis: one connection for all commands, pipelined, that comes back by itself.
//!
//! A command that finds no connection makes one, and all that come meanwhile wait for it. Nobody
//! else retries, neither here nor in the library: its `ConnectionManager` was used before, which notices
//! a connection that was closed while idle by the command that fails on it, remembers a refused login
//! for ever, and stays with a peer that is gone without a word until TCP gives up. Here a connection
//! that is closed, refused or silent is forgotten at once. To hear of the close it speaks RESP3, in
//! which the library tells.

use std::{
    fmt, slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Instant,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, PushKind, RedisError, RedisFuture, RedisResult, Script,
    ScriptInvocation, TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use super::{StoreError, figures::Figures};
use crate::{
    config::RedisUrl,
    limits::{REDIS_CONNECT_TIMEOUT, REDIS_REPLY_TIMEOUT},
};

/// One Redis. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Way>,
}

/// To run commands on. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Way>,
}

struct Way {
    client: Client,
    current: Mutex<Current>,
    figures: Figures,
}

#[derive(Default)]
struct Current {
    connecting: Option<Connecting>,
    /// Counts the connections, so that a hundred faults of one make one new one.
    generation: u64,
}

/// A connection that is there or on its way.
type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

impl Redis {
    /// Connects with the first command, not yet. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the URL, or the CA that it names, cannot be used.
    pub fn open(url: &RedisUrl) -> Result<Self, StoreError> {
        let client = match url.read_ca()? {
            Some(root) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(root) };
                Client::build_with_tls(url.as_str(), certificates)?
            }
            None => Client::open(url.as_str())?,
        };
        let client = settled(&client)?;
        let (current, figures) = (Mutex::default(), Figures::default());
        Ok(Self { shared: Arc::new(Way { client, current, figures }) })
    }

    /// The connection, to run commands on. A command waits `limits::REDIS_REPLY_TIMEOUT` for its reply
    /// at the most; one that blocks on purpose needs a connection of its own.
    pub fn connection(&self) -> Connection {
        Connection { shared: Arc::clone(&self.shared) }
    }

    /// A client for connections of one's own, speaking RESP3, in which Redis can say something unasked.
    pub fn client(&self) -> Client {
        self.shared.client.clone()
    }

    /// How it does.
    pub fn figures(&self) -> &Figures {
        &self.shared.figures
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

/// RESP3, and small commands wait for nobody.
fn settled(client: &Client) -> RedisResult<Client> {
    let info = client.get_connection_info().clone();
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Client::open(info.set_redis_settings(redis).set_tcp_settings(tcp).into_connection_info()?)
}

impl Way {
    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>) -> (Connecting, u64) {
        let mut current = self.lock();
        if current.connecting.is_none() {
            current.generation += 1;
            let connecting = connect(self.client.clone(), Arc::downgrade(self), current.generation);
            current.connecting = Some(connecting.boxed().shared());
        }
        let connecting = current.connecting.clone().expect("it was just made where there was none");
        (connecting, current.generation)
    }

    /// Commands under way on that connection end with it.
    fn forget(&self, generation: u64) {
        let mut current = self.lock();
        let gone = (current.generation == generation).then(|| current.connecting.take());
        // What ends with it may want the lock, too.
        drop(current);
        drop(gone);
    }

    async fn run<T>(
        self: &Arc<Self>,
        command: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
        answers: impl FnOnce(&T) -> &[Value],
    ) -> RedisResult<T> {
        let (connecting, generation) = self.take();
        let (result, begun) = match connecting.await {
            Ok(connection) => {
                let begun = Instant::now();
                (command(connection).await, begun)
            }
            // Whatever it is: the next command tries again.
            Err(error) => {
                self.figures.handle_error(&error);
                self.forget(generation);
                return Err(error);
            }
        };
        match &result {
            Ok(value) => self.figures.handle_answers(begun.elapsed(), answers(value)),
            Err(error) => self.figures.handle_error(error),
        }
        if result.as_ref().is_err_and(is_lost) {
            self.forget(generation);
        }
        result
    }
}

/// A reply that cannot be read leaves nothing on this connection that could be; one that does not
/// come would hold up all that are asked for after it.
fn is_lost(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || error.is_io_error()
        || error.is_unrecoverable_error()
}

async fn connect(
    client: Client,
    way: Weak<Way>,
    generation: u64,
) -> RedisResult<MultiplexedConnection> {
    let hear = move |push: PushInfo| {
        if push.kind == PushKind::Disconnection
            && let Some(way) = way.upgrade()
        {
            way.forget(generation);
        }
        Ok::<(), std::convert::Infallible>(())
    };
    let config = AsyncConnectionConfig::new()
        .set_push_sender(hear)
        .set_connection_timeout(Some(REDIS_CONNECT_TIMEOUT))
        .set_response_timeout(Some(REDIS_REPLY_TIMEOUT));
    client.get_multiplexed_async_connection_with_config(&config).await
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let command =
            async |mut connection: MultiplexedConnection| connection.req_packed_command(cmd).await;
        Box::pin(self.shared.run(command, slice::from_ref))
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
        Box::pin(self.shared.run(commands, Vec::as_slice))
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
