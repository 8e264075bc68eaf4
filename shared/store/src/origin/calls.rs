//! The calls of origin_tasks.lua for the tasks of many senders.
//!
//! At a hub one task makes them. While one call is on its way, the tasks of all sessions gather, and the next call takes
//! them together: many clients that wake at once cost few calls. A first task goes at once. At a device, which has one
//! sender, each task goes alone.

use std::{collections::VecDeque, sync::LazyLock};

use redis::{Cmd, RedisResult, Script, Value, cmd};
use spoke_protocol::{Checkpoint, Epoch, Seq, sync::ReadSize};
use tokio::sync::mpsc;

use crate::{
    Redis, StoreError,
    limits::{
        ENTRY_BYTES_MAX, ORIGIN_CALL_BYTES, ORIGIN_CALL_ENTRIES, ORIGIN_QUEUE_MAX, ORIGIN_TASKS_MAX,
    },
    scripts::of_entries,
    task_queue::{Answer, ask},
};

static ORIGIN_TASKS: LazyLock<Script> =
    LazyLock::new(|| of_entries(include_str!("../scripts/origin_tasks.lua")));

/// Runs tasks at origin streams. Cheap to clone.
#[derive(Clone)]
pub struct OriginCalls {
    redis: Redis,
    /// None without a caller: each task goes alone.
    queue: Option<mpsc::Sender<QueuedTask>>,
}

/// The task through which each [`OriginCalls`] of its pair runs its tasks.
pub struct OriginCaller {
    redis: Redis,
    queue: mpsc::Receiver<QueuedTask>,
}

/// A task of origin_tasks.lua at the stream and the state of one client.
#[derive(Debug, Clone)]
pub(super) struct StreamTask {
    pub(super) stream: String,
    pub(super) state: String,
    pub(super) kind: TaskKind,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum TaskKind {
    Read {
        epoch: Epoch,
        high_water_mark: Seq,
        after: Seq,
        batch: ReadSize,
    },
    RecordAck {
        epoch: Epoch,
        acked: Checkpoint,
        trim_through: Option<Seq>,
        clears_recorded_losses: bool,
    },
    Touch {
        now_ms: u64,
    },
}

struct QueuedTask {
    task: StreamTask,
    answer: Answer,
}

/// Creates calls without a caller.
impl From<Redis> for OriginCalls {
    fn from(redis: Redis) -> Self {
        Self { redis, queue: None }
    }
}

impl OriginCalls {
    /// Creates the calls of a hub, and their caller, which has to run.
    pub fn new(redis: Redis) -> (Self, OriginCaller) {
        let (sender, queue) = mpsc::channel(ORIGIN_QUEUE_MAX);
        (Self { redis: redis.clone(), queue: Some(sender) }, OriginCaller { redis, queue })
    }

    pub(super) fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Runs a task and returns its answer.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] if it is unknown whether the task ran; another [`StoreError`] if Redis fails.
    pub(super) async fn run(&self, task: StreamTask) -> Result<Value, StoreError> {
        let Some(queue) = &self.queue else {
            let answers = call(&self.redis, &[&task]).await?;
            let answer = answers.into_iter().next().unwrap_or(Value::Nil);
            return Ok(answer.extract_error()?);
        };
        Ok(ask(queue, |answer| QueuedTask { task, answer }).await?)
    }
}

impl OriginCaller {
    /// Runs until the last of its [`OriginCalls`] is dropped.
    pub async fn run(mut self) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match self.queue.recv().await {
                    Some(task) => waiting.push_back(task),
                    None => return,
                }
            }
            while waiting.len() < ORIGIN_TASKS_MAX
                && let Ok(task) = self.queue.try_recv()
            {
                waiting.push_back(task);
            }
            let tasks: Vec<_> = waiting.iter().map(|queued: &QueuedTask| &queued.task).collect();
            let answers = call(&self.redis, &tasks).await;
            answer_all(&mut waiting, answers);
        }
    }
}

/// Answers all tasks, except for the reads that did not begin: these stay.
fn answer_all(waiting: &mut VecDeque<QueuedTask>, answers: RedisResult<Vec<Value>>) {
    let called = std::mem::take(waiting);
    let mut answers = answers.map(Vec::into_iter);
    for QueuedTask { task, answer } in called {
        let result = match &mut answers {
            Ok(answers) => answers.next().unwrap_or(Value::Nil).extract_error(),
            Err(error) => Err(error.clone()),
        };
        match result {
            Ok(Value::Int(0)) => waiting.push_back(QueuedTask { task, answer }),
            // A caller that no longer waits reads again in its next session.
            result => drop(answer.send(result)),
        }
    }
}

/// Runs tasks in one call. Returns an answer for each, which may be an error.
async fn call(redis: &Redis, tasks: &[&StreamTask]) -> RedisResult<Vec<Value>> {
    match redis.call(&command(tasks), &ORIGIN_TASKS).await? {
        Value::Array(answers) => Ok(answers),
        _ => Ok(Vec::new()),
    }
}

fn command(tasks: &[&StreamTask]) -> Cmd {
    let mut evalsha = cmd("EVALSHA");
    evalsha.arg(ORIGIN_TASKS.get_hash()).arg(2 * tasks.len());
    for task in tasks {
        evalsha.arg(&task.stream).arg(&task.state);
    }
    evalsha.arg(ORIGIN_CALL_ENTRIES).arg(ORIGIN_CALL_BYTES);
    for task in tasks {
        task.kind.add_args(&mut evalsha);
    }
    evalsha
}

impl TaskKind {
    /// Adds the seven arguments of a task.
    fn add_args(self, call: &mut Cmd) {
        match self {
            Self::Read { epoch, high_water_mark, after, batch } => {
                call.arg("read").arg(epoch.0).arg(high_water_mark.to_string());
                call.arg(after.to_string()).arg(batch.entries).arg(batch.bytes);
                call.arg(ENTRY_BYTES_MAX);
            }
            Self::RecordAck { epoch, acked, trim_through, clears_recorded_losses } => {
                let Checkpoint { seq, tally } = acked;
                call.arg("ack").arg(epoch.0).arg(seq.to_string()).arg(tally.to_string());
                // MINID keeps the ID that it is given.
                call.arg(trim_through.map(|seq| seq.after().to_string()).unwrap_or_default());
                call.arg(u8::from(clears_recorded_losses)).arg("");
            }
            Self::Touch { now_ms } => {
                call.arg("touch").arg(now_ms).arg(&[""; 5]);
            }
        }
    }
}
