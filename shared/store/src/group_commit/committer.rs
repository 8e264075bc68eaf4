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
    connection::{ConnectionVerdict, Refusal},
    health::Health,
    redis_settings::query_server_info,
    redis_url::ServerAddress,
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
    /// Of a cluster: the node.
    node: Option<CommitNode>,
}

/// The node that has the slot, or to which it is being moved.
#[derive(Clone)]
struct CommitNode {
    address: ServerAddress,
    /// Whether it answers only after ASKING.
    is_asking: bool,
}

/// What became of groups that were sent.
#[derive(Default)]
struct SentGroups {
    /// Whether the connection must not be used again.
    is_broken: bool,
    /// Those that a node of a cluster has refused, with its replies.
    refused: Vec<(Group, Vec<Value>)>,
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

    /// Sends groups in this order, and answers their writes. What a node of a cluster refuses is sent to the one that has
    /// the slot by then. A connection that fails is not used again.
    async fn commit(&mut self, mut groups: Vec<Group>) {
        let redis = self.redis.clone();
        let (mut reroute, mut node) = (None, None);
        loop {
            let connected = match self.take_connection(node.is_some()) {
                Some(connected) => Ok(connected),
                None => self
                    .connect(node.take())
                    .await
                    .inspect_err(|error| self.handle_connect_error(error)),
            };
            let connected = match connected {
                Ok(connected) => connected,
                Err(error) => return groups.into_iter().for_each(|group| group.fail(&error)),
            };
            let SentGroups { is_broken, refused } = self.send_all(&connected, groups).await;
            let (from, is_kept) = match &connected.node {
                Some(node) => (Some(node.address.clone()), refused.is_empty() && !node.is_asking),
                None => (None, true),
            };
            if !is_broken && is_kept {
                self.connected = Some(connected);
            }
            let refusal = refused.first().zip(from.as_ref()).and_then(|((_, replies), from)| {
                replies.iter().find_map(|reply| Refusal::of_value(reply, from))
            });
            let Some((refusal, from)) = refusal.zip(from) else { return };
            if reroute.is_none() {
                reroute = redis.reroute();
            }
            let next = match &mut reroute {
                Some(reroute) => reroute.next(refusal, &from).await,
                None => None,
            };
            let Some((address, is_asking)) = next else {
                return refused.into_iter().for_each(|(group, replies)| {
                    self.redis.handle_answered(Duration::ZERO, Ok(&replies));
                    group.answer(&mut replies.into_iter(), &Ok(()));
                });
            };
            node = Some(CommitNode { address, is_asking });
            groups = refused.into_iter().map(|(group, _)| group).collect();
        }
    }

    async fn send_all(&self, connected: &CommitConnection, groups: Vec<Group>) -> SentGroups {
        let send = |groups| self.send(connected, groups);
        match connected.barrier {
            // Each group is answered at once.
            None => {
                let sent = join_all(groups.into_iter().map(|group| send(vec![group]))).await;
                sent.into_iter().fold(SentGroups::default(), |mut all, sent| {
                    all.is_broken |= sent.is_broken;
                    all.refused.extend(sent.refused);
                    all
                })
            }
            Some(_) => send(groups).await,
        }
    }

    /// Sends groups in one pipeline, and answers their writes once the barrier is passed, if there is one.
    async fn send(&self, connected: &CommitConnection, groups: Vec<Group>) -> SentGroups {
        let (mut values, verdict) = match self.exchange(connected, &groups).await {
            Ok(answered) => answered,
            Err(error) => {
                groups.into_iter().for_each(|group| group.fail(&error));
                return SentGroups { is_broken: true, refused: Vec::new() };
            }
        };
        let level = match connected.barrier {
            Some(barrier) => self.check_level(barrier, values.pop()),
            None => Ok(()),
        };
        let mut sent =
            SentGroups { is_broken: verdict != ConnectionVerdict::Good, refused: Vec::new() };
        let mut values = values.into_iter();
        for group in groups {
            let Some(CommitNode { address, .. }) = &connected.node else {
                group.answer(&mut values, &level);
                continue;
            };
            let own: Vec<_> = values.by_ref().take(group.calls()).collect();
            match own.iter().any(|value| Refusal::of_value(value, address).is_some()) {
                true => sent.refused.push((group, own)),
                false => group.answer(&mut own.into_iter(), &level),
            }
        }
        sent
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
        connected: &CommitConnection,
        groups: &[Group],
    ) -> RedisResult<(Vec<Value>, ConnectionVerdict)> {
        let mut connection = connected.connection.clone();
        let mut pipeline = Pipeline::with_capacity(1 + groups.len());
        let now_ms = unix_ms();
        groups.iter().for_each(|group| group.add_to(&mut pipeline, now_ms));
        let is_asking = connected.node.as_ref().is_some_and(|node| node.is_asking);
        if is_asking {
            pipeline = Redis::again(pipeline.cmd_iter(), true);
        }
        let barrier = connected.barrier;
        if let Some(barrier) = barrier {
            pipeline.add_command(barrier.command());
        }
        let mut is_loaded = false;
        loop {
            let begun = Instant::now();
            let answering = connection.req_packed_commands(&pipeline, 0, pipeline.len());
            let mut answered = self.unless_replaced(connected.node.as_ref(), answering).await;
            if is_asking {
                // The barrier, which is last, has none.
                let is_reply =
                    |at: usize| at % 2 == 1 || (barrier.is_some() && at + 1 == pipeline.len());
                answered = answered.map(|values| {
                    let each = values.into_iter().enumerate();
                    each.filter(|(at, _)| is_reply(*at)).map(|(_, value)| value).collect()
                });
            }
            let verdict = match (&answered, &connected.node) {
                // A refusal is no fault of Redis while the slot is on its way.
                (Ok(values), Some(CommitNode { address, .. }))
                    if values.iter().any(|value| Refusal::of_value(value, address).is_some()) =>
                {
                    ConnectionVerdict::Good
                }
                _ => {
                    let answers = answered.as_ref().map(Vec::as_slice);
                    self.redis.handle_answered(begun.elapsed(), answers)
                }
            };
            let values = answered?;
            if is_loaded || !lacks_script(groups, &values) {
                return Ok((values, verdict));
            }
            append_call::load(&mut connection).await?;
            is_loaded = true;
        }
    }

    /// Waits for answers, unless another server has taken over meanwhile: this one may hang. In a cluster one that does not
    /// still answers what it was sent.
    async fn unless_replaced<T>(
        &self,
        node: Option<&CommitNode>,
        answering: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let mut connection = self.redis.health().watch_replacement();
        let replaced = async {
            match (node, self.redis.router()) {
                (Some(node), Some(router)) => router.left(&node.address).cancelled().await,
                _ if self.redis.is_discovered() => connection.replaced().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            answered = answering => answered,
            () = replaced => Err(io::Error::other("redis was replaced by another one").into()),
        }
    }

    fn handle_connect_error(&self, error: &RedisError) {
        match self.level {
            AckLevel::Memory => drop(self.redis.handle_answered(Duration::ZERO, Err(error))),
            _ => self.level_health.handle_error(&error.clone().into()),
        }
    }

    /// Returns the open connection. It is not used again if the connection for commands has been replaced: another
    /// server may have taken over. Nor if the slot `is_elsewhere`.
    fn take_connection(&mut self, is_elsewhere: bool) -> Option<CommitConnection> {
        let generation = self.generation();
        let is_same = |it: &CommitConnection| it.generation == generation || it.generation == 0;
        let connected = self.connected.take().filter(|_| !is_elsewhere)?;
        (!connected.is_closed.load(Ordering::Relaxed) && is_same(&connected)).then_some(connected)
    }

    fn generation(&self) -> u64 {
        *self.redis.health().probed().borrow()
    }

    /// Connects, to `node` if it is known, and checks again that the server can give the level: it may be another one.
    async fn connect(&self, node: Option<CommitNode>) -> RedisResult<CommitConnection> {
        let generation = self.generation();
        let is_closed = Arc::new(AtomicBool::new(false));
        let closed = is_closed.clone();
        let on_push = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                closed.store(true, Ordering::Relaxed);
            }
        };
        let server = self.redis.find_server().await?;
        let node = node.or(server
            .as_ref()
            .filter(|_| self.redis.router().is_some())
            .map(|address| CommitNode { address: address.clone(), is_asking: false }));
        let server = node.as_ref().map(|node| &node.address).or(server.as_ref());
        let mut connection = self.redis.dedicated_connection_to(server, on_push).await?;
        let barrier = match self.level {
            AckLevel::Memory => None,
            level => level.barrier(&query_server_info(&mut connection).await?)?,
        };
        append_call::load(&mut connection).await?;
        Ok(CommitConnection { connection, barrier, is_closed, generation, node })
    }
}
