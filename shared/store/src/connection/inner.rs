//! The shared connection of a [`Redis`](super::Redis): made when a command needs it, dropped when it fails or leads to
//! the wrong server.

use std::{
    io, slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{
    AsyncConnectionConfig, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio_util::sync::CancellationToken;

use super::is_no_script;
use crate::{
    RedisUrl, StoreError,
    compatibility::{ServerGreeting, no_primary},
    discovery::Discovery,
    error::is_lost,
    health::Health,
    limits::{REDIS_CONNECT_TIMEOUT, REDIS_REPLY_TIMEOUT, REDIS_RESOLVE_INTERVAL},
    redis_url::ServerAddress,
    stats::RedisStats,
};

/// The error of a command on a connection to a server that is no longer the primary.
const REPLACED: &str = "another server is the primary by now";

pub(super) struct SharedConnection {
    /// Its files are read again for each connection.
    pub(super) url: RedisUrl,
    /// None for a server that the URL names.
    pub(super) discovery: Option<Arc<Discovery>>,
    /// The number of its database.
    pub(super) db: i64,
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
    /// The server that was found for it.
    primary: Option<ServerAddress>,
    /// Ends the commands on it, once another server is the primary.
    replaced: CancellationToken,
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

    fn take(self: &Arc<Self>) -> (Connecting, u64, Option<CancellationToken>) {
        let mut current = self.lock();
        if current.connecting.is_none() {
            current.generation += 1;
            current.begun = Some(Instant::now());
            current.primary = None;
            current.replaced = CancellationToken::new();
            let (url, discovery) = (self.url.clone(), self.discovery.clone());
            let connecting =
                connect_shared((url, discovery), Arc::downgrade(self), current.generation);
            current.connecting = Some(connecting.boxed().shared());
        }
        let connecting = current.connecting.clone().expect("it was just made where there was none");
        let replaced = self.discovery.is_some().then(|| current.replaced.clone());
        (connecting, current.generation, replaced)
    }

    /// Looks for the primary. If it is another server than that of the connection, ends the connection with all running
    /// commands, which may hang, and returns that server.
    pub(super) async fn leave_old_primary(&self) -> Option<ServerAddress> {
        let named = self.discovery.as_ref()?.find_primary().await.ok()?;
        let generation = {
            let current = self.lock();
            let is_other = current.primary.as_ref().is_some_and(|primary| *primary != named);
            if current.connecting.is_none() || !is_other {
                return None;
            }
            current.replaced.cancel();
            current.generation
        };
        self.drop_connection(generation);
        Some(named)
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
        let (connecting, generation, replaced) = self.take();
        let running = async move {
            let connection = connecting.await?;
            let begun = Instant::now();
            Ok((command(connection).await, begun))
        };
        let ran: RedisResult<_> = match replaced {
            None => running.await,
            Some(replaced) => tokio::select! {
                ran = running => ran,
                () = replaced.cancelled() => Err(io::Error::other(REPLACED).into()),
            },
        };
        let (result, begun) = match ran {
            Ok(ran) => ran,
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
        // The answers of a script for many clients are in its one reply.
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

/// Makes the connection of a [`SharedConnection`], which is dropped when it is closed.
async fn connect_shared(
    (url, discovery): (RedisUrl, Option<Arc<Discovery>>),
    shared: Weak<SharedConnection>,
    generation: u64,
) -> RedisResult<MultiplexedConnection> {
    let primary = find_primary(discovery.as_deref()).await?;
    if let Some(shared) = shared.upgrade() {
        let mut current = shared.lock();
        if current.generation == generation {
            current.primary = primary.clone();
        }
    }
    let on_push = move |push: PushInfo| {
        if push.kind == PushKind::Disconnection
            && let Some(shared) = shared.upgrade()
        {
            shared.drop_connection(generation);
        }
    };
    connect(&url, primary.as_ref(), on_push).await
}

/// Finds the server to connect to; none for the one in the URL.
pub(super) async fn find_primary(
    discovery: Option<&Discovery>,
) -> RedisResult<Option<ServerAddress>> {
    match discovery {
        Some(discovery) => discovery.find_primary().await.map(Some),
        None => Ok(None),
    }
}

/// Makes a connection, and checks that Spoke supports the server, and that one which was found is a primary. The files
/// in the URL are read again.
pub(super) async fn connect(
    url: &RedisUrl,
    primary: Option<&ServerAddress>,
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
    let client = url.client(primary)?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let hello = redis::cmd("HELLO").query_async(&mut connection).await?;
    let greeting = ServerGreeting::read(hello);
    greeting.check(url.is_cluster())?;
    match primary.filter(|_| greeting.is_replica) {
        Some(primary) => Err(no_primary(primary)),
        None => Ok(connection),
    }
}
