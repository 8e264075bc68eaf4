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
//!
//! In a cluster a [`Redis`] is the owner of one slot, whichever node that is now: a command that a node refuses without
//! having run it is sent again ([`router`]).

mod inner;
mod observed;
mod refusal;
mod router;
mod run;

use std::{fmt, sync::Arc, time::Duration};

use redis::{
    Cmd, FromRedisValue, Pipeline, PushInfo, RedisError, RedisFuture, RedisResult, Script,
    ScriptInvocation, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use self::{
    inner::{ServerPlace, SharedConnection, connect},
    observed::Observed,
};
pub(super) use self::{
    observed::ConnectionVerdict,
    refusal::Refusal,
    router::{ClusterRouter, Reroute},
};
use super::{
    StoreError,
    compatibility::{ServerGreeting, unfit, writable_replica},
    health::{Health, HealthSubject},
    stats::RedisStats,
};
use crate::{
    RedisUrl,
    discovery::{PrimarySurvey, Sentinels},
    redis_url::ServerAddress,
    slots::{hash_tag, slot_of},
};

/// A Redis, or in a cluster the primary of one slot. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Redis {
    url: Arc<RedisUrl>,
    place: RedisPlace,
    /// The number of its database.
    db: i64,
    /// The key to which a probe would write; none for a Redis that is only read.
    probed: Option<Arc<str>>,
    observed: Arc<Observed>,
}

#[derive(Clone)]
enum RedisPlace {
    /// A single server.
    Server(Arc<SharedConnection>),
    /// The node that has this slot of the router's.
    Slot(Arc<ClusterRouter>, usize),
}

/// A connection to run commands on. Cheap to clone.
#[derive(Clone)]
pub struct RedisConnection {
    redis: Redis,
}

impl Redis {
    /// Opens a Redis for keys that are all in the slot of `key`, if it is a cluster. The first command connects, which
    /// needs a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError`] if the URL, or a file in it, cannot be used, or if `key` chooses no slot of a cluster.
    pub fn open(url: &RedisUrl, key: &str) -> Result<Self, StoreError> {
        Ok(Self::open_one(url, key, None)?)
    }

    /// Opens a Redis that has to accept writes: probes add to the stream `key`, which never exists.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_writable(url: &RedisUrl, key: String) -> Result<Self, StoreError> {
        Ok(Self::open_one(url, &key, Some(key.as_str().into()))?)
    }

    fn open_one(url: &RedisUrl, key: &str, probed: Option<Arc<str>>) -> RedisResult<Self> {
        if url.is_cluster() && hash_tag(key).is_none() {
            return Err(unfit(
                "a Redis Cluster needs a prefix of the keys that begins with a name in braces, such as \
                 {spoke-hub}, which keeps them in one slot"
                    .to_owned(),
            ));
        }
        let places = RedisPlace::of(url, vec![slot_of(key)]);
        let place = places.into_iter().next().expect("there is one for the slot");
        let observed = Observed::new(Arc::default(), HealthSubject::Writes);
        Ok(Self { url: url.clone().into(), place, db: db(url)?, probed, observed: observed.into() })
    }

    /// Opens a Redis once for each of these streams of probes, whose slots may have different owners. All share the
    /// connections, and if it is no cluster, also the health.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn open_each(url: &RedisUrl, keys: &[String]) -> Result<Vec<Self>, StoreError> {
        let (db, places) =
            (db(url)?, RedisPlace::of(url, keys.iter().map(|key| slot_of(key)).collect()));
        let (url, stats) = (Arc::new(url.clone()), Arc::<RedisStats>::default());
        let shared = Arc::new(Observed::new(stats.clone(), HealthSubject::Writes));
        let observed = || match url.is_cluster() {
            true => Arc::new(Observed::new(stats.clone(), HealthSubject::Partition)),
            false => shared.clone(),
        };
        let each = keys.iter().zip(places).map(|(key, place)| {
            let (probed, observed) = (Some(key.as_str().into()), observed());
            Self { url: url.clone(), place, db, probed, observed }
        });
        Ok(each.collect())
    }

    /// Returns the connection, to run commands on. A command waits at most
    /// [`REDIS_REPLY_TIMEOUT`](crate::limits::REDIS_REPLY_TIMEOUT) for its reply; a blocking command needs a
    /// [`Self::dedicated_connection`].
    pub fn connection(&self) -> RedisConnection {
        RedisConnection { redis: self.clone() }
    }

    /// Returns latency and error metrics.
    pub fn stats(&self) -> &RedisStats {
        &self.observed.stats
    }

    /// Returns the health.
    pub fn health(&self) -> &Health {
        &self.observed.health
    }

    /// Makes a connection that is not shared, for blocking commands and for push messages. It does not reconnect.
    ///
    /// # Errors
    /// [`RedisError`] if connecting fails.
    pub async fn dedicated_connection(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        let server = self.find_server().await?;
        self.dedicated_connection_to(server.as_ref(), on_push).await
    }

    /// Finds the server to connect to; none for the one in the URL.
    ///
    /// # Errors
    /// [`RedisError`] if those that know it do not answer.
    pub(super) async fn find_server(&self) -> RedisResult<Option<ServerAddress>> {
        match &self.place {
            RedisPlace::Server(shared) => shared.place().find_server().await,
            RedisPlace::Slot(router, at) => router.owner(*at).await.map(Some),
        }
    }

    /// Does the same with a known server.
    ///
    /// # Errors
    /// As [`Self::dedicated_connection`].
    pub(super) async fn dedicated_connection_to(
        &self,
        server: Option<&ServerAddress>,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        connect(&self.url, server, on_push).await
    }

    /// Connects to a node of a cluster, which may be a replica, for an operator.
    ///
    /// # Errors
    /// As [`Self::dedicated_connection`].
    pub(super) async fn dedicated_connection_to_any(
        &self,
        server: &ServerAddress,
    ) -> RedisResult<MultiplexedConnection> {
        self.url.client(Some(server))?.get_multiplexed_async_connection().await
    }

    /// Returns the Sentinels that tell which server is the primary, if there are some.
    fn sentinels(&self) -> Option<&Sentinels> {
        match &self.place {
            RedisPlace::Server(shared) => match shared.place() {
                ServerPlace::Sentinels(sentinels) => Some(sentinels),
                ServerPlace::Url | ServerPlace::Node(_) => None,
            },
            RedisPlace::Slot(..) => None,
        }
    }

    /// Returns the nodes of a cluster, if it is one.
    pub(super) fn router(&self) -> Option<&Arc<ClusterRouter>> {
        match &self.place {
            RedisPlace::Server(_) => None,
            RedisPlace::Slot(router, _) => Some(router),
        }
    }

    /// Returns whether it is a part of a cluster.
    pub fn is_clustered(&self) -> bool {
        self.router().is_some()
    }

    /// Returns whether Sentinels or the nodes of a cluster tell which server is the primary.
    pub fn is_discovered(&self) -> bool {
        self.sentinels().is_some() || self.is_clustered()
    }

    /// Asks all of them for the primary; none for a server that the URL names.
    pub async fn survey_primary(&self) -> Option<PrimarySurvey> {
        match &self.place {
            RedisPlace::Server(_) => Some(self.sentinels()?.survey().await),
            RedisPlace::Slot(router, at) => Some(router.survey(*at).await),
        }
    }

    /// Resolves when a Sentinel announces a new primary, for one task.
    pub(super) async fn new_primary_announced(&self) {
        match self.sentinels() {
            Some(sentinels) => sentinels.announced().await,
            None => std::future::pending().await,
        }
    }

    /// Ends all commands on a server that is no longer the primary, and returns the one that is.
    pub(super) async fn leave_old_primary(&self) -> Option<ServerAddress> {
        match &self.place {
            RedisPlace::Server(shared) => shared.leave_old_primary().await,
            RedisPlace::Slot(..) => None,
        }
    }

    /// Returns the server of the slot, if it is known.
    pub(super) fn slot_owner(&self) -> Option<ServerAddress> {
        match &self.place {
            RedisPlace::Server(_) => None,
            RedisPlace::Slot(router, at) => router.map().borrow().owner(*at).cloned(),
        }
    }

    /// Begins to look for the server of commands that a node has refused, if this is a cluster.
    pub(super) fn reroute(&self) -> Option<Reroute<'_>> {
        match &self.place {
            RedisPlace::Server(_) => None,
            RedisPlace::Slot(router, at) => Some(router.reroute(*at, self.patience())),
        }
    }

    /// Takes the replies of a dedicated connection.
    pub(super) fn handle_answered(
        &self,
        took: Duration,
        answered: Result<&[Value], &RedisError>,
    ) -> ConnectionVerdict {
        self.observed.handle_answered(took, answered)
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
        let mut probe = redis::pipe();
        probe.cmd("HELLO");
        if let Some(key) = &self.probed {
            // NOMKSTREAM adds nothing to a stream that does not exist.
            probe.cmd("XADD").arg(&**key).arg("NOMKSTREAM").arg("MAXLEN").arg(1);
            probe.arg("*").arg("probe").arg(1);
        }
        let (generation, answered) = self.run_pipeline(&probe, 0, probe.len()).await;
        let answered = answered.and_then(|answers| {
            let mut answers = answers.into_iter();
            let greeting = ServerGreeting::read(answers.next().unwrap_or(Value::Nil));
            answers.next().map_or(Ok(Value::Nil), Value::extract_error)?;
            match self.probed.is_some() && greeting.is_replica {
                true => Err(self.judge_error(writable_replica())),
                false => Ok(()),
            }
        });
        match answered.map_err(StoreError::from) {
            Err(error) if error.is_outage() => Err(error),
            // Any other error of the probe says nothing about Redis as a whole.
            Ok(()) | Err(_) => {
                self.health().handle_success(generation);
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
        let value = self.run_script(&Cmd::invoke_script(script), script).await?;
        Ok(redis::from_redis_value(value)?)
    }

    /// Runs a command that calls a script by its digest, and loads the script if Redis does not have it yet. Returns the
    /// reply with the errors in it.
    ///
    /// # Errors
    /// [`RedisError`] if the whole call failed.
    pub(super) async fn call(&self, command: &Cmd, script: &Script) -> RedisResult<Value> {
        self.run_script(command, &script.prepare_invoke()).await
    }
}

impl RedisPlace {
    /// Returns the place of each of these slots.
    fn of(url: &RedisUrl, slots: Vec<u16>) -> Vec<Self> {
        let count = slots.len();
        if let Some(asked) = url.discovery().filter(|_| url.is_cluster()) {
            let router = Arc::new(ClusterRouter::new(url, asked, slots));
            return (0..count).map(|at| Self::Slot(router.clone(), at)).collect();
        }
        let place = match Sentinels::of(url) {
            Some(sentinels) => ServerPlace::Sentinels(Arc::new(sentinels)),
            None => ServerPlace::Url,
        };
        let shared = Arc::new(SharedConnection::new(url.clone(), place, Arc::default()));
        vec![Self::Server(shared); count]
    }
}

/// Returns the number of the database. Checks the files in the URL.
fn db(url: &RedisUrl) -> RedisResult<i64> {
    Ok(url.client(None)?.get_connection_info().redis_settings().db())
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.redis.run_command(cmd))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move { self.redis.run_pipeline(cmd, offset, count).await.1 })
    }

    fn get_db(&self) -> i64 {
        self.redis.db
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.url).finish()
    }
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.redis.url).finish()
    }
}

#[cfg(test)]
mod tests;
