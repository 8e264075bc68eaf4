//! An out stream, and what its side remembers of it, in the same Redis.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use redis::{Script, Value, cmd};

use super::{
    Redis, StoreError, decode,
    error::{HASH, STREAM},
    key_types::named,
    keys::{DeviceKeys, HubKeys},
    loss_ledger, origin_state,
    peek::peek,
    scripts::{ALLOW_OOM, of_entries, of_origin, with_seqs},
};
use crate::limits::{DEAD_MAX_LEN, ENTRY_BYTES_MAX, LOST_MAX_LEN};
use spoke_protocol::{
    client_id::ClientId,
    entry::{Digest, Direction, Entry, RejectReason},
    limits::{LOSS_COUNT_MAX, SEQ_AHEAD_MAX},
    loss::{Checkpoint, Loss, TallyPrecision},
    message::Cursor,
    partner::{Partner, PartnerMatch},
    seal::SealKey,
    seq::{Epoch, Seq},
    sync::{
        accounting::{Extent, RecordedLosses},
        resume::{self, HighWaterMark, LastRead, OriginStanding, Position, SenderStart},
        sender::{OriginRead, OriginTask, ReadSize},
    },
};

static LOOK: LazyLock<Script> =
    LazyLock::new(|| of_origin(include_str!("scripts/inspect_origin.lua")));
static READ: LazyLock<Script> = LazyLock::new(|| of_entries(include_str!("scripts/read.lua")));
static SETTLE: LazyLock<Script> =
    LazyLock::new(|| of_origin(include_str!("scripts/begin_epoch.lua")));
static BURY: LazyLock<Script> =
    LazyLock::new(|| of_origin(include_str!("scripts/dead_letter.lua")));
static RECORD: LazyLock<Script> =
    LazyLock::new(|| of_origin(include_str!("scripts/record_ack.lua")));
static LOSE: LazyLock<Script> =
    LazyLock::new(|| with_seqs(ALLOW_OOM, include_str!("scripts/record_losses.lua")));
/// How often the beginning is decided anew where somebody else settled it meanwhile.
const SETTLES_MAX: usize = 3;

/// One out stream with its state. Cheap enough to clone per session.
#[derive(Clone)]
pub struct OriginStore {
    redis: Redis,
    stream: String,
    state: String,
    dead: String,
    ledger: String,
    client: ClientId,
    direction: Direction,
    /// The hub has one stream of dead letters for all clients, so it names the client there.
    is_shared: bool,
    /// What was read last, where the store lives as long as the process.
    seen: Arc<Mutex<Option<LastRead>>>,
}

/// With whom a sender begins.
#[derive(Debug, Clone)]
pub struct StartWith {
    /// How the other side stands to what is remembered, where that is known before.
    pub partner_match: PartnerMatch,
    /// Whom to remember from here on.
    pub partner: Option<Partner>,
}

impl StartWith {
    /// With the one that is remembered.
    pub const SAME: Self = Self { partner_match: PartnerMatch::Same, partner: None };
}

/// What a `OriginTask` came to.
#[derive(Debug)]
pub enum TaskResult {
    /// What was read.
    Read(OriginRead),
    /// The stream is not what it was.
    OriginChanged,
    /// The dead letters are written.
    DeadLettered,
    /// The losses are in the ledger.
    LossesRecorded,
    /// The acknowledgement is written down.
    AckRecorded,
}

impl OriginStore {
    /// The out stream of a device.
    pub fn device(redis: Redis, keys: &DeviceKeys, client: &ClientId) -> Self {
        Self {
            redis,
            stream: keys.out(),
            state: keys.state(),
            dead: keys.dead(),
            ledger: keys.lost(),
            client: client.clone(),
            direction: Direction::Up,
            is_shared: false,
            seen: Arc::default(),
        }
    }

    /// The out stream of one client at the hub.
    pub fn hub(redis: Redis, keys: &HubKeys, client: &ClientId) -> Self {
        Self {
            redis,
            stream: keys.out(client),
            state: keys.client(client),
            dead: keys.dead(),
            ledger: keys.lost(),
            client: client.clone(),
            direction: Direction::Down,
            is_shared: true,
            seen: Arc::default(),
        }
    }

    /// The stream's key, for its hints.
    pub fn key(&self) -> &str {
        &self.stream
    }

    /// Where the stream stands.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn standing(&self) -> Result<OriginStanding, StoreError> {
        let looked = self.look().await;
        self.named(looked).await
    }

    async fn look(&self) -> Result<OriginStanding, StoreError> {
        let mut script = LOOK.key(&self.stream);
        script.key(&self.state).arg(&origin_state::FIELDS);
        let mut parts = decode::list(self.redis.invoke(&script).await?)?.into_iter();
        let mut next =
            || parts.next().ok_or(decode::unexpected("the answer of inspect_origin.lua"));
        let (extent, values) = (extent(next()?)?, next()?);
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(OriginStanding { last_read: seen, ..origin_state::read(extent, values)? })
    }

    /// Proves this stream's position against the copy's cursor, and writes down what comes of it before
    /// anything is sent. Where the key holds something else now, nothing is begun, and the other direction
    /// is to go on.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn start_sender(
        &self,
        cursor: &Cursor,
        with: &StartWith,
        now_ms: u64,
    ) -> Result<SenderStart, StoreError> {
        let begun = self.settle_begin(cursor, with, now_ms).await;
        match self.named(begun).await {
            Err(error) if error.is_fault_of(&self.stream) => {
                Ok(SenderStart::unreadable(self.remembered().await?))
            }
            begun => begun,
        }
    }

    async fn settle_begin(
        &self,
        cursor: &Cursor,
        with: &StartWith,
        now_ms: u64,
    ) -> Result<SenderStart, StoreError> {
        for _ in 0..SETTLES_MAX {
            let (mut standing, at_cursor) =
                tokio::try_join!(self.look(), self.digest_at(cursor.seq))?;
            let remembered = standing.memory.partner.as_ref();
            let told = with.partner.as_ref();
            let met =
                told.map_or(with.partner_match, |told| PartnerMatch::at_device(remembered, told));
            let position = resume::find_position(&standing, cursor, at_cursor, met);
            let before = standing.memory.clone();
            let is_new = position.epoch != before.epoch;
            if is_new {
                let key = SealKey::new(rand::random());
                standing.memory = before.begin_epoch(&position, &standing.extent, key);
            }
            standing.memory.inherited = position.inherited;
            standing.memory.partner = with.partner.clone().or(before.partner.clone());
            if standing.memory == before
                || self.settle(&position, &standing, (cursor, is_new), now_ms).await?
            {
                return Ok(SenderStart { position, standing });
            }
        }
        Err(decode::unexpected("nobody else to settle where this stream begins"))
    }

    /// Where the stream stands, or stood, where its key holds something else now.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn last_known_standing(&self) -> Result<OriginStanding, StoreError> {
        match self.standing().await {
            Err(error) if error.is_fault_of(&self.stream) => self.remembered().await,
            standing => standing,
        }
    }

    async fn remembered(&self) -> Result<OriginStanding, StoreError> {
        let mut fields = cmd("HMGET");
        fields.arg(&self.state).arg(&origin_state::FIELDS);
        let values = fields.query_async(&mut self.redis.connection()).await?;
        let known = origin_state::read(Extent::default(), values)?;
        let HighWaterMark { seq: last, added } = known.memory.high_water_mark;
        let extent = Extent { last, added, ..Extent::default() };
        Ok(OriginStanding { extent, is_unreadable: true, ..known })
    }

    async fn named<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let keys = [
            (self.stream.as_str(), STREAM),
            (&self.dead, STREAM),
            (&self.ledger, STREAM),
            (&self.state, HASH),
        ];
        named(&self.redis, &keys, result).await
    }

    /// Does what a sender asks for.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn perform(
        &self,
        epoch: Epoch,
        task: &OriginTask,
        now_ms: u64,
    ) -> Result<TaskResult, StoreError> {
        let done = self.try_perform(epoch, task, now_ms).await;
        self.named(done).await
    }

    async fn try_perform(
        &self,
        epoch: Epoch,
        task: &OriginTask,
        now_ms: u64,
    ) -> Result<TaskResult, StoreError> {
        match task {
            OriginTask::Read { after, batch, high_water_mark: mark } => {
                let read = self.read(epoch, *after, *batch, *mark).await?;
                Ok(read.map_or(TaskResult::OriginChanged, TaskResult::Read))
            }
            OriginTask::RecordLosses(losses, written) => {
                let is_same = self.lose(epoch, losses, written, now_ms).await?;
                Ok(if is_same { TaskResult::LossesRecorded } else { TaskResult::OriginChanged })
            }
            OriginTask::DeadLetter(letters) => {
                let is_same = self.bury(epoch, letters).await?;
                Ok(if is_same { TaskResult::DeadLettered } else { TaskResult::OriginChanged })
            }
            OriginTask::RecordAck {
                acked,
                trim_through: trim,
                clears_recorded_losses: is_told,
            } => {
                let is_same = self.record_ack(epoch, *acked, *trim, *is_told).await?;
                Ok(if is_same { TaskResult::AckRecorded } else { TaskResult::OriginChanged })
            }
        }
    }

    /// Entries after `after`, at most `count` and about `limits::PEEK_BYTES`, without giving them out. One
    /// that is too large to be carried comes without its fields.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn peek(&self, after: Seq, count: usize) -> Result<Vec<Entry>, StoreError> {
        peek(&self.redis, &self.stream, after, count).await
    }

    /// None where the stream is not what it was.
    async fn read(
        &self,
        epoch: Epoch,
        after: Seq,
        batch: ReadSize,
        mark: Seq,
    ) -> Result<Option<OriginRead>, StoreError> {
        let mut script = READ.key(&self.stream);
        script.key(&self.state).arg(epoch.0).arg(mark.to_string()).arg(after.to_string());
        script.arg(batch.entries).arg(batch.bytes).arg(ENTRY_BYTES_MAX);
        let mut parts = decode::list(self.redis.invoke(&script).await?)?.into_iter();
        let Some(found) = parts.next() else { return Ok(None) };
        let extent = extent(found)?;
        let is_end = parts.next().ok_or(decode::unexpected("the answer of read.lua"))?;
        let is_end = decode::count(is_end)? == 1;
        let entries = decode::pages(parts)?;
        let seen = LastRead {
            epoch,
            high_water_mark: HighWaterMark { seq: extent.last, added: extent.added },
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(Some(OriginRead { entries, extent, is_end }))
    }

    /// Writes down that all up to `acked` is acknowledged, and takes everything up to `trim` out
    /// of the stream with it. False where the stream is not what it was.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn record_ack(
        &self,
        epoch: Epoch,
        Checkpoint { seq: acked, tally }: Checkpoint,
        trim: Option<Seq>,
        is_told: bool,
    ) -> Result<bool, StoreError> {
        let mut script = RECORD.key(&self.state);
        script.key(&self.stream).arg(epoch.0).arg(acked.to_string()).arg(tally.to_string());
        // MINID keeps the ID that it names.
        script.arg(trim.map(|seq| seq.after().to_string()).unwrap_or_default());
        script.arg(u8::from(is_told));
        self.redis.invoke(&script).await
    }

    /// Copies entries that can never be sent to the dead letters, with `seq` and `reason` in front.
    async fn bury(
        &self,
        epoch: Epoch,
        letters: &[(Seq, RejectReason)],
    ) -> Result<bool, StoreError> {
        // One by one: each may be as large as Redis allows.
        for (seq, reason) in letters {
            let mut script = BURY.key(&self.state);
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

    async fn lose(
        &self,
        epoch: Epoch,
        losses: &[Loss],
        written: &RecordedLosses,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut script = LOSE.key(&self.state);
        script.key(&self.ledger).arg(epoch.0).arg(written.to_string()).arg(LOST_MAX_LEN);
        let lost = losses.iter().filter_map(|loss| loss.count);
        script.arg(lost.fold(0u64, u64::saturating_add).min(LOSS_COUNT_MAX));
        for loss in losses {
            let fields = loss_ledger::fields((&self.client, self.direction), loss, now_ms);
            script.arg(2 * fields.len()).arg(&fields[..]);
        }
        self.redis.invoke(&script).await
    }

    /// False where somebody else has settled another epoch.
    async fn settle(
        &self,
        position: &Position,
        standing: &OriginStanding,
        (cursor, is_new): (&Cursor, bool),
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut script = SETTLE.key(&self.state);
        script.key(&self.stream).key(&self.ledger).arg(position.epoch.0);
        let is_sane = cursor.seq.ms <= now_ms + SEQ_AHEAD_MAX.as_millis() as u64;
        // A place that was only found may be anything that somebody says.
        let has_floor = position.raises_last_id(cursor) && is_sane;
        let fields = match is_new {
            true => {
                let floor = if has_floor { cursor.seq.to_string() } else { String::new() };
                let Position { after, tally, .. } = position;
                let added =
                    (tally.precision == TallyPrecision::Exact).then(|| tally.added.to_string());
                script.arg(floor).arg(after.to_string()).arg(added.unwrap_or_default());
                origin_state::fields(&standing.memory)
            }
            false => {
                script.arg("").arg("").arg("");
                origin_state::notes(&standing.memory)
            }
        };
        script.arg(2 * fields.len()).arg(&fields[..]);
        if let Some(loss) = &position.loss {
            script.arg(&loss_ledger::fields((&self.client, self.direction), loss, now_ms)[..]);
        }
        self.redis.invoke(&script).await
    }

    async fn digest_at(&self, seq: Seq) -> Result<Option<Digest>, StoreError> {
        if seq.is_zero() {
            return Ok(None);
        }
        let found = self.peek(seq.before(), 1).await?;
        Ok(found.iter().find(|entry| entry.seq == seq).map(Entry::digest))
    }
}

/// As reach.lua gives it.
pub(super) fn extent(reply: Value) -> Result<Extent, StoreError> {
    let mut parts = decode::list(reply)?.into_iter();
    let mut next = || parts.next().ok_or(decode::unexpected("how far a stream reaches"));
    Ok(Extent {
        first: decode::seq(next()?)?,
        last: decode::seq(next()?)?,
        max_deleted: decode::seq(next()?)?,
        length: decode::count(next()?)?,
        added: decode::count(next()?)?,
        last_delivered: decode::seq(next()?).ok(),
    })
}
