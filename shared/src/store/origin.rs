//! An out stream, and what its side remembers of it, in the same Redis.

use std::sync::LazyLock;

use redis::{Arg, Cmd, Script, Value, cmd, pipe};

use super::{
    Redis, StoreError,
    keys::{DeviceKeys, HubKeys},
    ledger, memory, reply,
    scripts::{ALLOW_OOM, with_seqs},
};
use crate::{
    client::ClientId,
    entry::{Digest, Direction, Entry, Unfit},
    limits::{DEAD_MAX_LEN, LOSS_COUNT_MAX, LOST_MAX_LEN, SEQ_AHEAD_MAX},
    seq::{Epoch, Seq},
    sync::{
        account::{Extent, Loss, Tally, Written},
        position::{self, Begun, Finding, Position, Standing},
        seal::SealKey,
        sender::{Read, Task},
    },
    wire::frame::Cursor,
};

static LOOK: LazyLock<Script> = LazyLock::new(|| with_seqs(ALLOW_OOM, include_str!("look.lua")));
static SETTLE: LazyLock<Script> =
    LazyLock::new(|| with_seqs(ALLOW_OOM, include_str!("settle.lua")));
static RECORD: LazyLock<Script> =
    LazyLock::new(|| with_seqs(ALLOW_OOM, include_str!("record.lua")));
static LOSE: LazyLock<Script> = LazyLock::new(|| with_seqs(ALLOW_OOM, include_str!("lose.lua")));

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
}

/// What a `Task` came to.
#[derive(Debug)]
pub enum Done {
    /// What was read.
    Read(Read),
    /// The stream is not what it was.
    Rewound,
    /// The dead letters are written.
    Buried,
    /// The losses are in the ledger.
    Written,
    /// The acknowledgement is written down.
    Recorded,
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
    pub async fn standing(&self) -> Result<Standing, StoreError> {
        let mut values = cmd("HMGET");
        values.arg(&self.state).arg(&memory::FIELDS);
        let (values, found) = self.look(values, None).await?;
        let extent = extent(found)?.ok_or(reply::unexpected("how far a stream reaches"))?;
        memory::read(extent, values)
    }

    /// Proves this stream's position against the copy's cursor, and writes down the epoch that
    /// comes of it before anything is sent under it.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn begin(&self, cursor: &Cursor, now_ms: u64) -> Result<Begun, StoreError> {
        let (mut standing, at_cursor) =
            tokio::try_join!(self.standing(), self.digest_at(cursor.seq))?;
        let position = position::begin(&standing, cursor, at_cursor);
        if position.epoch != standing.memory.epoch {
            let key = SealKey::new(rand::random());
            standing.memory = standing.memory.settled(&position, &standing.extent, key);
            self.settle(&position, &standing, cursor, now_ms).await?;
        }
        Ok(Begun { position, standing })
    }

    /// Does what a sender asks for.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn perform(&self, epoch: Epoch, task: Task, now_ms: u64) -> Result<Done, StoreError> {
        match task {
            Task::Read { after, count, mark } => {
                let read = self.read(epoch, after, count, mark).await?;
                Ok(read.map_or(Done::Rewound, Done::Read))
            }
            Task::Lose(losses, written) => {
                let is_same = self.lose(epoch, &losses, &written, now_ms).await?;
                Ok(if is_same { Done::Written } else { Done::Rewound })
            }
            Task::Bury(letters) => {
                let is_same = self.bury(epoch, &letters).await?;
                Ok(if is_same { Done::Buried } else { Done::Rewound })
            }
            Task::Record { acked, trim, is_told } => {
                let is_same = self.record(epoch, acked, trim, is_told).await?;
                Ok(if is_same { Done::Recorded } else { Done::Rewound })
            }
        }
    }

    /// Entries after `after`, at most `count`, without waiting and without a mark: to look at only.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn peek(&self, after: Seq, count: usize) -> Result<Vec<Entry>, StoreError> {
        let range = self.range(after.after(), Seq::MAX, count);
        reply::entries(range.query_async(&mut self.redis.connection()).await?)
    }

    /// Reads and marks in one step; none where the stream is not what it was.
    async fn read(
        &self,
        epoch: Epoch,
        after: Seq,
        count: usize,
        mark: Seq,
    ) -> Result<Option<Read>, StoreError> {
        let range = self.range(after.after(), Seq::MAX, count);
        let (entries, found) = self.look(range, Some((epoch, mark))).await?;
        let Some(extent) = extent(found)? else { return Ok(None) };
        let mut entries = reply::entries(entries)?;
        // Nothing comes after the last seq there can be.
        entries.retain(|entry| entry.seq > after);
        Ok(Some(Read { entries, extent }))
    }

    /// Writes down that all up to `acked` is acknowledged, and takes everything up to `trim` out
    /// of the stream with it. False where the stream is not what it was.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn record(
        &self,
        epoch: Epoch,
        (acked, tally): (Seq, Tally),
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

    /// Copies entries that can never be sent to the dead letters, with `seq` and `reason` in
    /// front, and marks them as buried in the same transaction.
    async fn bury(&self, epoch: Epoch, letters: &[(Seq, Unfit)]) -> Result<bool, StoreError> {
        // One by one: each may be as large as Redis allows.
        for (seq, reason) in letters {
            let id = seq.to_string();
            let at = self.range(*seq, *seq, 1);
            let (entry, found) = self.look(at, Some((epoch, *seq))).await?;
            if extent(found)?.is_none() {
                return Ok(false);
            }
            let entry = reply::entries(entry)?.pop();
            let mut pipe = pipe();
            pipe.atomic();
            let add = pipe.cmd("XADD").arg(&self.dead).arg("MAXLEN").arg("~").arg(DEAD_MAX_LEN);
            add.arg("*");
            if self.is_shared {
                add.arg("client").arg(self.client.as_str());
            }
            add.arg("seq").arg(&id).arg("reason").arg(reason.word());
            for (name, value) in entry.iter().flat_map(|entry| &entry.fields) {
                add.arg(name.as_ref()).arg(value.as_ref());
            }
            add.ignore();
            pipe.cmd("HSET").arg(&self.state).arg("dead_epoch").arg(epoch.0);
            pipe.arg("dead_seq").arg(&id).ignore();
            pipe.cmd("HINCRBY").arg(&self.state).arg("dead_count").arg(1).ignore();
            pipe.query_async::<()>(&mut self.redis.connection()).await?;
        }
        Ok(true)
    }

    async fn lose(
        &self,
        epoch: Epoch,
        losses: &[Loss],
        written: &Written,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut script = LOSE.key(&self.state);
        script.key(&self.ledger).arg(epoch.0).arg(written.to_string()).arg(LOST_MAX_LEN);
        let lost = losses.iter().filter_map(|loss| loss.count);
        script.arg(lost.fold(0u64, u64::saturating_add).min(LOSS_COUNT_MAX));
        for loss in losses {
            let fields = ledger::fields((&self.client, self.direction), loss, now_ms);
            script.arg(2 * fields.len()).arg(&fields[..]);
        }
        self.redis.invoke(&script).await
    }

    async fn settle(
        &self,
        position: &Position,
        standing: &Standing,
        cursor: &Cursor,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let is_sane = cursor.seq.ms <= now_ms + SEQ_AHEAD_MAX.as_millis() as u64;
        let has_floor = position.finding == Finding::OriginReplaced && is_sane;
        let fields = memory::fields(&standing.memory);
        let mut script = SETTLE.key(&self.state);
        script.key(&self.stream).key(&self.ledger).arg(position.epoch.0);
        script.arg(if has_floor { cursor.seq.to_string() } else { String::new() });
        script.arg(2 * fields.len()).arg(&fields[..]);
        if let Some(loss) = &position.loss {
            script.arg(&ledger::fields((&self.client, self.direction), loss, now_ms)[..]);
        }
        self.redis.invoke(&script).await
    }

    async fn digest_at(&self, seq: Seq) -> Result<Option<Digest>, StoreError> {
        Ok(self.entry_at(seq).await?.as_ref().map(Entry::digest))
    }

    async fn entry_at(&self, seq: Seq) -> Result<Option<Entry>, StoreError> {
        let range = self.range(seq, seq, 1);
        Ok(reply::entries(range.query_async(&mut self.redis.connection()).await?)?.pop())
    }

    fn range(&self, from: Seq, to: Seq, count: usize) -> Cmd {
        let mut xrange = cmd("XRANGE");
        xrange.arg(&self.stream).arg(from.to_string()).arg(to.to_string());
        xrange.arg("COUNT").arg(count);
        xrange
    }

    /// A command and a look at the stream in one transaction, so that they are of one moment.
    async fn look(
        &self,
        first: Cmd,
        sending: Option<(Epoch, Seq)>,
    ) -> Result<(Value, Value), StoreError> {
        let mut script = LOOK.key(&self.stream);
        script.key(&self.state);
        match sending {
            Some((epoch, mark)) => script.arg(epoch.0).arg(mark.to_string()),
            None => script.arg("").arg(""),
        };
        let mut pipe = pipe();
        pipe.atomic().add_command(first.clone()).invoke_script(&script);
        match self.redis.transact(&pipe, &LOOK).await {
            // A Redis that is full opens no transaction. The script alone does the same, only slower.
            Err(StoreError::Busy { code, .. }) if code == "OOM" || code == "EXECABORT" => {
                for argument in first.args_iter() {
                    if let Arg::Simple(argument) = argument {
                        script.arg(argument);
                    }
                }
                self.redis.invoke(&script).await
            }
            result => result,
        }
    }
}

/// None for a stream that is not what it was.
pub(super) fn extent(reply: Value) -> Result<Option<Extent>, StoreError> {
    let mut parts = reply::list(reply)?.into_iter();
    let mut next = || parts.next().ok_or(reply::unexpected("the answer of look.lua"));
    let first = reply::bytes(next()?)?;
    if first.as_ref() == b"rewound" {
        return Ok(None);
    }
    Ok(Some(Extent {
        first: Seq::from_bytes(&first).map_err(|_| reply::unexpected("a stream ID"))?,
        last: reply::seq(next()?)?,
        deleted: reply::seq(next()?)?,
        length: reply::count(next()?)?,
        added: reply::count(next()?)?,
    }))
}
