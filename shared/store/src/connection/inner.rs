//! The shared connection to a server: made when a command needs it, dropped when it fails or leads to the wrong server.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisResult, aio::MultiplexedConnection};
use tokio_util::sync::CancellationToken;

use crate::{
    RedisUrl,
    compatibility::{ServerGreeting, no_primary},
    discovery::Sentinels,
    error::is_lost,
    limits::{REDIS_CONNECT_TIMEOUT, REDIS_REPLY_TIMEOUT, REDIS_RESOLVE_INTERVAL},
    redis_url::ServerAddress,
};

/// The error of a command on a connection to a server that is no longer the primary.
const REPLACED: &str = "another server is the primary by now";

/// The connection to one server. Cheap to share.
pub(super) struct SharedConnection {
    /// Its files are read again for each connection.
    url: RedisUrl,
    place: ServerPlace,
    current: Mutex<CurrentConnection>,
    /// Counts the connections to all servers of a Redis.
    generations: Arc<AtomicU64>,
}

/// Which server a connection is made to.
#[derive(Clone)]
pub(super) enum ServerPlace {
    /// The one in the URL.
    Url,
    /// The one that Sentinels name.
    Sentinels(Arc<Sentinels>),
    /// This node of a cluster.
    Node(ServerAddress),
}

/// A command that was run.
pub(super) struct Ran<T> {
    /// The number of its connection.
    pub(super) generation: u64,
    /// From sending it to its reply; zero if it was not sent.
    pub(super) took: Duration,
    pub(super) result: RedisResult<T>,
}

#[derive(Default)]
pub(super) struct CurrentConnection {
    connecting: Option<Connecting>,
    /// The number of the connection, so that many faults of one connection cause one new connection.
    generation: u64,
    /// When the last connection was begun.
    begun: Option<Instant>,
    /// The server that was found for it.
    primary: Option<ServerAddress>,
    /// Ends the commands on it, once another server is the primary.
    replaced: CancellationToken,
}

/// A connection that is made or being made.
type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

impl SharedConnection {
    pub(super) fn new(url: RedisUrl, place: ServerPlace, generations: Arc<AtomicU64>) -> Self {
        Self { url, place, current: Mutex::default(), generations }
    }

    pub(super) fn place(&self) -> &ServerPlace {
        &self.place
    }

    fn lock(&self) -> MutexGuard<'_, CurrentConnection> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>) -> (Connecting, u64, Option<CancellationToken>) {
        let mut current = self.lock();
        if current.connecting.is_none() {
            current.generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
            current.begun = Some(Instant::now());
            current.primary = None;
            current.replaced = CancellationToken::new();
            let connecting = connect_shared(
                (self.url.clone(), self.place.clone()),
                Arc::downgrade(self),
                current.generation,
            );
            current.connecting = Some(connecting.boxed().shared());
        }
        let connecting = current.connecting.clone().expect("it was just made where there was none");
        let replaced = match self.place {
            ServerPlace::Url => None,
            ServerPlace::Sentinels(_) | ServerPlace::Node(_) => Some(current.replaced.clone()),
        };
        (connecting, current.generation, replaced)
    }

    /// Looks for the primary. If it is another server than that of the connection, ends the connection with all running
    /// commands, which may hang, and returns that server.
    pub(super) async fn leave_old_primary(&self) -> Option<ServerAddress> {
        let ServerPlace::Sentinels(sentinels) = &self.place else { return None };
        let named = sentinels.find_primary().await.ok()?;
        let is_other = |primary: &ServerAddress| *primary != named;
        if !self.lock().primary.as_ref().is_some_and(is_other) {
            return None;
        }
        self.leave();
        Some(named)
    }

    /// Ends the connection with all running commands.
    pub(super) fn leave(&self) {
        let mut current = self.lock();
        current.replaced.cancel();
        let gone = current.connecting.take();
        // Dropping the connection may need the lock, too.
        drop(current);
        drop(gone);
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
    pub(super) fn drop_wrong_server(&self, generation: u64) {
        let begun = self.lock().begun;
        if begun.is_none_or(|begun| begun.elapsed() >= REDIS_RESOLVE_INTERVAL) {
            self.drop_connection(generation);
        }
    }

    /// Runs a command. A connection that is broken is dropped.
    pub(super) async fn run<T>(
        self: &Arc<Self>,
        command: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Ran<T> {
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
                self.drop_connection(generation);
                return Ran { generation, took: Duration::ZERO, result: Err(error) };
            }
        };
        if result.as_ref().is_err_and(is_lost) {
            self.drop_connection(generation);
        }
        Ran { generation, took: begun.elapsed(), result }
    }
}

/// Makes the connection of a [`SharedConnection`], which is dropped when it is closed.
async fn connect_shared(
    (url, place): (RedisUrl, ServerPlace),
    shared: Weak<SharedConnection>,
    generation: u64,
) -> RedisResult<MultiplexedConnection> {
    let primary = place.find_server().await?;
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

impl ServerPlace {
    /// Finds the server to connect to; none for the one in the URL.
    pub(super) async fn find_server(&self) -> RedisResult<Option<ServerAddress>> {
        match self {
            Self::Url => Ok(None),
            Self::Sentinels(sentinels) => sentinels.find_primary().await.map(Some),
            Self::Node(address) => Ok(Some(address.clone())),
        }
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
