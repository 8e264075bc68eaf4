//! The search of a copy for what it holds of one origin past its cursor, newest first.
//!
//! It is for the rare case that an origin's Redis came back with an older state, or that a copy has lost
//! its cursor and not its entries. Rejected: a list of
//! what was carried beside each cursor, which every batch of every client would pay for.

use std::{collections::HashMap, sync::LazyLock, time::Instant};

use redis::{Script, Value, cmd};

use super::{Redis, StoreError, decode, scripts::looking_back};
use crate::limits::{COPY_ENTRY_BYTES_MAX, SEARCH_ENTRIES_MAX, SEARCH_PAGE};
use spoke_protocol::{
    client_id::ClientId,
    entry::{Direction, Entry},
    limits::FIELD_BYTES_MIN,
    seq::{Epoch, Seq},
    sync::dedup::{CopiedEntry, CopyIndex},
};

/// What to look for.
pub(super) struct CopySearch<'a> {
    pub(super) redis: &'a Redis,
    /// The copy.
    pub(super) stream: &'a str,
    pub(super) client: &'a ClientId,
    pub(super) direction: Direction,
    /// This one and older.
    pub(super) epoch: Epoch,
    /// The epoch that the copy's cursor is in; `Epoch::UNKNOWN` for a copy that has none.
    pub(super) cursor_epoch: Epoch,
    /// From here on.
    pub(super) lowest: Seq,
}

static SEARCH: LazyLock<Script> =
    LazyLock::new(|| looking_back(include_str!("scripts/search.lua")));

impl CopySearch<'_> {
    pub(super) async fn run(&self) -> Result<CopyIndex, StoreError> {
        let mut found = Vec::new();
        // Under each epoch the copy has the entries in their order, so what comes before one that is
        // too low is lower still.
        let mut reached: HashMap<Epoch, bool> = HashMap::new();
        let (mut from, mut scanned) = ("+".to_owned(), 0);
        while scanned < SEARCH_ENTRIES_MAX {
            let begun = Instant::now();
            let (down_to, looked, entries) = self.look(&from).await?;
            scanned += looked;
            for entry in &entries {
                let Some((epoch, own)) = self.own(entry) else { continue };
                *reached.entry(epoch).or_default() |= own.seq < self.lowest;
                if own.seq >= self.lowest {
                    found.push(CopiedEntry { epoch, seq: own.seq, digest: own.digest() });
                }
            }
            let lowest_id = down_to.parse().unwrap_or(Seq::ZERO);
            if self.is_done(&reached) {
                return self.held(found, lowest_id, true).await;
            }
            if down_to.is_empty() {
                return self.held(found, Seq::ZERO, false).await;
            }
            from = down_to;
            // Half of the time is for others.
            tokio::time::sleep(begun.elapsed()).await;
        }
        Ok(CopyIndex::new(found, false))
    }

    /// The last that came of this origin, and its epoch, unless so much came since that it is not seen.
    pub(super) async fn newest(&self) -> Result<Option<(Epoch, Entry)>, StoreError> {
        let (mut from, mut scanned) = ("+".to_owned(), 0);
        while scanned < SEARCH_ENTRIES_MAX {
            let begun = Instant::now();
            let (down_to, looked, entries) = self.look(&from).await?;
            let newest = entries.iter().find_map(|entry| self.own(entry));
            if newest.is_some() || down_to.is_empty() {
                return Ok(newest);
            }
            scanned += looked;
            from = down_to;
            tokio::time::sleep(begun.elapsed()).await;
        }
        Ok(None)
    }

    /// Complete unless something of what was looked at was deleted, or, where the search came to the
    /// stream's beginning, trimmed.
    async fn held(
        &self,
        found: Vec<CopiedEntry>,
        lowest_id: Seq,
        is_reached: bool,
    ) -> Result<CopyIndex, StoreError> {
        let mut info = cmd("XINFO");
        info.arg("STREAM").arg(self.stream).arg("FULL").arg("COUNT").arg(1);
        let info: Value = match info.query_async(&mut self.redis.connection()).await {
            Ok(info) => info,
            // It holds nothing. Where there is a cursor all the same, something was carried there once.
            Err(error) if error.to_string().contains("no such key") => {
                return Ok(CopyIndex::new(found, !self.cursor_epoch.is_known()));
            }
            Err(error) => return Err(error.into()),
        };
        let names = ["length", "entries-added", "max-deleted-entry-id"];
        let mut values = decode::named(info, &names)?.into_iter().flatten();
        let mut next = || values.next().ok_or(decode::unexpected("XINFO STREAM"));
        let (length, added) = (decode::count(next()?)?, decode::count(next()?)?);
        let deleted = decode::seq(next()?)?;
        let is_untouched = deleted < lowest_id || deleted.is_zero();
        let is_complete = is_untouched && (is_reached || length == added);
        Ok(CopyIndex::new(found, is_complete))
    }

    /// Down to which ID was looked, how many entries were, and which are of this origin.
    async fn look(&self, from: &str) -> Result<(String, usize, Vec<Entry>), StoreError> {
        let (most, bytes) = SEARCH_PAGE;
        let client = match self.direction {
            Direction::Up => self.client.as_str(),
            Direction::Down => "",
        };
        let mut script = SEARCH.key(self.stream);
        script.arg(from).arg(client).arg(most).arg(bytes).arg(FIELD_BYTES_MIN);
        script.arg(COPY_ENTRY_BYTES_MAX);
        let mut parts = decode::list(self.redis.invoke(&script).await?)?.into_iter();
        let mut next = || parts.next().ok_or(decode::unexpected("the answer of search.lua"));
        let (down_to, looked) = (decode::text(next()?)?, decode::count(next()?)? as usize);
        Ok((down_to, looked, decode::entries(next()?)?))
    }

    /// An entry of this origin, as it was born, and its epoch, which a device's copy does not tell.
    fn own(&self, entry: &Entry) -> Option<(Epoch, Entry)> {
        let own = self.direction.reserved().len();
        let (front, fields) = entry.fields.split_at_checked(own)?;
        let text = |at: usize| std::str::from_utf8(&front[at].1).ok();
        let epoch = match self.direction {
            Direction::Up if text(0)? != self.client.as_str() => return None,
            Direction::Up => Epoch(text(1)?.parse().ok()?),
            Direction::Down => Epoch::UNKNOWN,
        };
        let seq = text(own - 1)?.parse().ok()?;
        (epoch <= self.epoch).then(|| (epoch, Entry { seq, fields: fields.to_vec() }))
    }

    /// All epochs that can be there were seen down to where the search ends.
    fn is_done(&self, reached: &HashMap<Epoch, bool>) -> bool {
        let is_reached = |epoch: &Epoch| reached.get(epoch).copied().unwrap_or(false);
        // Where the epochs are not told, there can only be one if this is the second.
        let older = reached.iter().filter(|(epoch, reached)| **epoch < self.epoch && **reached);
        // A copy that has come to an older epoch only holds nothing of this one.
        let is_in_it = !self.cursor_epoch.is_known() || self.cursor_epoch == self.epoch;
        older.count() as u64 + 1 >= self.epoch.0 && (!is_in_it || is_reached(&self.epoch))
    }
}
