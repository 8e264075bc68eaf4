//! The task that writes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::{
    Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use spoke_diagnostics::unix_ms;
use tokio::sync::mpsc;

use super::{
    group::{Group, QueuedWrite, lacks_script},
    pace::GroupPace,
    waiting::WaitingWrites,
};
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
        let mut waiting = WaitingWrites::default();
        let mut pace = GroupPace::new(Instant::now());
        loop {
            if waiting.is_empty() {
                match self.queue.recv().await {
                    Some(write) => waiting.push(write),
                    None => return,
                }
            }
            // Without a wait, yielding to other sessions first would wake a second thread for this task.
            if let Some(next_at) = pace.next_at(Instant::now()) {
                tokio::time::sleep_until(next_at.into()).await;
            }
            while !waiting.is_full()
                && let Ok(write) = self.queue.try_recv()
            {
                waiting.push(write);
            }
            let groups = waiting.take();
            pace.handle_group(groups.iter().map(Group::batches).sum(), Instant::now());
            self.commit(groups).await;
        }
    }

    /// Sends groups in this order, and answers their writes. A connection that fails is not used again.
    async fn commit(&mut self, groups: Vec<Group>) {
        let connected = match self.take_connection() {
            Some(connected) => Ok(connected),
            None => self.connect().await.inspect_err(|error| self.handle_connect_error(error)),
        };
        let connected = match connected {
            Ok(connected) => connected,
            Err(error) => return groups.into_iter().for_each(|group| group.fail(&error)),
        };
        let send = |groups| self.send(connected.connection.clone(), groups, connected.barrier);
        let is_good = match connected.barrier {
            // Each group is answered at once.
            None => {
                let sent = join_all(groups.into_iter().map(|group| send(vec![group]))).await;
                sent.into_iter().all(|is_good| is_good)
            }
            Some(_) => send(groups).await,
        };
        if is_good {
            self.connected = Some(connected);
        }
    }

    /// Sends groups in one pipeline, and answers their writes once the barrier is passed, if there is one. Returns
    /// whether the connection can be used again.
    async fn send(
        &self,
        connection: MultiplexedConnection,
        groups: Vec<Group>,
        barrier: Option<Barrier>,
    ) -> bool {
        let (mut values, verdict) = match self.exchange(connection, &groups, barrier).await {
            Ok(answered) => answered,
            Err(error) => {
                groups.into_iter().for_each(|group| group.fail(&error));
                return false;
            }
        };
        let level = match barrier {
            Some(barrier) => self.check_level(barrier, values.pop()),
            None => Ok(()),
        };
        let mut values = values.into_iter();
        groups.into_iter().for_each(|group| group.answer(&mut values, &level));
        verdict == ConnectionVerdict::Good
    }

    fn check_level(&self, barrier: Barrier, answer: Option<Value>) -> RedisResult<()> {
        let level = barrier.check(answer.unwrap_or(Value::Nil));
        match &level {
            Ok(()) => self.level_health.handle_success(0),
            Err(error) => self.level_health.handle_error(&error.clone().into()),
        }
        level
    }

    /// Sends groups, and sends them again if Redis had lost the script.
    async fn exchange(
        &self,
        mut connection: MultiplexedConnection,
        groups: &[Group],
        barrier: Option<Barrier>,
    ) -> RedisResult<(Vec<Value>, ConnectionVerdict)> {
        let mut pipeline = Pipeline::with_capacity(1 + groups.len());
        let now_ms = unix_ms();
        groups.iter().for_each(|group| group.add_to(&mut pipeline, now_ms));
        if let Some(barrier) = barrier {
            pipeline.add_command(barrier.command());
        }
        let mut is_loaded = false;
        loop {
            let begun = Instant::now();
            let answering = connection.req_packed_commands(&pipeline, 0, pipeline.len());
            let answered = self.unless_replaced(answering).await;
            let answers = answered.as_ref().map(Vec::as_slice);
            let verdict = self.redis.handle_answered(begun.elapsed(), answers);
            let values = answered?;
            if is_loaded || !lacks_script(groups, &values) {
                return Ok((values, verdict));
            }
            append_call::load(&mut connection).await?;
            is_loaded = true;
        }
    }

    /// Waits for answers, unless the connection for commands has been replaced meanwhile: this one leads to a server that
    /// may hang.
    async fn unless_replaced<T>(
        &self,
        answering: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        if !self.redis.is_discovered() {
            return answering.await;
        }
        let mut connection = self.redis.health().watch_replacement();
        tokio::select! {
            answered = answering => answered,
            () = connection.replaced() => Err(io::Error::other("redis was replaced by another one").into()),
        }
    }

    fn handle_connect_error(&self, error: &RedisError) {
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
        append_call::load(&mut connection).await?;
        Ok(CommitConnection { connection, barrier, is_closed, generation })
    }
}
