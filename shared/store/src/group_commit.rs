//! Group commit: writes that are confirmed only once they have reached the acknowledgement level.
//!
//! `WAIT` and `WAITAOF` cover the writes of their own connection and block the commands after them. So above `memory`
//! one task has a connection for these writes only: it sends the waiting writes of all sessions as one pipeline with
//! one barrier after them, and confirms them when the barrier is passed. The next group gathers during the wait, as in the
//! group commit of databases.
//!
//! The barrier says nothing about a connection that has written nothing: from Redis 7.2 on, `WAIT` returns at once
//! there. A batch that is sent again after a failed wait consists of duplicates, and would be acknowledged whether it
//! is stored or not. So **each script that runs here writes, even if only what is there already.** Replicas and the
//! file take writes in order, so the barrier after that write covers everything before it, from any connection.
//!
//! Rejected: the first waiting caller sends for all (a caller can be dropped at any moment, and with it the results of
//! the others); a wait inside the script (Redis refuses to block there).

use std::{
    sync::{Arc, LazyLock},
    time::Instant,
};

use redis::{
    Arg, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Script,
    ScriptInvocation, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Redis, StoreError,
    ack_level::{AckLevel, Barrier},
    connection::ConnectionVerdict,
    health::{Health, HealthSubject},
    redis_settings::query_server_info,
};
use crate::limits::{COMMIT_BYTES_MAX, COMMITS_MAX, PROBE_INTERVAL, PROBE_INTERVAL_DOWN};
use tokio_util::sync::CancellationToken;

static REREAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/reread.lua")));

/// Runs scripts and returns once their writes have reached the level. Cheap to clone.
#[derive(Clone)]
pub struct CommitWriter {
    redis: Redis,
    /// None at `memory`.
    commits: Option<mpsc::Sender<QueuedCommit>>,
    /// Whether writes reach the level.
    level_health: Arc<Health>,
}

/// The task through which each [`CommitWriter`] above `memory` writes.
pub struct Committer {
    redis: Redis,
    level: AckLevel,
    commits: mpsc::Receiver<QueuedCommit>,
    connected: Option<(MultiplexedConnection, Option<Barrier>)>,
    level_health: Arc<Health>,
}

struct QueuedCommit {
    command: Cmd,
    bytes: usize,
    answer: oneshot::Sender<RedisResult<Value>>,
}

/// Creates a writer at `memory`.
impl From<Redis> for CommitWriter {
    fn from(redis: Redis) -> Self {
        Self { redis, commits: None, level_health: new_health() }
    }
}

impl CommitWriter {
    /// Creates a writer at `level` and its committer, which has to run. At `memory` the committer gets no writes.
    pub fn new(redis: Redis, level: AckLevel) -> (Self, Committer) {
        let (commits, queue) = mpsc::channel(COMMITS_MAX);
        let level_health = new_health();
        let committer = Committer {
            redis: redis.clone(),
            level,
            commits: queue,
            connected: None,
            level_health: level_health.clone(),
        };
        let commits = (level != AckLevel::Memory).then_some(commits);
        (Self { redis, commits, level_health }, committer)
    }

    /// Returns the Redis for reads, whose connection no barrier blocks.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Runs a script that writes, and loads it if Redis does not have it yet.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] if it is unknown whether the script ran; [`StoreError::Busy`] with `NOREPLICAS` or
    /// `NOFSYNC` if it ran, but has not reached the level yet; another [`StoreError`] if Redis fails.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let Some(commits) = &self.commits else { return self.redis.invoke(script).await };
        let value = match commit(commits, || Cmd::invoke_script(script)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                script.load_async(&mut self.redis.connection()).await?;
                commit(commits, || Cmd::invoke_script(script)).await?
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
        let Some(commits) = &self.commits else { return };
        loop {
            let written = commit(commits, || cmd("SET").arg(&key).arg(1).take()).await;
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
        if self.commits.is_some() {
            return self.invoke(REREAD.key(hash).arg(fields)).await;
        }
        let mut hmget = cmd("HMGET");
        hmget.arg(hash).arg(fields);
        Ok(hmget.query_async(&mut self.redis.connection()).await?)
    }
}

fn new_health() -> Arc<Health> {
    Arc::new(Health::new(HealthSubject::Level))
}

async fn commit(
    commits: &mpsc::Sender<QueuedCommit>,
    command: impl FnOnce() -> Cmd,
) -> RedisResult<Value> {
    // The batch is copied only once there is room in the queue.
    let permit = commits.reserve().await.map_err(|_| gone())?;
    let command = command();
    let bytes = bytes(&command);
    let (answer, answered) = oneshot::channel();
    permit.send(QueuedCommit { command, bytes, answer });
    answered.await.map_err(|_| gone())?
}

fn bytes(command: &Cmd) -> usize {
    let args = command.args_iter().map(|arg| match arg {
        Arg::Simple(bytes) => bytes.len(),
        _ => 0,
    });
    args.sum()
}

/// Returns the error after the committer has ended, which it does after all its writers.
fn gone() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the committer has stopped").into()
}

impl Committer {
    /// Runs until the last of its writers is dropped.
    pub async fn run(mut self) {
        while let Some(first) = self.commits.recv().await {
            let group = self.gather(first);
            let (commands, answers): (Vec<_>, Vec<_>) =
                group.into_iter().map(|commit| (commit.command, commit.answer)).unzip();
            match self.send(commands).await {
                Ok(results) => {
                    for (answer, result) in answers.into_iter().zip(results) {
                        // A caller that no longer waits will try again.
                        let _ = answer.send(result);
                    }
                }
                Err(error) => {
                    for answer in answers {
                        let _ = answer.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// Returns the group of waiting writes, within limits.
    fn gather(&mut self, first: QueuedCommit) -> Vec<QueuedCommit> {
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < COMMITS_MAX
            && bytes < COMMIT_BYTES_MAX
            && let Ok(next) = self.commits.try_recv()
        {
            bytes += next.bytes;
            group.push(next);
        }
        group
    }

    /// Sends a group in one round trip. A connection that fails is not used again.
    async fn send(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        let (mut connection, barrier) = match self.connected.take() {
            Some(connected) => connected,
            None => self.connect().await.inspect_err(|error| self.handle_level_error(error))?,
        };
        let mut pipeline = Pipeline::with_capacity(commands.len() + 1);
        for command in commands.into_iter().chain(barrier.map(Barrier::command)) {
            pipeline.add_command(command);
        }
        let begun = Instant::now();
        let answered = connection.req_packed_commands(&pipeline, 0, pipeline.len()).await;
        let answers = answered.as_ref().map(Vec::as_slice);
        let verdict = self.redis.handle_answered(begun.elapsed(), answers);
        let mut values = answered?;
        if verdict == ConnectionVerdict::Good {
            self.connected = Some((connection, barrier));
        }
        let level = match barrier {
            Some(barrier) => barrier.check(values.pop().unwrap_or(Value::Nil)),
            None => Ok(()),
        };
        match &level {
            Ok(()) => self.level_health.handle_success(0),
            Err(error) => self.handle_level_error(error),
        }
        let result = |value: Value| {
            let value = value.extract_error()?;
            level.clone().map(|()| value)
        };
        Ok(values.into_iter().map(result).collect())
    }

    fn handle_level_error(&self, error: &RedisError) {
        self.level_health.handle_error(&error.clone().into());
    }

    /// Connects, and checks again that the server can give the level: it may be another one.
    async fn connect(&self) -> RedisResult<(MultiplexedConnection, Option<Barrier>)> {
        let mut connection = self.redis.dedicated_connection(|_| {}).await?;
        let info = query_server_info(&mut connection).await?;
        let barrier = self.level.barrier(&info)?;
        Ok((connection, barrier))
    }
}
