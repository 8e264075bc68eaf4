//! The one connection behind a `Redis`: made when it is wanted, forgotten when it leads nowhere or to the
//! wrong server.

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
    /// As of the first connection; a new one reads the files anew.
    pub(super) client: Client,
    /// Where a probe would write; none for one that is only read.
    pub(super) probed: Option<String>,
    pub(super) current: Mutex<CurrentConnection>,
    pub(super) figures: RedisStats,
    pub(super) health: Health,
}

#[derive(Default)]
pub(super) struct CurrentConnection {
    connecting: Option<Connecting>,
    /// Counts the connections, so that a hundred faults of one make one new one.
    generation: u64,
    /// When the last one was begun.
    begun: Option<Instant>,
}

/// What an answer says of the connection that it came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionVerdict {
    /// It can be used.
    Good,
    /// Its server is not the one to ask.
    Elsewhere,
    /// It leads nowhere.
    Lost,
}

/// A connection that is there or on its way.
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
            let connecting = follow(self.url.clone(), Arc::downgrade(self), current.generation);
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

    /// A name is not resolved more often than `REDIS_RESOLVE_INTERVAL` for what its server answers.
    fn forget_elsewhere(&self, generation: u64) {
        let begun = self.lock().begun;
        if begun.is_none_or(|begun| begun.elapsed() >= REDIS_RESOLVE_INTERVAL) {
            self.forget(generation);
        }
    }

    /// With the generation of the connection that it ran on.
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
            // Whatever it is: the next command tries again.
            Err(error) => {
                self.handle_error(&error);
                self.forget(generation);
                return (generation, Err(error));
            }
        };
        match self.handle_answered(begun.elapsed(), result.as_ref().map(answers)) {
            ConnectionVerdict::Good => {}
            ConnectionVerdict::Elsewhere => self.forget_elsewhere(generation),
            ConnectionVerdict::Lost => self.forget(generation),
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
        self.figures.handle_answers(took);
        let is_error = |value: &&Value| matches!(value, Value::ServerError(_));
        // Those of a transaction stand in its one answer.
        let each = values.iter().flat_map(|value| match value {
            Value::Array(parts) => parts.as_slice(),
            other => slice::from_ref(other),
        });
        let errors = each.filter(is_error).filter_map(|value| value.clone().extract_error().err());
        let mut standing = ConnectionVerdict::Good;
        for error in errors {
            if self.handle_error(&error) == ConnectionVerdict::Elsewhere {
                standing = ConnectionVerdict::Elsewhere;
            }
        }
        standing
    }

    /// A script that is only to be loaded first is no error.
    fn handle_error(&self, error: &RedisError) -> ConnectionVerdict {
        if is_no_script(error) {
            return ConnectionVerdict::Good;
        }
        let told = StoreError::from(error.clone());
        self.figures.handle_error(&told);
        self.health.handle_error(&told);
        match told.is_wrong_server() {
            true => ConnectionVerdict::Elsewhere,
            false if is_lost(error) => ConnectionVerdict::Lost,
            false => ConnectionVerdict::Good,
        }
    }
}

/// A reply that cannot be read leaves nothing on this connection that could be; one that does not
/// come would hold up all that are asked for after it.
fn is_lost(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || error.is_io_error()
        || error.is_unrecoverable_error()
}

/// The one connection of a `SharedConnection`, which is forgotten when it is closed.
async fn follow(
    url: RedisUrl,
    way: Weak<SharedConnection>,
    generation: u64,
) -> RedisResult<MultiplexedConnection> {
    let hear = move |push: PushInfo| {
        if push.kind == PushKind::Disconnection
            && let Some(way) = way.upgrade()
        {
            way.forget(generation);
        }
    };
    connect(&url, hear).await
}

/// A new connection, to a server that Spoke can work with. Files that the URL names are read anew.
pub(super) async fn connect(
    url: &RedisUrl,
    hear: impl Fn(PushInfo) + Send + Sync + 'static,
) -> RedisResult<MultiplexedConnection> {
    let hear = move |push: PushInfo| {
        hear(push);
        Ok::<(), std::convert::Infallible>(())
    };
    let config = AsyncConnectionConfig::new()
        .set_push_sender(hear)
        .set_connection_timeout(Some(REDIS_CONNECT_TIMEOUT))
        .set_response_timeout(Some(REDIS_REPLY_TIMEOUT));
    let client = url.client()?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let hello = redis::cmd("HELLO").query_async(&mut connection).await?;
    ServerGreeting::read(hello).check()?;
    Ok(connection)
}
