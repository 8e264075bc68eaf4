//! Change notifications (hints): one connection that receives the name of every changed key with some prefixes.
//!
//! `CLIENT TRACKING ON BCAST PREFIX …` makes Redis push the names of changed keys at the end of the event loop iteration
//! in which they changed. It needs no server setting and no list of keys, so an idle client costs nothing. Rejected: a
//! blocking XREAD per client (a connection each), one XREAD over thousands of streams (redis#10809), keyspace
//! notifications (a server setting).
//!
//! A hint may be lost, with the connection or by a bug. So all waiting tasks are woken after a reconnect, and a slow
//! sweep looks for changes without a hint: one command for a thousand keys. The connection is pinged, to detect one that
//! is half open. It follows the connection for commands to another server.
//!
//! In a cluster there is such a connection to each primary, since a node tells of its own keys only.
//!
//! Some hosted Redis and proxies do not support `CLIENT TRACKING`. There the sweep runs every [`HINT_POLL_INTERVAL`]
//! instead.

mod primaries;
mod sweep;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{PushInfo, PushKind, RedisError, RedisResult, Value, aio::MultiplexedConnection, cmd};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Redis, StoreError};
use crate::limits::{HINT_PING_INTERVAL, HINT_POLL_INTERVAL, HINT_RETRY_MAX, SWEEP_INTERVAL};
use crate::{redis_url::ServerAddress, slots::slot_of};
use spoke_diagnostics::{Outage, error_chain};
use spoke_protocol::{RetryDelay, Seq};

/// The tasks that wait for changes of keys. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hints {
    waiting: Arc<Mutex<WaitersByKey>>,
    followers: Arc<Mutex<Vec<PrefixFollower>>>,
}

type WaitersByKey = HashMap<Arc<str>, Vec<Arc<HintWaiter>>>;

struct HintWaiter {
    notify: Notify,
    awaits: Mutex<AwaitedNews>,
}

#[derive(Clone, Copy)]
enum AwaitedNews {
    /// Entries after this seq.
    Entries(Seq),
    /// The end of the key.
    End,
}

struct PrefixFollower {
    prefix: String,
    changes: mpsc::Sender<KeyChange>,
}

/// Where hints come from.
#[derive(Clone)]
struct HintSource {
    redis: Redis,
    prefixes: Vec<String>,
    /// A primary of a cluster; none for a Redis that is one server.
    server: Option<ServerAddress>,
}

impl HintSource {
    fn new(redis: Redis, prefixes: Vec<String>) -> Self {
        Self { redis, prefixes, server: None }
    }

    /// Returns whether changes of this key are told here.
    fn tells(&self, key: &str) -> bool {
        let is_here = || match (&self.server, self.redis.router()) {
            (Some(server), Some(router)) => router.owner_of(slot_of(key)).as_ref() == Some(server),
            _ => true,
        };
        self.prefixes.iter().any(|prefix| key.starts_with(prefix)) && is_here()
    }
}

/// A change of a key with a followed prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange {
    /// This key has changed.
    Key(String),
    /// Any key may have changed: the connection was lost.
    Any,
}

/// Waits for changes of one key, or of any of some keys, until it is dropped.
pub struct KeyWatch<const KEYS: usize = 1> {
    hints: Hints,
    keys: [Arc<str>; KEYS],
    waiter: Arc<HintWaiter>,
}

impl Hints {
    /// Creates hints without waiting tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches the stream `key` for entries. The first [`KeyWatch::changed`] resolves at once, for earlier entries.
    pub fn watch_stream(&self, key: impl Into<Arc<str>>) -> KeyWatch {
        self.watch([key.into()], AwaitedNews::Entries(Seq::ZERO))
    }

    /// Watches `keys` for a change or the end of one of them. The first [`KeyWatch::changed`] resolves at once, for
    /// earlier changes.
    pub fn watch_keys<const KEYS: usize>(&self, keys: [Arc<str>; KEYS]) -> KeyWatch<KEYS> {
        self.watch(keys, AwaitedNews::End)
    }

    fn watch<const KEYS: usize>(
        &self,
        keys: [Arc<str>; KEYS],
        awaits: AwaitedNews,
    ) -> KeyWatch<KEYS> {
        let waiter = Arc::new(HintWaiter { notify: Notify::new(), awaits: Mutex::new(awaits) });
        waiter.notify.notify_one();
        let mut waiting = lock(&self.waiting);
        for key in &keys {
            // Nearly every key has one task.
            let waiters = waiting.entry(key.clone()).or_insert_with(|| Vec::with_capacity(1));
            waiters.push(waiter.clone());
        }
        drop(waiting);
        KeyWatch { hints: self.clone(), keys, waiter }
    }

    /// Returns a channel of the changed keys with `prefix`. Changes beyond its `capacity` are dropped. The sweep does not
    /// cover it.
    pub fn follow(&self, prefix: String, capacity: usize) -> mpsc::Receiver<KeyChange> {
        let (changes, receiver) = mpsc::channel(capacity);
        lock(&self.followers).push(PrefixFollower { prefix, changes });
        receiver
    }

    /// Receives the changed keys with `prefixes`, which must not overlap, and reconnects after every fault until
    /// `ended`.
    pub async fn listen_forever(
        self,
        redis: Redis,
        prefixes: Vec<String>,
        ended: CancellationToken,
    ) {
        match redis.router() {
            Some(router) => {
                let router = router.clone();
                self.listen_to_primaries(&router, &HintSource::new(redis, prefixes), ended).await;
            }
            None => self.listen_to(HintSource::new(redis, prefixes), ended).await,
        }
    }

    async fn listen_to(self, source: HintSource, ended: CancellationToken) {
        let mut retry = RetryDelay::new(Duration::from_millis(100), HINT_RETRY_MAX);
        let mut outages = HintOutages::default();
        let mut connection = source.redis.health().watch_replacement();
        let is_followed = source.server.is_none();
        while !ended.is_cancelled() {
            connection.handle_connecting();
            let result = tokio::select! {
                () = ended.cancelled() => return,
                result = self.listen(&source, &mut retry, &mut outages) => result,
                () = connection.replaced(), if is_followed => Ok(()),
            };
            self.wake_all();
            let Err(error) = result else { continue };
            if outages.down.handle_fault() {
                let error = error_chain(&error);
                warn!(
                    error,
                    "lost redis change notifications; new entries are delayed until they resume"
                );
            }
            let wait = retry.next(None, rand::random());
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = connection.replaced(), if is_followed => {}
            }
        }
    }

    /// Returns without an error to connect again: to another server, or to try hints that were denied.
    async fn listen(
        &self,
        source: &HintSource,
        retry: &mut RetryDelay,
        outages: &mut HintOutages,
    ) -> Result<(), StoreError> {
        let lost = Arc::new(Notify::new());
        let mut connection = self.connect(source, lost.clone()).await?;
        let denied = match track(&mut connection, &source.prefixes).await {
            Ok(()) => None,
            Err(error) if is_untracked(&error) => Some(StoreError::from(error)),
            Err(error) => return Err(error.into()),
        };
        retry.reset();
        outages.handle_connected(denied.as_ref());
        self.handle_gap();
        let mut ping = ticks(HINT_PING_INTERVAL);
        let mut sweep = ticks(if denied.is_some() { HINT_POLL_INTERVAL } else { SWEEP_INTERVAL });
        let mut again = ticks(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                () = lost.notified() => return Err(StoreError::connection_lost()),
                _ = sweep.tick() => self.sweep(source, &mut connection).await?,
                _ = again.tick(), if denied.is_some() => return Ok(()),
                _ = ping.tick() => cmd("PING").query_async::<()>(&mut connection).await?,
            }
        }
    }

    async fn connect(
        &self,
        source: &HintSource,
        lost: Arc<Notify>,
    ) -> Result<MultiplexedConnection, StoreError> {
        let hints = self.clone();
        let on_push = move |push: PushInfo| match push.kind {
            PushKind::Invalidate => hints.handle_invalidated(push.data),
            PushKind::Disconnection => lost.notify_one(),
            _ => {}
        };
        Ok(match &source.server {
            Some(server) => source.redis.dedicated_connection_to(Some(server), on_push).await?,
            None => source.redis.dedicated_connection(on_push).await?,
        })
    }

    /// Takes a list of keys, or nil after FLUSHALL.
    fn handle_invalidated(&self, data: Vec<Value>) {
        for part in data {
            let Value::Array(keys) = part else {
                self.handle_gap();
                continue;
            };
            let followers = lock(&self.followers);
            for key in keys {
                let Value::BulkString(key) = key else { continue };
                let Ok(key) = std::str::from_utf8(&key) else { continue };
                self.wake(key);
                for follower in followers.iter().filter(|it| key.starts_with(&it.prefix)) {
                    let _ = follower.changes.try_send(KeyChange::Key(key.to_owned()));
                }
            }
        }
    }

    /// Wakes all tasks, since hints may have been lost.
    fn handle_gap(&self) {
        self.wake_all();
        for follower in lock(&self.followers).iter() {
            let _ = follower.changes.try_send(KeyChange::Any);
        }
    }

    fn wake(&self, key: &str) {
        let waiting = lock(&self.waiting);
        waiting.get(key).into_iter().flatten().for_each(|waiter| waiter.notify.notify_one());
    }

    fn wake_all(&self) {
        lock(&self.waiting).values().flatten().for_each(|waiter| waiter.notify.notify_one());
    }
}

/// The outages of hints, for the log.
#[derive(Default)]
struct HintOutages {
    down: Outage,
    denied: Outage,
}

impl HintOutages {
    fn handle_connected(&mut self, denied: Option<&StoreError>) {
        if let Some(tries) = self.down.handle_success() {
            info!(count = tries, "hints from redis are back");
        }
        match denied {
            Some(error) if self.denied.handle_fault() => {
                let (error, poll_ms) = (error_chain(error), HINT_POLL_INTERVAL.as_millis() as u64);
                let help = "allow this user CLIENT TRACKING: ACL SETUSER … +client|tracking";
                warn!(
                    error,
                    poll_ms, help, "redis denied CLIENT TRACKING; polling for new entries instead"
                );
            }
            Some(_) => {}
            None if self.denied.handle_success().is_some() => {
                info!("redis allows CLIENT TRACKING again")
            }
            None => {}
        }
    }
}

async fn track(connection: &mut MultiplexedConnection, prefixes: &[String]) -> RedisResult<()> {
    let mut tracking = cmd("CLIENT");
    tracking.arg("TRACKING").arg("ON").arg("BCAST");
    for prefix in prefixes {
        tracking.arg("PREFIX").arg(prefix);
    }
    tracking.query_async(connection).await
}

/// Returns whether Redis replies, but gives no hints.
fn is_untracked(error: &RedisError) -> bool {
    !StoreError::from(error.clone()).is_outage()
}

/// Checks that a Redis gives hints.
///
/// # Errors
/// [`StoreError::Denied`] or [`StoreError::Other`] if it does not.
pub async fn check_tracking(redis: &Redis) -> Result<(), StoreError> {
    let mut connection = redis.dedicated_connection(|_| {}).await?;
    Ok(track(&mut connection, &["spoke-check:".to_owned()]).await?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<const KEYS: usize> KeyWatch<KEYS> {
    /// Resolves once a key may have changed. Several hints count as one. Cancel safe.
    pub async fn changed(&self) {
        self.waiter.notify.notified().await;
    }

    /// Takes note that entries up to here were read: the sweep looks for later ones.
    pub fn handle_read_through(&self, seq: Seq) {
        *lock(&self.waiter.awaits) = AwaitedNews::Entries(seq);
    }
}

impl<const KEYS: usize> Drop for KeyWatch<KEYS> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.hints.waiting);
        for key in &self.keys {
            if let Some(watchers) = waiting.get_mut(key) {
                watchers.retain(|other| !Arc::ptr_eq(other, &self.waiter));
                if watchers.is_empty() {
                    waiting.remove(key);
                }
            }
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
