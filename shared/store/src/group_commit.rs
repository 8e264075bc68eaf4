//! Group commit: the writes of all sessions in few calls, which are confirmed only once they have reached the
//! acknowledgement level.
//!
//! One task has a connection for these writes only. While one group is on its way, the writes of all sessions gather;
//! the next group takes them together: all batches for the copy in one call of append.lua, and above `memory` one
//! barrier after it, as in the group commit of databases. A first write is sent at once, so nothing waits while
//! little is written; above a rate, groups keep a distance of about a millisecond (`pace`).
//!
//! `WAIT` and `WAITAOF` cover the writes of their own connection and block the commands after them. The barrier says
//! nothing about a connection that has written nothing: from Redis 7.2 on, `WAIT` returns at once there. A batch that
//! is sent again after a failed wait consists of duplicates, and would be acknowledged whether it is stored or not. So
//! **each script that runs here writes, even if only what is there already.** Replicas and the file take writes in
//! order, so the barrier after that write covers everything before it, from any connection.
//!
//! Rejected: the first waiting caller sends for all (a caller can be dropped at any moment, and with it the results of
//! the others); a wait inside the script (Redis refuses to block there).

mod committer;
mod group;
mod pace;
mod waiting;

use std::sync::{Arc, LazyLock};

use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ScriptInvocation, ServerErrorKind, Value,
    cmd,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::committer::Committer;
use self::group::QueuedWrite;
use super::{
    Redis, StoreError,
    ack_level::AckLevel,
    append_call::{self, AppendBatch},
    health::{Health, HealthSubject},
    keys::CopyStreams,
    task_queue::ask,
};
use crate::limits::{COMMIT_QUEUE_MAX, PROBE_INTERVAL, PROBE_INTERVAL_DOWN};

static REREAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/reread.lua")));

/// Runs scripts and returns once their writes have reached the level. Cheap to clone.
#[derive(Clone)]
pub struct CommitWriter {
    redis: Redis,
    /// None without a committer: each batch goes alone.
    queue: Option<mpsc::Sender<QueuedWrite>>,
    level: AckLevel,
    /// Whether writes reach the level.
    level_health: Arc<Health>,
}

/// Creates a writer at `memory` without a committer.
impl From<Redis> for CommitWriter {
    fn from(redis: Redis) -> Self {
        let level_health = new_health();
        Self { redis, queue: None, level: AckLevel::Memory, level_health }
    }
}

impl CommitWriter {
    /// Creates a writer at `level` and its committer, which has to run.
    pub fn new(redis: Redis, level: AckLevel) -> (Self, Committer) {
        let (sender, queue) = mpsc::channel(COMMIT_QUEUE_MAX);
        let level_health = new_health();
        let committer = Committer::new(redis.clone(), level, queue, level_health.clone());
        (Self { redis, queue: Some(sender), level, level_health }, committer)
    }

    /// Returns the Redis for reads, whose connection no barrier blocks.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Appends the batch that `make` returns, and returns its answer of append.lua. `make` is called when there is room
    /// for the batch: batches are sent in the order of these calls.
    ///
    /// # Errors
    /// As [`Self::invoke`].
    pub(super) async fn append(
        &self,
        streams: &Arc<CopyStreams>,
        make: impl FnOnce() -> AppendBatch,
        now_ms: u64,
    ) -> Result<Value, StoreError> {
        let Some(queue) = &self.queue else {
            return append_call::run_one(&self.redis, streams, &make(), now_ms).await;
        };
        let queued = ask(queue, |answer| QueuedWrite::Batch {
            streams: streams.clone(),
            batch: Box::new(make()),
            answer,
        });
        Ok(queued.await?)
    }

    /// Runs a script that writes, and loads it if Redis does not have it yet. It may run twice.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] if it is unknown whether the script ran; [`StoreError::Busy`] with `NOREPLICAS` or
    /// `NOFSYNC` if it ran, but has not reached the level yet; another [`StoreError`] if Redis fails.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let Some(queue) = self.barrier_queue() else { return self.redis.invoke(script).await };
        let value = match commit(queue, || Cmd::invoke_script(script)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.redis.load(script).await?;
                commit(queue, || Cmd::invoke_script(script)).await?
            }
            answer => answer?,
        };
        Ok(redis::from_redis_value(value)?)
    }

    /// Returns whether writes reach the level; always healthy at `memory`.
    pub fn level_health(&self) -> &Health {
        &self.level_health
    }

    /// Writes to the string `key` at intervals until `ended`, so that it is known whether the level is reached while
    /// nothing else is written. Does nothing at `memory`.
    pub async fn watch_level(self, key: String, ended: CancellationToken) {
        let Some(queue) = self.barrier_queue() else { return };
        loop {
            let written = commit(queue, || cmd("SET").arg(&key).arg(1).take()).await;
            let wait = if written.is_ok() { PROBE_INTERVAL } else { PROBE_INTERVAL_DOWN };
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads fields of a hash whose values must have reached the level. The first field exists if any does.
    ///
    /// # Errors
    /// As [`Self::invoke`].
    pub async fn read(&self, hash: &str, fields: &[&str]) -> Result<Value, StoreError> {
        if self.barrier_queue().is_some() {
            return self.invoke(REREAD.key(hash).arg(fields)).await;
        }
        let mut hmget = cmd("HMGET");
        hmget.arg(hash).arg(fields);
        Ok(hmget.query_async(&mut self.redis.connection()).await?)
    }

    /// Returns the queue above `memory`.
    fn barrier_queue(&self) -> Option<&mpsc::Sender<QueuedWrite>> {
        self.queue.as_ref().filter(|_| self.level != AckLevel::Memory)
    }
}

fn new_health() -> Arc<Health> {
    Arc::new(Health::new(HealthSubject::Level))
}

async fn commit(
    queue: &mpsc::Sender<QueuedWrite>,
    command: impl FnOnce() -> Cmd,
) -> RedisResult<Value> {
    ask(queue, |answer| QueuedWrite::Command { command: command(), answer }).await
}
