//! An in stream and its cursor, which move together in one script and never apart.

use std::sync::LazyLock;

use redis::{Script, Value};

use super::{
    Redis, StoreError,
    commit::Writer,
    keys::{DeviceKeys, HubKeys},
    reply,
};
use crate::{
    client::ClientId,
    entry::{Digest, Direction},
    limits::LOST_MAX_LEN,
    seq::{Epoch, Seq},
    sync::receiver::{Append, Appended},
    wire::frame::Cursor,
};

static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("append.lua")));

/// One in stream with its cursor. Cheap enough to clone per session.
#[derive(Clone)]
pub struct CopyStore {
    writer: Writer,
    state: String,
    stream: String,
    ledger: String,
    client: ClientId,
    direction: Direction,
    /// The session that may still write; none where writes are not fenced.
    generation: Option<u64>,
    max_len: u64,
}

impl CopyStore {
    /// The in stream of a device.
    pub fn device(redis: Redis, keys: &DeviceKeys, client: &ClientId) -> Self {
        Self {
            writer: redis.into(),
            state: keys.state(),
            stream: keys.inbound(),
            ledger: keys.lost(),
            client: client.clone(),
            direction: Direction::Down,
            generation: None,
            max_len: 0,
        }
    }

    /// The in stream of the hub, for what one client sends. It keeps about `in_max_len` entries;
    /// 0: all.
    pub fn hub(
        writer: Writer,
        keys: &HubKeys,
        client: &ClientId,
        generation: Option<u64>,
        in_max_len: u64,
    ) -> Self {
        Self {
            writer,
            state: keys.client(client),
            stream: keys.inbound(),
            ledger: keys.lost(),
            client: client.clone(),
            direction: Direction::Up,
            generation,
            max_len: in_max_len,
        }
    }

    /// Where the copy stands.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn cursor(&self) -> Result<Cursor, StoreError> {
        let reply = self.writer.read(&self.state, &["in_epoch", "in_seq", "in_digest"]).await?;
        let mut parts = reply::list(reply)?.into_iter();
        let mut next = || parts.next().filter(|value| *value != Value::Nil);
        Ok(Cursor {
            epoch: Epoch(next().map_or(Ok(0), reply::count)? as u32),
            seq: next().map_or(Ok(Seq::ZERO), reply::seq)?,
            digest: next().map(reply::bytes).transpose()?.and_then(|hex| Digest::from_hex(&hex)),
        })
    }

    /// Appends what is past the cursor and moves it, in one step.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it. After one that `is_transient` the batch may or may not be
    /// in the copy; to send it again is safe.
    pub async fn append(&self, append: &Append, now_ms: u64) -> Result<Appended, StoreError> {
        let mut script = APPEND.key(&self.state);
        script.key(&self.stream).key(&self.ledger);
        script.arg(self.generation.map(|generation| generation.to_string()).unwrap_or_default());
        script.arg(append.epoch.0);
        script.arg(append.after.map(|seq| seq.to_string()).unwrap_or_default());
        script.arg(append.through.to_string());
        script.arg(append.digest.map(|digest| digest.to_string()).unwrap_or_default());
        script.arg(now_ms).arg(self.max_len).arg(self.client.as_str());
        script.arg(match self.direction {
            Direction::Up => "up",
            Direction::Down => "down",
        });
        script.arg(LOST_MAX_LEN).arg(append.refused.len());
        for (seq, _) in &append.refused {
            script.arg(seq.to_string());
        }
        for entry in &append.entries {
            script.arg(entry.seq.to_string()).arg(2 * entry.fields.len());
            for (name, value) in &entry.fields {
                script.arg(name.as_ref()).arg(value.as_ref());
            }
        }
        appended(self.writer.invoke(&script).await?)
    }
}

fn appended(reply: Value) -> Result<Appended, StoreError> {
    let mut parts = reply::list(reply)?.into_iter();
    let mut next = || parts.next().ok_or(reply::unexpected("the answer of append.lua"));
    let word = reply::bytes(next()?)?;
    Ok(match word.as_ref() {
        b"done" => Appended::Done {
            cursor: reply::seq(next()?)?,
            accepted: reply::count(next()?)?,
            duplicates: reply::count(next()?)?,
            id: reply::seq(next()?).ok(),
        },
        b"superseded" => Appended::Superseded,
        b"stale-epoch" => Appended::StaleEpoch(Epoch(reply::count(next()?)? as u32)),
        b"gap" => Appended::Gap(reply::seq(next()?)?),
        _ => return Err(reply::unexpected("a word of append.lua")),
    })
}
