//! Writes that are answered only once they are kept at the acknowledgement level.
//!
//! `WAIT` and `WAITAOF` cover the writes of their own connection and hold up what comes behind them
//! on it. So above `memory` one task has a connection for these writes alone: it sends what waits
//! from all sessions as one pipeline with one barrier behind it, and answers when that is passed.
//! While it waits, the next group gathers (group commit, as databases do it).
//!
//! The barrier says nothing of a connection that has written nothing: from Redis 7.2 on `WAIT`
//! returns at once there. A batch that is sent again after a wait in vain is all duplicates and
//! would be acknowledged so, kept or not. Hence the rule: **each script that runs here writes, even
//! if only what is there already.** Replicas and the file take writes in order, so the barrier behind
//! that write covers all that came before it, from whatever connection.
//!
//! Rejected: the first of the waiting callers sends for all (a caller can be dropped at any moment,
//! and the others' answers with it); a wait inside of the script (Redis refuses to block there).

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
    server_info::query_server_info,
};
use crate::limits::{COMMIT_BYTES_MAX, COMMITS_MAX, PROBE_INTERVAL, PROBE_INTERVAL_DOWN};
use tokio_util::sync::CancellationToken;

static REREAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/reread.lua")));

/// Runs scripts and answers when their writes are kept. Cheap to clone.
#[derive(Clone)]
pub struct CommitWriter {
    redis: Redis,
    /// None where to be applied is enough.
    commits: Option<mpsc::Sender<QueuedCommit>>,
    /// Whether what is written reaches the level.
    level_health: Arc<Health>,
}

/// What `CommitWriter`s above `memory` write through.
pub struct Committer {
    redis: Redis,
    level: AckLevel,
    commits: mpsc::Receiver<QueuedCommit>,
    connected: Option<(MultiplexedConnection, Option<Barrier>)>,
    kept: Arc<Health>,
}

struct QueuedCommit {
    command: Cmd,
    bytes: usize,
    answer: oneshot::Sender<RedisResult<Value>>,
}

/// Writes count once they are applied.
impl From<Redis> for CommitWriter {
    fn from(redis: Redis) -> Self {
        Self { redis, commits: None, level_health: new_health() }
    }
}

impl CommitWriter {
    /// Writes count once they are kept at `level`. The committer has to run for that; at `memory`
    /// nothing ever comes to it.
    pub fn new(redis: Redis, level: AckLevel) -> (Self, Committer) {
        let (commits, queue) = mpsc::channel(COMMITS_MAX);
        let kept = new_health();
        let committer = Committer {
            redis: redis.clone(),
            level,
            commits: queue,
            connected: None,
            kept: kept.clone(),
        };
        let commits = (level != AckLevel::Memory).then_some(commits);
        (Self { redis, commits, level_health: kept }, committer)
    }

    /// To read, from a connection that no barrier holds up.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Runs a script that writes, loading it where Redis does not have it yet.
    ///
    /// # Errors
    /// `StoreError`. One that is `Unreachable` does not say whether the script ran, and `Busy` with
    /// `NOREPLICAS` or `NOFSYNC` says that it did and that this is not kept at the level yet.
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

    /// Whether what is written reaches the level; always well at `memory`.
    pub fn level_health(&self) -> &Health {
        &self.level_health
    }

    /// Writes to the string `key` every now and then until `ended`, so that it is known whether
    /// the level is reached while nothing else is written. At `memory` there is nothing to do.
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

    /// Reads fields of a hash to be told to somebody who takes them for kept. The first is there if
    /// any is.
    ///
    /// # Errors
    /// As `invoke`.
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
    // Only who has a place makes a copy of its batch.
    let place = commits.reserve().await.map_err(|_| gone())?;
    let command = command();
    let bytes = bytes(&command);
    let (answer, answered) = oneshot::channel();
    place.send(QueuedCommit { command, bytes, answer });
    answered.await.map_err(|_| gone())?
}

fn bytes(command: &Cmd) -> usize {
    let args = command.args_iter().map(|arg| match arg {
        Arg::Simple(bytes) => bytes.len(),
        _ => 0,
    });
    args.sum()
}

/// The committer has ended, which it does after everybody who writes through it.
fn gone() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "no more is written").into()
}

impl Committer {
    /// Serves until the last of its writers is dropped.
    pub async fn run(mut self) {
        while let Some(first) = self.commits.recv().await {
            let group = self.gather(first);
            let (commands, answers): (Vec<_>, Vec<_>) =
                group.into_iter().map(|commit| (commit.command, commit.answer)).unzip();
            match self.send(commands).await {
                Ok(results) => {
                    for (answer, result) in answers.into_iter().zip(results) {
                        // Whoever does not wait any more will ask again.
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

    /// All that waits by now, within limits.
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

    /// One round trip for all of them. A connection that fails is not used again.
    async fn send(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        let (mut connection, barrier) = match self.connected.take() {
            Some(connected) => connected,
            None => self.connect().await.inspect_err(|error| self.handle_unkept(error))?,
        };
        let mut pipeline = Pipeline::with_capacity(commands.len() + 1);
        for command in commands.into_iter().chain(barrier.map(Barrier::command)) {
            pipeline.add_command(command);
        }
        let begun = Instant::now();
        let answered = connection.req_packed_commands(&pipeline, 0, pipeline.len()).await;
        let answers = answered.as_ref().map(Vec::as_slice);
        let standing = self.redis.handle_answered(begun.elapsed(), answers);
        let mut values = answered?;
        if standing == ConnectionVerdict::Good {
            self.connected = Some((connection, barrier));
        }
        let kept = match barrier {
            Some(barrier) => barrier.check(values.pop().unwrap_or(Value::Nil)),
            None => Ok(()),
        };
        match &kept {
            Ok(()) => self.kept.handle_success(0),
            Err(error) => self.handle_unkept(error),
        }
        let result = |value: Value| {
            let value = value.extract_error()?;
            kept.clone().map(|()| value)
        };
        Ok(values.into_iter().map(result).collect())
    }

    fn handle_unkept(&self, error: &RedisError) {
        self.kept.handle_error(&error.clone().into());
    }

    /// A new connection may lead to another Redis: it has to be able to give the level as well.
    async fn connect(&self) -> RedisResult<(MultiplexedConnection, Option<Barrier>)> {
        let mut connection = self.redis.dedicated_connection(|_| {}).await?;
        let facts = query_server_info(&mut connection).await?;
        let barrier = self.level.barrier(&facts)?;
        Ok((connection, barrier))
    }
}
