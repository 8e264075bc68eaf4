//! The tasks of a sender at its origin.

use std::sync::{LazyLock, PoisonError};

use redis::{Script, Value};

use super::{
    OriginStore,
    calls::{StreamTask, TaskKind},
};
use crate::{
    StoreError, decode,
    limits::{DEAD_MAX_LEN, LOST_MAX_LEN},
    loss_ledger, origin_state,
    scripts::{ALLOW_OOM, of_origin, with_seqs},
};
use spoke_protocol::{
    Checkpoint, Epoch, Loss, RejectReason, Seq,
    limits::LOSS_COUNT_MAX,
    sync::{HighWaterMark, LastRead, OriginRead, OriginTask, ReadSize, RecordedLosses},
};

static DEAD_LETTER: LazyLock<Script> =
    LazyLock::new(|| of_origin(include_str!("../scripts/dead_letter.lua")));
static RECORD_LOSSES: LazyLock<Script> =
    LazyLock::new(|| with_seqs(ALLOW_OOM, include_str!("../scripts/record_losses.lua")));

/// The result of an [`OriginTask`].
#[derive(Debug)]
pub enum TaskResult {
    /// The entries that were read.
    Read(OriginRead),
    /// The stream or its epoch has changed. Nothing was done.
    OriginChanged,
    /// The dead letters are written.
    DeadLettered,
    /// The losses are in the ledger.
    LossesRecorded,
    /// The acknowledgement is recorded.
    AckRecorded,
}

impl OriginStore {
    /// Performs a task of a sender.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails or a key has the wrong type.
    pub async fn perform(
        &self,
        epoch: Epoch,
        task: &OriginTask,
        now_ms: u64,
    ) -> Result<TaskResult, StoreError> {
        let done = self.try_perform(epoch, task, now_ms).await;
        self.name_wrong_key(done).await
    }

    async fn try_perform(
        &self,
        epoch: Epoch,
        task: &OriginTask,
        now_ms: u64,
    ) -> Result<TaskResult, StoreError> {
        match task {
            OriginTask::Read { after, batch, high_water_mark } => {
                let read = self.read(epoch, *after, *batch, *high_water_mark).await?;
                Ok(read.map_or(TaskResult::OriginChanged, TaskResult::Read))
            }
            OriginTask::RecordLosses(losses, record) => {
                let is_same = self.record_losses(epoch, losses, record, now_ms).await?;
                Ok(if is_same { TaskResult::LossesRecorded } else { TaskResult::OriginChanged })
            }
            OriginTask::DeadLetter(entries) => {
                let is_same = self.dead_letter(epoch, entries).await?;
                Ok(if is_same { TaskResult::DeadLettered } else { TaskResult::OriginChanged })
            }
            OriginTask::RecordAck { acked, trim_through, clears_recorded_losses } => {
                let is_same =
                    self.record_ack(epoch, *acked, *trim_through, *clears_recorded_losses).await?;
                Ok(if is_same { TaskResult::AckRecorded } else { TaskResult::OriginChanged })
            }
        }
    }

    /// Returns none if the stream has changed.
    async fn read(
        &self,
        epoch: Epoch,
        after: Seq,
        batch: ReadSize,
        high_water_mark: Seq,
    ) -> Result<Option<OriginRead>, StoreError> {
        let kind = TaskKind::Read { epoch, high_water_mark, after, batch };
        let mut parts = decode::list(self.run(kind).await?)?.into_iter();
        let Some(extent) = parts.next() else { return Ok(None) };
        let extent = origin_state::extent(extent)?;
        let is_end = parts.next().ok_or(decode::unexpected("the reply of origin_tasks.lua"))?;
        let is_end = decode::count(is_end)? == 1;
        let entries = decode::pages(parts)?;
        if let Some(last_read) = &self.last_read {
            let high_water_mark = HighWaterMark { seq: extent.last, added: extent.added };
            *last_read.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(LastRead { epoch, high_water_mark });
        }
        Ok(Some(OriginRead { entries, extent, is_end }))
    }

    /// Records the acknowledgement, and trims the stream up to `trim_through`. Returns false if the stream has
    /// changed.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub async fn record_ack(
        &self,
        epoch: Epoch,
        acked: Checkpoint,
        trim_through: Option<Seq>,
        clears_recorded_losses: bool,
    ) -> Result<bool, StoreError> {
        let kind = TaskKind::RecordAck { epoch, acked, trim_through, clears_recorded_losses };
        Ok(self.run(kind).await? == Value::Int(1))
    }

    /// Records that the client was seen, which keeps an HTTP session open.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub async fn touch(&self, now_ms: u64) -> Result<(), StoreError> {
        self.run(TaskKind::Touch { now_ms }).await.map(drop)
    }

    async fn run(&self, kind: TaskKind) -> Result<Value, StoreError> {
        let (stream, state) = (self.stream.clone(), self.state.clone());
        self.calls.run(StreamTask { stream, state, kind }).await
    }

    /// Copies entries that can never be sent to the dead letters, with the fields `seq` and `reason` in front.
    async fn dead_letter(
        &self,
        epoch: Epoch,
        entries: &[(Seq, RejectReason)],
    ) -> Result<bool, StoreError> {
        // One by one: each may be as large as Redis allows.
        for (seq, reason) in entries {
            let mut script = DEAD_LETTER.key(&self.state);
            script.key(&self.stream).key(&*self.ledgers.dead).arg(epoch.0).arg(seq.to_string());
            script.arg(reason.word());
            script.arg(if self.is_shared { self.client.as_str() } else { "" }).arg(DEAD_MAX_LEN);
            let is_same: bool = self.redis().invoke(&script).await?;
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn record_losses(
        &self,
        epoch: Epoch,
        losses: &[Loss],
        record: &RecordedLosses,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut script = RECORD_LOSSES.key(&self.state);
        script.key(&*self.ledgers.lost).arg(epoch.0).arg(record.to_string()).arg(LOST_MAX_LEN);
        let lost = losses.iter().filter_map(|loss| loss.count);
        script.arg(lost.fold(0u64, u64::saturating_add).min(LOSS_COUNT_MAX));
        for loss in losses {
            let fields = loss_ledger::fields((&self.client, self.direction), loss, now_ms);
            script.arg(2 * fields.len()).arg(&fields[..]);
        }
        self.redis().invoke(&script).await
    }
}
