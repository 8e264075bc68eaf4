//! Searches a copy for the entries of one origin, newest first.
//!
//! This is for the rare cases that an origin's Redis came back with an older state, or that a copy has lost its
//! cursor but not its entries. Rejected: a list of the carried entries beside each cursor, which would cost every
//! batch of every client.

use std::{collections::HashMap, sync::LazyLock, time::Instant};

use redis::{Script, Value, cmd};

use super::{Redis, StoreError, decode, scripts::looking_back};
use crate::limits::{COPY_ENTRY_BYTES_MAX, SEARCH_ENTRIES_MAX, SEARCH_PAGE};
use spoke_protocol::{
    ClientId, Direction, Entry, Epoch, Seq,
    limits::FIELD_BYTES_MIN,
    sync::{CopiedEntry, CopyIndex},
};

/// A search.
pub(super) struct CopySearch<'a> {
    pub(super) redis: &'a Redis,
    /// The copy.
    pub(super) stream: &'a str,
    pub(super) client: &'a ClientId,
    pub(super) direction: Direction,
    /// The newest epoch to find.
    pub(super) epoch: Epoch,
    /// The epoch of the copy's cursor; [`Epoch::UNKNOWN`] without a cursor.
    pub(super) cursor_epoch: Epoch,
    /// The lowest seq to find.
    pub(super) lowest: Seq,
}

static SEARCH: LazyLock<Script> =
    LazyLock::new(|| looking_back(include_str!("scripts/search.lua")));

impl CopySearch<'_> {
    pub(super) async fn run(&self) -> Result<CopyIndex, StoreError> {
        let mut found = Vec::new();
        // In each epoch the copy has the entries in order, so entries before one that is too low are lower
        // still.
        let mut reached: HashMap<Epoch, bool> = HashMap::new();
        let (mut from, mut scanned) = ("+".to_owned(), 0);
        while scanned < SEARCH_ENTRIES_MAX {
            let begun = Instant::now();
            let (down_to, read, entries) = self.read_page(&from).await?;
            scanned += read;
            for entry in &entries {
                let Some((epoch, own)) = self.own(entry) else { continue };
                *reached.entry(epoch).or_default() |= own.seq < self.lowest;
                if own.seq >= self.lowest {
                    found.push(CopiedEntry { epoch, seq: own.seq, digest: own.digest() });
                }
            }
            let lowest_id = down_to.parse().unwrap_or(Seq::ZERO);
            if self.is_done(&reached) {
                return self.index(found, lowest_id, true).await;
            }
            if down_to.is_empty() {
                return self.index(found, Seq::ZERO, false).await;
            }
            from = down_to;
            // Leave half of the time to other clients.
            tokio::time::sleep(begun.elapsed()).await;
        }
        Ok(CopyIndex::new(found, false))
    }

    /// Returns the newest entry of this origin and its epoch; none if it is too far back.
    pub(super) async fn newest(&self) -> Result<Option<(Epoch, Entry)>, StoreError> {
        let (mut from, mut scanned) = ("+".to_owned(), 0);
        while scanned < SEARCH_ENTRIES_MAX {
            let begun = Instant::now();
            let (down_to, read, entries) = self.read_page(&from).await?;
            let newest = entries.iter().find_map(|entry| self.own(entry));
            if newest.is_some() || down_to.is_empty() {
                return Ok(newest);
            }
            scanned += read;
            from = down_to;
            tokio::time::sleep(begun.elapsed()).await;
        }
        Ok(None)
    }

    /// Creates the index. It is complete unless a searched entry was deleted, or, if the search reached the beginning
    /// of the stream, trimmed.
    async fn index(
        &self,
        found: Vec<CopiedEntry>,
        lowest_id: Seq,
        is_reached: bool,
    ) -> Result<CopyIndex, StoreError> {
        let mut info = cmd("XINFO");
        info.arg("STREAM").arg(self.stream).arg("FULL").arg("COUNT").arg(1);
        let info: Value = match info.query_async(&mut self.redis.connection()).await {
            Ok(info) => info,
            // The copy is empty. If it has a cursor, something was carried once.
            Err(error) if error.to_string().contains("no such key") => {
                return Ok(CopyIndex::new(found, !self.cursor_epoch.is_known()));
            }
            Err(error) => return Err(error.into()),
        };
        let names = ["length", "entries-added", "max-deleted-entry-id"];
        let mut values = decode::named(info, &names)?.into_iter().flatten();
        let mut next = || values.next().ok_or(decode::unexpected("XINFO STREAM"));
        let (length, added) = (decode::count(next()?)?, decode::count(next()?)?);
        let max_deleted = decode::seq(next()?)?;
        let is_untouched = max_deleted < lowest_id || max_deleted.is_zero();
        let is_complete = is_untouched && (is_reached || length == added);
        Ok(CopyIndex::new(found, is_complete))
    }

    /// Reads a page: returns the ID down to which it reaches, the number of entries, and those of this origin.
    async fn read_page(&self, from: &str) -> Result<(String, usize, Vec<Entry>), StoreError> {
        let (most, bytes) = SEARCH_PAGE;
        let client = match self.direction {
            Direction::Up => self.client.as_str(),
            Direction::Down => "",
        };
        let mut script = SEARCH.key(self.stream);
        script.arg(from).arg(client).arg(most).arg(bytes).arg(FIELD_BYTES_MIN);
        script.arg(COPY_ENTRY_BYTES_MAX);
        let mut parts = decode::list(self.redis.invoke(&script).await?)?.into_iter();
        let mut next = || parts.next().ok_or(decode::unexpected("the reply of search.lua"));
        let (down_to, read) = (decode::text(next()?)?, decode::count(next()?)? as usize);
        Ok((down_to, read, decode::entries(next()?)?))
    }

    /// Returns an entry of this origin without the fields that Spoke added, and its epoch, which a device's copy does
    /// not keep.
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

    /// Returns whether the search has reached `lowest` in all epochs that can be there.
    fn is_done(&self, reached: &HashMap<Epoch, bool>) -> bool {
        let is_reached = |epoch: &Epoch| reached.get(epoch).copied().unwrap_or(false);
        // If the copy does not keep epochs, there is only one if this is the second.
        let older = reached.iter().filter(|(epoch, reached)| **epoch < self.epoch && **reached);
        // A copy whose cursor is in an older epoch has nothing of this one.
        let is_in_it = !self.cursor_epoch.is_known() || self.cursor_epoch == self.epoch;
        older.count() as u64 + 1 >= self.epoch.0 && (!is_in_it || is_reached(&self.epoch))
    }
}
