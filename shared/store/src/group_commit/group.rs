//! Writes that are sent together.

use std::sync::Arc;

use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};

use crate::{
    append_call::{self, AppendBatch},
    error::is_no_script,
    keys::CopyStreams,
    limits::{COMMIT_BYTES_MAX, COMMIT_ENTRIES_MAX, COMMITS_MAX},
    task_queue::Answer,
};

/// A write that waits for its turn.
pub(super) enum QueuedWrite {
    /// A command that may run twice.
    Command { command: Cmd, answer: Answer },
    /// A batch for the copy.
    Batch { streams: Arc<CopyStreams>, batch: Box<AppendBatch>, answer: Answer },
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
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.batches.is_empty()
    }

    /// Returns the number of batches.
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    #[cfg(test)]
    pub(super) fn each_batch(&self) -> impl Iterator<Item = &AppendBatch> {
        self.batches.iter().map(|(batch, _)| batch.as_ref())
    }

    /// Returns whether the group has room for this write; an empty group takes any.
    pub(super) fn has_room(&self, write: &QueuedWrite) -> bool {
        let QueuedWrite::Batch { streams, batch, .. } = write else { return true };
        let is_full = self.batches.len() >= COMMITS_MAX
            || self.bytes + batch.bytes() > COMMIT_BYTES_MAX
            || self.entries + batch.weight() > COMMIT_ENTRIES_MAX;
        let is_other = self.streams.as_ref().is_some_and(|others| others != streams);
        self.batches.is_empty() || !(is_full || is_other)
    }

    /// Adds a write that there is room for.
    pub(super) fn add(&mut self, write: QueuedWrite) {
        match write {
            QueuedWrite::Command { command, answer } => self.commands.push((command, answer)),
            QueuedWrite::Batch { streams, batch, answer } => {
                self.streams = Some(streams);
                self.bytes += batch.bytes();
                self.entries += batch.weight();
                self.batches.push((batch, answer));
            }
        }
    }

    /// Returns the number of its commands in a pipeline.
    pub(super) fn calls(&self) -> usize {
        self.commands.len() + usize::from(self.streams.is_some())
    }

    /// Adds all commands of the group to a pipeline.
    pub(super) fn add_to(&self, pipeline: &mut Pipeline, now_ms: u64) {
        for (command, _) in &self.commands {
            pipeline.add_command(command.clone());
        }
        if let Some(streams) = &self.streams {
            let batches: Vec<_> = self.batches.iter().map(|(batch, _)| batch.as_ref()).collect();
            pipeline.add_command(append_call::command(streams, &batches, now_ms));
        }
    }

    /// Answers all writes with the next of `values`. `level` is what the barrier said.
    pub(super) fn answer(self, values: &mut impl Iterator<Item = Value>, level: &RedisResult<()>) {
        let result = |value: Value| {
            let value = value.extract_error()?;
            level.clone().map(|()| value)
        };
        // A caller that no longer waits will try again.
        for ((_, answer), value) in self.commands.into_iter().zip(values.by_ref()) {
            let _ = answer.send(result(value));
        }
        if self.batches.is_empty() {
            return;
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

/// Returns whether Redis does not have append.lua, so that no batch of these groups was appended. Another script that it
/// lacks is not a reason to send batches again.
pub(super) fn lacks_script(groups: &[Group], values: &[Value]) -> bool {
    let is_lacking = |value: &Value| {
        matches!(value, Value::ServerError(_))
            && value.clone().extract_error().is_err_and(|error| is_no_script(&error))
    };
    let (mut at, mut calls) = (0, Vec::new());
    for group in groups {
        at += group.commands.len();
        if group.streams.is_some() {
            calls.extend(values.get(at));
            at += 1;
        }
    }
    !calls.is_empty() && calls.into_iter().all(is_lacking)
}
