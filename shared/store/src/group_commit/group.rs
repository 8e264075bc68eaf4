//! Writes that are sent together.

use std::sync::Arc;

use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::oneshot;

use crate::{
    ack_level::Barrier,
    append_call::{self, AppendBatch, CopyStreams},
    connection::is_no_script,
    limits::{COMMIT_BYTES_MAX, COMMIT_ENTRIES_MAX, COMMITS_MAX},
};

type Answer = oneshot::Sender<RedisResult<Value>>;

/// A write that waits for its turn.
pub(super) enum QueuedWrite {
    /// A command that may run twice.
    Command { command: Cmd, bytes: usize, answer: Answer },
    /// A batch for the copy.
    Batch { streams: Arc<CopyStreams>, batch: Box<AppendBatch>, answer: Answer },
}

impl QueuedWrite {
    /// Returns its bytes, and how many entries it holds Redis for: a batch costs about as much as one.
    fn weight(&self) -> (usize, usize) {
        match self {
            Self::Command { bytes, .. } => (*bytes, 1),
            Self::Batch { batch, .. } => (batch.bytes(), 1 + batch.count),
        }
    }
}

/// Writes that are sent in one round trip: the commands, then all batches in one call.
#[derive(Default)]
pub(super) struct Group {
    commands: Vec<(Cmd, Answer)>,
    batches: Vec<(Box<AppendBatch>, Answer)>,
    streams: Option<Arc<CopyStreams>>,
    bytes: usize,
    entries: usize,
}

impl Group {
    /// Adds a write, unless the group is full; an empty group takes any.
    ///
    /// # Errors
    /// Returns the write.
    pub(super) fn add(&mut self, write: QueuedWrite) -> Result<(), QueuedWrite> {
        let (bytes, entries) = write.weight();
        let is_empty = self.commands.is_empty() && self.batches.is_empty();
        let is_full = self.commands.len() + self.batches.len() >= COMMITS_MAX
            || self.bytes + bytes > COMMIT_BYTES_MAX
            || self.entries + entries > COMMIT_ENTRIES_MAX;
        if is_full && !is_empty {
            return Err(write);
        }
        match write {
            QueuedWrite::Command { command, answer, .. } => self.commands.push((command, answer)),
            QueuedWrite::Batch { streams, batch, answer } => {
                match &self.streams {
                    Some(others) if *others != streams => {
                        return Err(QueuedWrite::Batch { streams, batch, answer });
                    }
                    _ => self.streams = Some(streams),
                }
                self.batches.push((batch, answer));
            }
        }
        self.bytes += bytes;
        self.entries += entries;
        Ok(())
    }

    /// Returns all commands of the group, and after them the barrier.
    pub(super) fn pipeline(&self, barrier: Option<Barrier>, now_ms: u64) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(self.commands.len() + 2);
        for (command, _) in &self.commands {
            pipeline.add_command(command.clone());
        }
        if let Some(streams) = &self.streams {
            let batches: Vec<_> = self.batches.iter().map(|(batch, _)| batch.as_ref()).collect();
            pipeline.add_command(append_call::command(streams, &batches, now_ms));
        }
        if let Some(barrier) = barrier {
            pipeline.add_command(barrier.command());
        }
        pipeline
    }

    /// Returns whether Redis does not have append.lua. `values` are the answers without that of the barrier.
    pub(super) fn lacks_script(&self, values: &[Value]) -> bool {
        let call = values.get(self.commands.len()).cloned().map(Value::extract_error);
        matches!(call, Some(Err(error)) if is_no_script(&error))
    }

    /// Answers all writes. `values` are the answers without that of the barrier, `level` is what the barrier said.
    pub(super) fn answer(self, values: Vec<Value>, level: &RedisResult<()>) {
        let mut values = values.into_iter();
        let result = |value: Value| {
            let value = value.extract_error()?;
            level.clone().map(|()| value)
        };
        // A caller that no longer waits will try again.
        for ((_, answer), value) in self.commands.into_iter().zip(values.by_ref()) {
            let _ = answer.send(result(value));
        }
        let answers = match values.next() {
            Some(Value::Array(answers)) if answers.len() == self.batches.len() => answers,
            Some(Value::ServerError(error)) => {
                let error = RedisError::from(error);
                return self.batches.into_iter().for_each(|(_, answer)| fail(answer, &error));
            }
            _ => vec![Value::Nil; self.batches.len()],
        };
        for ((_, answer), value) in self.batches.into_iter().zip(answers) {
            let _ = answer.send(result(value));
        }
    }

    /// Answers all writes with a failure.
    pub(super) fn fail(self, error: &RedisError) {
        let commands = self.commands.into_iter().map(|(_, answer)| answer);
        let batches = self.batches.into_iter().map(|(_, answer)| answer);
        commands.chain(batches).for_each(|answer| fail(answer, error));
    }
}

fn fail(answer: Answer, error: &RedisError) {
    let _ = answer.send(Err(error.clone()));
}
