//! An out stream and the sender's state, in the same Redis.

mod calls;
mod tasks;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use redis::{Script, cmd};

pub use self::{
    calls::{OriginCaller, OriginCalls},
    tasks::TaskResult,
};
use super::{
    Redis, StoreError, decode,
    error::{HASH, STREAM},
    key_types::name_wrong_key,
    keys::{DeviceKeys, HubKeys, OriginLedgers},
    loss_ledger, origin_state,
    peek::peek,
    scripts::of_origin,
};
use spoke_protocol::{
    ClientId, Digest, Direction, Entry, Partner, PartnerMatch, SealKey, Seq, TallyPrecision,
    limits::SEQ_AHEAD_MAX,
    message::Cursor,
    sync::{Extent, HighWaterMark, LastRead, OriginStanding, Position, SenderStart, find_position},
};

static INSPECT: LazyLock<Script> =
    LazyLock::new(|| of_origin(include_str!("scripts/inspect_origin.lua")));
static BEGIN_EPOCH: LazyLock<Script> =
    LazyLock::new(|| of_origin(include_str!("scripts/begin_epoch.lua")));
/// How often the position is found again after another process has changed the epoch.
const BEGIN_RETRIES_MAX: usize = 3;

/// An out stream with the sender's state. Cheap enough to clone per session.
#[derive(Clone)]
pub struct OriginStore {
    calls: OriginCalls,
    stream: String,
    state: String,
    ledgers: OriginLedgers,
    client: ClientId,
    direction: Direction,
    /// Whether the stream of dead letters is shared by all clients, as at the hub, and names the client.
    is_shared: bool,
    /// The last read, at a device: its store lives as long as the process.
    last_read: Option<Arc<Mutex<Option<LastRead>>>>,
}

/// The peer with which a sender begins.
#[derive(Debug, Clone)]
pub struct StartWith {
    /// Whether the peer is the recorded one, if that is known before.
    pub partner_match: PartnerMatch,
    /// The peer to record.
    pub partner: Option<Partner>,
}

impl StartWith {
    /// The recorded peer.
    pub const SAME: Self = Self { partner_match: PartnerMatch::Same, partner: None };
}

impl OriginStore {
    /// Opens the out stream of a device.
    pub fn device(redis: Redis, keys: &DeviceKeys, client: &ClientId) -> Self {
        Self {
            calls: redis.into(),
            stream: keys.out(),
            state: keys.state(),
            ledgers: OriginLedgers { dead: keys.dead().into(), lost: keys.lost().into() },
            client: client.clone(),
            direction: Direction::Up,
            is_shared: false,
            last_read: Some(Arc::default()),
        }
    }

    /// Opens the out stream of one client at the hub.
    pub fn hub(calls: OriginCalls, keys: &HubKeys, client: &ClientId) -> Self {
        Self {
            calls,
            stream: keys.out(client),
            state: keys.client(client),
            ledgers: keys.ledgers(),
            client: client.clone(),
            direction: Direction::Down,
            is_shared: true,
            last_read: None,
        }
    }

    /// Returns the stream's key, for its hints.
    pub fn key(&self) -> &str {
        &self.stream
    }

    fn redis(&self) -> &Redis {
        self.calls.redis()
    }

    /// Reads the state of the stream.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails or a key has the wrong type.
    pub async fn standing(&self) -> Result<OriginStanding, StoreError> {
        let standing = self.inspect().await;
        self.name_wrong_key(standing).await
    }

    async fn inspect(&self) -> Result<OriginStanding, StoreError> {
        let mut script = INSPECT.key(&self.stream);
        script.key(&self.state).arg(&origin_state::FIELDS);
        let mut parts = decode::list(self.redis().invoke(&script).await?)?.into_iter();
        let mut next = || parts.next().ok_or(decode::unexpected("the reply of inspect_origin.lua"));
        let (extent, values) = (origin_state::extent(next()?)?, next()?);
        let last_read = self.last_read.as_ref();
        let last_read =
            last_read.and_then(|last| *last.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(OriginStanding { last_read, ..origin_state::read(extent, values)? })
    }

    /// Finds the position of the sender for the copy's cursor, and records it before anything is sent. If the key
    /// has the wrong type, nothing is sent, and the other direction continues.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails or another key has the wrong type.
    pub async fn start_sender(
        &self,
        cursor: &Cursor,
        with: &StartWith,
        now_ms: u64,
    ) -> Result<SenderStart, StoreError> {
        let start = self.find_and_record_position(cursor, with, now_ms).await;
        match self.name_wrong_key(start).await {
            Err(error) if error.is_fault_of(&self.stream) => {
                Ok(SenderStart::unreadable(self.recorded_standing().await?))
            }
            start => start,
        }
    }

    async fn find_and_record_position(
        &self,
        cursor: &Cursor,
        with: &StartWith,
        now_ms: u64,
    ) -> Result<SenderStart, StoreError> {
        for _ in 0..BEGIN_RETRIES_MAX {
            let (mut standing, at_cursor) =
                tokio::try_join!(self.inspect(), self.digest_at(cursor.seq))?;
            let recorded = standing.memory.partner.as_ref();
            let partner_match = match &with.partner {
                Some(partner) => PartnerMatch::at_device(recorded, partner),
                None => with.partner_match,
            };
            let position = find_position(&standing, cursor, at_cursor, partner_match);
            let before = standing.memory.clone();
            let is_new = position.epoch != before.epoch;
            if is_new {
                let key = SealKey::new(rand::random());
                standing.memory = before.begin_epoch(&position, &standing.extent, key);
            }
            standing.memory.inherited = position.inherited;
            standing.memory.partner = with.partner.clone().or(before.partner.clone());
            if standing.memory == before
                || self.record_position(&position, &standing, (cursor, is_new), now_ms).await?
            {
                return Ok(SenderStart { position, standing });
            }
        }
        Err(decode::unexpected("no other process to change the epoch of this stream"))
    }

    /// Reads the state of the stream, or only the sender's state if the key has the wrong type.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails or another key has the wrong type.
    pub async fn last_known_standing(&self) -> Result<OriginStanding, StoreError> {
        match self.standing().await {
            Err(error) if error.is_fault_of(&self.stream) => self.recorded_standing().await,
            standing => standing,
        }
    }

    async fn recorded_standing(&self) -> Result<OriginStanding, StoreError> {
        let mut fields = cmd("HMGET");
        fields.arg(&self.state).arg(&origin_state::FIELDS);
        let values = fields.query_async(&mut self.redis().connection()).await?;
        let recorded = origin_state::read(Extent::default(), values)?;
        let HighWaterMark { seq: last, added } = recorded.memory.high_water_mark;
        let extent = Extent { last, added, ..Extent::default() };
        Ok(OriginStanding { extent, is_unreadable: true, ..recorded })
    }

    async fn name_wrong_key<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let keys = [
            (self.stream.as_str(), STREAM),
            (&self.ledgers.dead, STREAM),
            (&self.ledgers.lost, STREAM),
            (&self.state, HASH),
        ];
        name_wrong_key(self.redis(), &keys, result).await
    }

    /// Reads entries after `after` without delivering them: at most `count`, and about
    /// [`PEEK_BYTES`](crate::limits::PEEK_BYTES). An entry that is too large to be carried has no fields.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub async fn peek(&self, after: Seq, count: usize) -> Result<Vec<Entry>, StoreError> {
        peek(self.redis(), &self.stream, after, count).await
    }

    /// Returns false if another process has begun another epoch.
    async fn record_position(
        &self,
        position: &Position,
        standing: &OriginStanding,
        (cursor, is_new): (&Cursor, bool),
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut script = BEGIN_EPOCH.key(&self.state);
        script.key(&self.stream).key(&*self.ledgers.lost).arg(position.epoch.0);
        let is_sane = cursor.seq.ms <= now_ms + SEQ_AHEAD_MAX.as_millis() as u64;
        // A cursor that was only found proves nothing.
        let raises_last_id = position.raises_last_id(cursor) && is_sane;
        let fields = match is_new {
            true => {
                let floor = if raises_last_id { cursor.seq.to_string() } else { String::new() };
                let Position { after, tally, .. } = position;
                let added =
                    (tally.precision == TallyPrecision::Exact).then(|| tally.added.to_string());
                script.arg(floor).arg(after.to_string()).arg(added.unwrap_or_default());
                origin_state::epoch_fields(&standing.memory)
            }
            false => {
                script.arg("").arg("").arg("");
                origin_state::variable_fields(&standing.memory)
            }
        };
        script.arg(2 * fields.len()).arg(&fields[..]);
        if let Some(loss) = &position.loss {
            script.arg(&loss_ledger::fields((&self.client, self.direction), loss, now_ms)[..]);
        }
        self.redis().invoke(&script).await
    }

    async fn digest_at(&self, seq: Seq) -> Result<Option<Digest>, StoreError> {
        if seq.is_zero() {
            return Ok(None);
        }
        let found = self.peek(seq.before(), 1).await?;
        Ok(found.iter().find(|entry| entry.seq == seq).map(Entry::digest))
    }
}
