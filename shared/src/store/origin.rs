//! An out stream, and what its side remembers of it: epoch, where that began, what is acknowledged.

use std::sync::LazyLock;

use redis::{Script, Value, cmd, pipe};

use super::{
    Redis, StoreError,
    keys::{DeviceKeys, HubKeys},
    reply,
};
use crate::{
    client::ClientId,
    entry::{Digest, Entry, Unfit},
    limits::{DEAD_MAX_LEN, SEQ_AHEAD_MAX},
    seq::{Epoch, Seq},
    sync::position::{self, Begun, Finding},
    wire::frame::{Cursor, Origin},
};

static SETTLE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("settle.lua")));
static RECORD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("record.lua")));
static NEWEST: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("newest.lua")));

/// One out stream with its state. Cheap enough to clone per session.
#[derive(Clone)]
pub struct OriginStore {
    redis: Redis,
    stream: String,
    state: String,
    dead: String,
    /// Named in the dead letters of the hub, where all clients share one stream of them.
    client: Option<ClientId>,
}

/// Where an out stream stands, as its own side sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// What the handshake tells the other side.
    pub origin: Origin,
    /// How many entries the stream holds now.
    pub length: u64,
    /// Up to where dead letters were written in this epoch.
    pub buried: Seq,
    /// How many dead letters there ever were.
    pub dead: u64,
}

impl OriginStore {
    /// The out stream of a device.
    pub fn device(redis: Redis, keys: &DeviceKeys) -> Self {
        Self { redis, stream: keys.out(), state: keys.state(), dead: keys.dead(), client: None }
    }

    /// The out stream of one client at the hub.
    pub fn hub(redis: Redis, keys: &HubKeys, client: &ClientId) -> Self {
        Self {
            redis,
            stream: keys.out(client),
            state: keys.client(client),
            dead: keys.dead(),
            client: Some(client.clone()),
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
        const FIELDS: [&str; 6] =
            ["out_epoch", "out_start", "out_acked", "dead_epoch", "dead_seq", "dead_count"];
        let mut state = self.redis.connection();
        let mut info = self.redis.connection();
        let (mut hmget, mut xinfo) = (cmd("HMGET"), cmd("XINFO"));
        hmget.arg(&self.state).arg(&FIELDS);
        xinfo.arg("STREAM").arg(&self.stream);
        let (memory, info) =
            tokio::join!(hmget.query_async::<Value>(&mut state), xinfo.query_async(&mut info));
        let mut standing = match info {
            Ok(info) => stream_info(info)?,
            // An app that has never added anything has no stream.
            Err(error) if is_no_such_key(&error) => Standing::default(),
            Err(error) => return Err(error.into()),
        };
        let mut memory = reply::list(memory?)?.into_iter();
        let mut next = || memory.next().filter(|value| *value != Value::Nil);
        let seq = |value: Option<Value>| value.map_or(Ok(Seq::ZERO), reply::seq);
        let number = |value: Option<Value>| value.map_or(Ok(0), reply::count);
        standing.origin.epoch = Epoch(number(next())? as u32);
        standing.origin.start = seq(next())?;
        standing.origin.acked = seq(next())?;
        let dead_epoch = Epoch(number(next())? as u32);
        let buried = seq(next())?;
        standing.buried = if dead_epoch == standing.origin.epoch { buried } else { Seq::ZERO };
        standing.dead = number(next())?;
        Ok(standing)
    }

    /// Proves this stream's position against the copy's cursor, and writes down the epoch that
    /// comes of it before anything is sent under it.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn begin(&self, cursor: &Cursor, now_ms: u64) -> Result<Begun, StoreError> {
        let (standing, at_cursor) = tokio::try_join!(self.standing(), self.digest_at(cursor.seq))?;
        let Standing { mut origin, mut buried, .. } = standing;
        let position = position::begin(&origin, cursor, at_cursor);
        if position.epoch != origin.epoch {
            let is_replaced = position.finding == Finding::OriginReplaced;
            let start = if is_replaced { position.after } else { Seq::ZERO };
            let is_sane = cursor.seq.ms <= now_ms + SEQ_AHEAD_MAX.as_millis() as u64;
            let floor = (is_replaced && is_sane).then_some(cursor.seq);
            self.settle(position.epoch, start, floor).await?;
            (origin.epoch, origin.start, origin.acked, buried) =
                (position.epoch, start, start, Seq::ZERO);
        }
        Ok(Begun { position, origin, buried })
    }

    /// Entries after `after`, at most `count`, without waiting.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn read(&self, after: Seq, count: usize) -> Result<Vec<Entry>, StoreError> {
        if after == Seq::MAX {
            return Ok(Vec::new());
        }
        self.range(format!("({after}"), "+".to_owned(), count).await
    }

    /// The last ID that the stream has given out; `0-0` if there is no stream.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn newest(&self) -> Result<Seq, StoreError> {
        reply::seq(self.redis.invoke(&NEWEST.key(&self.stream)).await?)
    }

    /// Writes down that all up to `acked` is acknowledged, and takes everything up to `trim` out
    /// of the stream with it.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn record(&self, acked: Seq, trim: Option<Seq>) -> Result<(), StoreError> {
        // MINID keeps the ID that it names.
        let next = |Seq { ms, n }: Seq| {
            n.checked_add(1).map_or(Seq::new(ms.saturating_add(1), 0), |n| Seq::new(ms, n))
        };
        let kept = trim.map(|seq| next(seq).to_string()).unwrap_or_default();
        let mut script = RECORD.key(&self.state);
        script.key(&self.stream).arg(acked.to_string()).arg(kept);
        self.redis.invoke(&script).await
    }

    /// Copies entries that can never be sent to the dead letters, with `seq` and `reason` in
    /// front, and marks them as buried in the same transaction.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn bury(&self, epoch: Epoch, letters: &[(Seq, Unfit)]) -> Result<(), StoreError> {
        // One by one: each may be as large as Redis allows.
        for (seq, reason) in letters {
            let id = seq.to_string();
            let entry = self.range(id.clone(), id.clone(), 1).await?.pop();
            let mut pipe = pipe();
            pipe.atomic();
            let add = pipe.cmd("XADD").arg(&self.dead).arg("MAXLEN").arg("~").arg(DEAD_MAX_LEN);
            add.arg("*");
            if let Some(client) = &self.client {
                add.arg("client").arg(client.as_str());
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
        Ok(())
    }

    async fn settle(&self, epoch: Epoch, start: Seq, floor: Option<Seq>) -> Result<(), StoreError> {
        let floor = floor.map(|seq| seq.to_string()).unwrap_or_default();
        let mut script = SETTLE.key(&self.state);
        script.key(&self.stream).arg(epoch.0).arg(start.to_string()).arg(floor);
        self.redis.invoke(&script).await
    }

    async fn digest_at(&self, seq: Seq) -> Result<Option<Digest>, StoreError> {
        let id = seq.to_string();
        Ok(self.range(id.clone(), id, 1).await?.first().map(Entry::digest))
    }

    async fn range(
        &self,
        from: String,
        to: String,
        count: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut xrange = cmd("XRANGE");
        xrange.arg(&self.stream).arg(from).arg(to).arg("COUNT").arg(count);
        reply::entries(xrange.query_async(&mut self.redis.connection()).await?)
    }
}

fn is_no_such_key(error: &redis::RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("no such key"))
}

fn stream_info(info: Value) -> Result<Standing, StoreError> {
    let names = ["length", "last-generated-id", "entries-added", "first-entry"];
    let mut found = reply::named(info, &names)?.into_iter();
    let mut next = || found.next().flatten().filter(|value| *value != Value::Nil);
    let length = next().map_or(Ok(0), reply::count)?;
    let last = next().map_or(Ok(Seq::ZERO), reply::seq)?;
    // Redis counts what was ever added from 7.0 on.
    let added = next().map_or(Ok(0), reply::count)?;
    let first = match next() {
        Some(entry) => reply::list(entry)?.into_iter().next().map_or(Ok(Seq::ZERO), reply::seq)?,
        None => Seq::ZERO,
    };
    let origin = Origin { first, last, added, ..Origin::default() };
    Ok(Standing { origin, length, ..Standing::default() })
}
