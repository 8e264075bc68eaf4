//! The tasks of a sender at its origin.

use std::sync::{LazyLock, PoisonError};

use redis::Script;

use super::OriginStore;
use crate::{
    StoreError, decode,
    limits::{DEAD_MAX_LEN, ENTRY_BYTES_MAX, LOST_MAX_LEN},
    loss_ledger, origin_state,
    scripts::{ALLOW_OOM, of_entries, of_origin, with_seqs},
};
use spoke_protocol::{
    Checkpoint, Epoch, Loss, RejectReason, Seq,
    limits::LOSS_COUNT_MAX,
    sync::{HighWaterMark, LastRead, OriginRead, OriginTask, ReadSize, RecordedLosses},
};

static READ: LazyLock<Script> = LazyLock::new(|| of_entries(include_str!("../scripts/read.lua")));
static DEAD_LETTER: LazyLock<Script> =
    LazyLock::new(|| of_origin(include_str!("../scripts/dead_letter.lua")));
static RECORD_ACK: LazyLock<Script> =
    LazyLock::new(|| of_origin(include_str!("../scripts/record_ack.lua")));
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
        let mut script = READ.key(&self.stream);
        script
            .key(&self.state)
            .arg(epoch.0)
            .arg(high_water_mark.to_string())
            .arg(after.to_string());
        script.arg(batch.entries).arg(batch.bytes).arg(ENTRY_BYTES_MAX);
        let mut parts = decode::list(self.redis.invoke(&script).await?)?.into_iter();
        let Some(extent) = parts.next() else { return Ok(None) };
        let extent = origin_state::extent(extent)?;
        let is_end = parts.next().ok_or(decode::unexpected("the reply of read.lua"))?;
        let is_end = decode::count(is_end)? == 1;
        let entries = decode::pages(parts)?;
        let last_read = LastRead {
            epoch,
            high_water_mark: HighWaterMark { seq: extent.last, added: extent.added },
        };
        *self.last_read.lock().unwrap_or_else(PoisonError::into_inner) = Some(last_read);
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
        Checkpoint { seq: acked, tally }: Checkpoint,
        trim_through: Option<Seq>,
        clears_recorded_losses: bool,
    ) -> Result<bool, StoreError> {
        let mut script = RECORD_ACK.key(&self.state);
        script.key(&self.stream).arg(epoch.0).arg(acked.to_string()).arg(tally.to_string());
        // MINID keeps the ID that it is given.
        script.arg(trim_through.map(|seq| seq.after().to_string()).unwrap_or_default());
        script.arg(u8::from(clears_recorded_losses));
        self.redis.invoke(&script).await
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
            script.key(&self.stream).key(&self.dead).arg(epoch.0).arg(seq.to_string());
            script.arg(reason.word());
            script.arg(if self.is_shared { self.client.as_str() } else { "" }).arg(DEAD_MAX_LEN);
            let is_same: bool = self.redis.invoke(&script).await?;
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
        script.key(&self.ledger).arg(epoch.0).arg(record.to_string()).arg(LOST_MAX_LEN);
        let lost = losses.iter().filter_map(|loss| loss.count);
        script.arg(lost.fold(0u64, u64::saturating_add).min(LOSS_COUNT_MAX));
        for loss in losses {
            let fields = loss_ledger::fields((&self.client, self.direction), loss, now_ms);
            script.arg(2 * fields.len()).arg(&fields[..]);
        }
        self.redis.invoke(&script).await
    }
}
