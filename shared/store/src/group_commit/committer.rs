//! The task that writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use spoke_diagnostics::unix_ms;
use tokio::sync::mpsc;

use super::group::{Group, QueuedWrite};
use crate::{
    Redis,
    ack_level::{AckLevel, Barrier},
    append_call,
    connection::ConnectionVerdict,
    health::Health,
    redis_settings::query_server_info,
};

/// The task through which each [`CommitWriter`](super::CommitWriter) of its pair writes.
pub struct Committer {
    redis: Redis,
    level: AckLevel,
    queue: mpsc::Receiver<QueuedWrite>,
    connected: Option<CommitConnection>,
    level_health: Arc<Health>,
}

/// The connection for writes.
struct CommitConnection {
    connection: MultiplexedConnection,
    barrier: Option<Barrier>,
    /// Set once it is closed.
    is_closed: Arc<AtomicBool>,
    /// The generation of the connection for commands when this one was made.
    generation: u64,
}

impl Committer {
    pub(super) fn new(
        redis: Redis,
        level: AckLevel,
        queue: mpsc::Receiver<QueuedWrite>,
        level_health: Arc<Health>,
    ) -> Self {
        Self { redis, level, queue, connected: None, level_health }
    }

    /// Runs until the last of its writers is dropped.
    pub async fn run(mut self) {
        let mut left = None;
        loop {
            let first = match left.take() {
                Some(write) => write,
                None => match self.queue.recv().await {
                    Some(write) => write,
                    None => return,
                },
            };
            let (group, rest) = self.gather(first);
            left = rest;
            match self.send(&group).await {
                Ok((values, level)) => group.answer(values, &level),
                Err(error) => group.fail(&error),
            }
        }
    }

    /// Returns the writes that wait, within limits, and one that found no room.
    fn gather(&mut self, first: QueuedWrite) -> (Group, Option<QueuedWrite>) {
        let mut group = Group::default();
        let mut next = Some(first);
        while let Some(write) = next {
            if let Err(write) = group.add(write) {
                return (group, Some(write));
            }
            next = self.queue.try_recv().ok();
        }
        (group, None)
    }

    /// Sends a group in one round trip. Returns its answers and what the barrier said. A connection that fails is not
    /// used again.
    async fn send(&mut self, group: &Group) -> RedisResult<(Vec<Value>, RedisResult<()>)> {
        let mut connected = match self.take_connection() {
            Some(connected) => connected,
            None => self.connect().await.inspect_err(|error| self.handle_level_error(error))?,
        };
        let (connection, barrier) = (&mut connected.connection, connected.barrier);
        let pipeline = group.pipeline(barrier, unix_ms());
        let (mut values, mut verdict) = self.exchange(connection, &pipeline).await?;
        if group.lacks_script(&values) {
            append_call::load(connection).await?;
            (values, verdict) = self.exchange(connection, &pipeline).await?;
        }
        if verdict == ConnectionVerdict::Good {
            self.connected = Some(connected);
        }
        let Some(barrier) = barrier else { return Ok((values, Ok(()))) };
        let level = barrier.check(values.pop().unwrap_or(Value::Nil));
        match &level {
            Ok(()) => self.level_health.handle_success(0),
            Err(error) => self.handle_level_error(error),
        }
        Ok((values, level))
    }

    async fn exchange(
        &self,
        connection: &mut MultiplexedConnection,
        pipeline: &Pipeline,
    ) -> RedisResult<(Vec<Value>, ConnectionVerdict)> {
        let begun = Instant::now();
        let answered = connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
        let answers = answered.as_ref().map(Vec::as_slice);
        let verdict = self.redis.handle_answered(begun.elapsed(), answers);
        Ok((answered?, verdict))
    }

    fn handle_level_error(&self, error: &RedisError) {
        match self.level {
            AckLevel::Memory => drop(self.redis.handle_answered(Duration::ZERO, Err(error))),
            _ => self.level_health.handle_error(&error.clone().into()),
        }
    }

    /// Returns the open connection. It is not used again if the connection for commands has been replaced: another
    /// server may have taken over.
    fn take_connection(&mut self) -> Option<CommitConnection> {
        let generation = self.generation();
        let is_same = |it: &CommitConnection| it.generation == generation || it.generation == 0;
        let connected = self.connected.take()?;
        (!connected.is_closed.load(Ordering::Relaxed) && is_same(&connected)).then_some(connected)
    }

    fn generation(&self) -> u64 {
        *self.redis.health().probed().borrow()
    }

    /// Connects, and checks again that the server can give the level: it may be another one.
    async fn connect(&self) -> RedisResult<CommitConnection> {
        let generation = self.generation();
        let is_closed = Arc::new(AtomicBool::new(false));
        let closed = is_closed.clone();
        let on_push = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.store(true, Ordering::Relaxed);
            }
        };
        let mut connection = self.redis.dedicated_connection(on_push).await?;
        let barrier = match self.level {
            AckLevel::Memory => None,
            level => level.barrier(&query_server_info(&mut connection).await?)?,
        };
        Ok(CommitConnection { connection, barrier, is_closed, generation })
    }
}
