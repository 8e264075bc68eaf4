//! The shared connection of a [`Redis`](super::Redis): made when a command needs it, dropped when it fails or leads to
//! the wrong server.

use std::{
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};

use super::is_no_script;
use crate::{
    RedisUrl, StoreError,
    compatibility::ServerGreeting,
    health::Health,
    limits::{REDIS_CONNECT_TIMEOUT, REDIS_REPLY_TIMEOUT, REDIS_RESOLVE_INTERVAL},
    stats::RedisStats,
};

pub(super) struct SharedConnection {
    pub(super) url: RedisUrl,
    /// With the files as they were at the start; a new connection reads them again.
    pub(super) client: Client,
    /// The key to which a probe would write; none for a Redis that is only read.
    pub(super) probed: Option<String>,
    pub(super) current: Mutex<CurrentConnection>,
    pub(super) stats: RedisStats,
    pub(super) health: Health,
}

#[derive(Default)]
pub(super) struct CurrentConnection {
    connecting: Option<Connecting>,
    /// The number of connections so far, so that many faults of one connection cause one new connection.
    generation: u64,
    /// When the last connection was begun.
    begun: Option<Instant>,
}

/// What a reply says about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionVerdict {
    /// It can be used.
    Good,
    /// Its server is the wrong one.
    WrongServer,
    /// It is broken.
    Lost,
}

/// A connection that is made or being made.
type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

impl SharedConnection {
    fn lock(&self) -> MutexGuard<'_, CurrentConnection> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>) -> (Connecting, u64) {
        let mut current = self.lock();
        if current.connecting.is_none() {
            current.generation += 1;
            current.begun = Some(Instant::now());
            let connecting =
                connect_shared(self.url.clone(), Arc::downgrade(self), current.generation);
            current.connecting = Some(connecting.boxed().shared());
        }
        let connecting = current.connecting.clone().expect("it was just made where there was none");
        (connecting, current.generation)
    }

    /// Drops the connection of this generation. Its running commands end with it.
    fn drop_connection(&self, generation: u64) {
        let mut current = self.lock();
        let gone = (current.generation == generation).then(|| current.connecting.take());
        // Dropping the connection may need the lock, too.
        drop(current);
        drop(gone);
    }

    /// Drops the connection to the wrong server, at most once per [`REDIS_RESOLVE_INTERVAL`].
    fn drop_wrong_server(&self, generation: u64) {
        let begun = self.lock().begun;
        if begun.is_none_or(|begun| begun.elapsed() >= REDIS_RESOLVE_INTERVAL) {
            self.drop_connection(generation);
        }
    }

    /// Runs a command, and returns the generation of its connection with the result.
    pub(super) async fn run<T>(
        self: &Arc<Self>,
        command: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
        answers: impl FnOnce(&T) -> &[Value],
    ) -> (u64, RedisResult<T>) {
        let (connecting, generation) = self.take();
        let (result, begun) = match connecting.await {
            Ok(connection) => {
                let begun = Instant::now();
                (command(connection).await, begun)
            }
            // After any error the next command tries again.
            Err(error) => {
                self.handle_error(&error);
                self.drop_connection(generation);
                return (generation, Err(error));
            }
        };
        match self.handle_answered(begun.elapsed(), result.as_ref().map(answers)) {
            ConnectionVerdict::Good => {}
            ConnectionVerdict::WrongServer => self.drop_wrong_server(generation),
            ConnectionVerdict::Lost => self.drop_connection(generation),
        }
        (generation, result)
    }

    pub(super) fn handle_answered(
        &self,
        took: Duration,
        answered: Result<&[Value], &RedisError>,
    ) -> ConnectionVerdict {
        let values = match answered {
            Ok(values) => values,
            Err(error) => return self.handle_error(error),
        };
        self.stats.handle_answers(took);
        let is_error = |value: &&Value| matches!(value, Value::ServerError(_));
        // The replies of a transaction are in its one reply.
        let each = values.iter().flat_map(|value| match value {
            Value::Array(parts) => parts.as_slice(),
            other => slice::from_ref(other),
        });
        let errors = each.filter(is_error).filter_map(|value| value.clone().extract_error().err());
        let mut verdict = ConnectionVerdict::Good;
        for error in errors {
            if self.handle_error(&error) == ConnectionVerdict::WrongServer {
                verdict = ConnectionVerdict::WrongServer;
            }
        }
        verdict
    }

    /// A script that has to be loaded first is not an error.
    fn handle_error(&self, error: &RedisError) -> ConnectionVerdict {
        if is_no_script(error) {
            return ConnectionVerdict::Good;
        }
        let store_error = StoreError::from(error.clone());
        self.stats.handle_error(&store_error);
        self.health.handle_error(&store_error);
        match store_error.is_wrong_server() {
            true => ConnectionVerdict::WrongServer,
            false if is_lost(error) => ConnectionVerdict::Lost,
            false => ConnectionVerdict::Good,
        }
    }
}

/// Returns whether the connection is broken. After a reply that cannot be parsed, no later one can be; a reply that is
/// missing would block all later ones.
fn is_lost(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || error.is_io_error()
        || error.is_unrecoverable_error()
}

/// Makes the connection of a [`SharedConnection`], which is dropped when it is closed.
async fn connect_shared(
    url: RedisUrl,
    shared: Weak<SharedConnection>,
    generation: u64,
) -> RedisResult<MultiplexedConnection> {
    let on_push = move |push: PushInfo| {
        if push.kind == PushKind::Disconnection
            && let Some(shared) = shared.upgrade()
        {
            shared.drop_connection(generation);
        }
    };
    connect(&url, on_push).await
}

/// Makes a connection, and checks that Spoke supports the server. The files in the URL are read again.
pub(super) async fn connect(
    url: &RedisUrl,
    on_push: impl Fn(PushInfo) + Send + Sync + 'static,
) -> RedisResult<MultiplexedConnection> {
    let on_push = move |push: PushInfo| {
        on_push(push);
        Ok::<(), std::convert::Infallible>(())
    };
    let config = AsyncConnectionConfig::new()
        .set_push_sender(on_push)
        .set_connection_timeout(Some(REDIS_CONNECT_TIMEOUT))
        .set_response_timeout(Some(REDIS_REPLY_TIMEOUT));
    let client = url.client()?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let hello = redis::cmd("HELLO").query_async(&mut connection).await?;
    ServerGreeting::read(hello).check()?;
    Ok(connection)
}
