//! An in stream and its cursor, which one script changes together.

use std::{
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{Script, Value, cmd};

use super::{
    Redis, StoreError,
    append_call::{self, AppendBatch, BatchJoin, NewLoss},
    copy_scan::CopySearch,
    copy_state::{self, CopyState, StateChain},
    decode,
    error::{HASH, STREAM},
    group_commit::CommitWriter,
    key_types::name_wrong_key,
    keys::{CopyStreams, DeviceKeys, HubKeys},
    quota::{ClientQuota, SearchFound},
    scripts::{ALLOW_OOM, with_seqs},
};
use crate::limits::LEDGER_WAIT_MAX;
use spoke_protocol::{
    ClientId, Direction, Entry, Epoch, Loss, LossCause, RejectReason, Seq,
    message::Cursor,
    sync::{Append, AppendResult, Deduplicated, UncertainRange},
};

static USABLE: LazyLock<Script> =
    LazyLock::new(|| with_seqs(ALLOW_OOM, include_str!("scripts/usable.lua")));

/// An in stream with its cursor. Cheap enough to clone per session.
#[derive(Clone)]
pub struct CopyStore {
    writer: CommitWriter,
    streams: Arc<CopyStreams>,
    state: String,
    client: ClientId,
    /// The session that may write; none if writes are not fenced.
    generation: Option<u64>,
    /// When the client was registered, in milliseconds since 1970; 0 if that is not known.
    registered_at_ms: u64,
    quota: ClientQuota,
    chain: Arc<Mutex<StateChain>>,
}

impl CopyStore {
    /// Opens the in stream of a device.
    pub fn device(redis: Redis, keys: &DeviceKeys, client: &ClientId) -> Self {
        Self {
            writer: redis.into(),
            streams: Arc::new(CopyStreams {
                stream: keys.inbound(),
                ledger: keys.lost(),
                direction: Direction::Down,
            }),
            state: keys.state(),
            client: client.clone(),
            generation: None,
            registered_at_ms: 0,
            quota: ClientQuota::unlimited(),
            chain: Arc::default(),
        }
    }

    /// Returns the same stream for a new session, which searches the copy again: its Redis may have lost entries
    /// since, and the origin may be in another epoch.
    #[must_use]
    pub fn for_session(&self) -> Self {
        Self { quota: ClientQuota::unlimited(), chain: Arc::default(), ..self.clone() }
    }

    /// Opens the in stream of the hub for the entries of one client.
    pub fn hub(
        writer: CommitWriter,
        keys: &HubKeys,
        (client, registered_at_ms): (&ClientId, u64),
        generation: Option<u64>,
        quota: ClientQuota,
    ) -> Self {
        Self {
            writer,
            streams: keys.copy_streams(),
            state: keys.client(client),
            client: client.clone(),
            generation,
            registered_at_ms,
            quota,
            chain: Arc::default(),
        }
    }

    /// Reads the cursor of the copy.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub async fn cursor(&self) -> Result<Cursor, StoreError> {
        let reply = self.writer.read(&self.state, &[copy_state::FIELD, "registered_at"]).await?;
        let mut parts = decode::list(reply)?.into_iter();
        let mut next = || parts.next().filter(|value| *value != Value::Nil);
        let CopyState { epoch, seq, digest, tally, seal, .. } = state(next())?;
        let cursor = Cursor { epoch, seq, digest, tally, seal, is_found: false };
        // As in append.lua: a client that was registered again starts from the beginning.
        let is_reset = next().map_or(Ok(0), decode::count)? < self.registered_at_ms;
        if is_reset && cursor.epoch.is_known() {
            return Ok(Cursor { epoch: cursor.epoch.next(), ..Cursor::default() });
        }
        Ok(cursor)
    }

    /// Reads the cursor; without one, searches the newest entry of the origin. A client that has used up its
    /// searches has no cursor then.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub async fn cursor_or_search(&self) -> Result<Cursor, StoreError> {
        let cursor = self.cursor().await?;
        if cursor.epoch.is_known() {
            return Ok(cursor);
        }
        let Ok(_permit) = self.quota.take_search().await else { return Ok(cursor) };
        let found = match self.search(Epoch::MAX, Epoch::UNKNOWN, Seq::ZERO).newest().await {
            // A key of another type has no entry of this origin.
            Err(StoreError::WrongType { .. }) => None,
            found => found?,
        };
        Ok(found.map_or(cursor, |(epoch, entry)| Cursor {
            epoch,
            seq: entry.seq,
            digest: Some(entry.digest()),
            is_found: true,
            ..Cursor::default()
        }))
    }

    fn search(&self, epoch: Epoch, cursor_epoch: Epoch, lowest: Seq) -> CopySearch<'_> {
        CopySearch {
            redis: self.writer.redis(),
            stream: &self.streams.stream,
            client: &self.client,
            direction: self.streams.direction,
            epoch,
            cursor_epoch,
            lowest,
        }
    }

    /// Returns the number of entries that are known to be lost on the way to this copy.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub async fn lost_entries(&self) -> Result<u64, StoreError> {
        let mut hget = cmd("HGET");
        hget.arg(&self.state).arg("in_lost");
        let lost: Option<u64> = hget.query_async(&mut self.writer.redis().connection()).await?;
        Ok(lost.unwrap_or(0))
    }

    /// Appends the entries past the cursor and moves the cursor, in one step.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails. If it [is transient](StoreError::is_transient), the batch may or may not be in
    /// the copy; sending it again is safe.
    pub async fn append(&self, append: &Append, now_ms: u64) -> Result<AppendResult, StoreError> {
        let result = self.try_append(append, now_ms).await;
        self.name_wrong_key(result).await
    }

    /// Checks that the copy can be written: its key and the ledger's are streams with IDs left, or missing.
    ///
    /// # Errors
    /// [`StoreError::WrongType`] or [`StoreError::Exhausted`] if a key cannot be written; another [`StoreError`] if
    /// Redis fails.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let result = self
            .writer
            .redis()
            .invoke(USABLE.key(&self.streams.stream).key(&self.streams.ledger))
            .await;
        self.name_wrong_key(result).await
    }

    async fn name_wrong_key<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let keys = [
            (self.streams.stream.as_str(), STREAM),
            (&self.streams.ledger, STREAM),
            (&self.state, HASH),
        ];
        name_wrong_key(self.writer.redis(), &keys, result).await
    }

    async fn try_append(&self, append: &Append, now_ms: u64) -> Result<AppendResult, StoreError> {
        if !append.account.is_inherited || append.entries.is_empty() {
            return self.run(append, Some(&append.entries), None, now_ms).await;
        }
        // The search is expensive: first check that the batch would be accepted.
        match self.run(append, None, None, now_ms).await? {
            AppendResult::WouldAppend => {}
            refused => return Ok(refused),
        }
        let batch = match self.deduplicate(append).await? {
            Ok(batch) => batch,
            Err(wait) => return Ok(AppendResult::RateLimited(wait)),
        };
        let uncertain = batch.uncertain.map(|UncertainRange { first, last, count }| Loss {
            epoch: append.epoch,
            from: first,
            to: last,
            count: Some(count),
            cause: LossCause::Uncertain,
        });
        let mut appended = self.run(append, Some(&batch.entries), uncertain, now_ms).await?;
        if let AppendResult::Done { duplicates, cursor, .. } = &mut appended {
            *duplicates += batch.duplicates;
            if let Some(found) = &mut *self.quota.found.lock().await {
                found.handle_done(append.epoch, *cursor, batch);
            }
        }
        Ok(appended)
    }

    /// Returns as the inner error how long to wait, if the client has used up its searches.
    async fn deduplicate(
        &self,
        append: &Append,
    ) -> Result<Result<Deduplicated, Duration>, StoreError> {
        let searched_for = (self.generation, append.epoch);
        let mut found = self.quota.found.lock().await;
        // Another session searches again, unless nothing was found: its Redis may have lost entries since. A
        // request without a session has nothing to remember a search.
        let is_remembered = self.generation.is_some() || self.streams.direction == Direction::Down;
        if let Some(found) =
            found.as_ref().filter(|found| found.searched_for == searched_for && is_remembered)
        {
            return Ok(Ok(found.index.deduplicate(append.entries.clone())));
        }
        let cursor_epoch = self.cursor_epoch().await?;
        let lowest = append.entries.first().map_or(Seq::ZERO, |entry| entry.seq);
        let wanted = (append.epoch, lowest);
        let found = match &mut *found {
            Some(found) if is_remembered && found.answers(wanted, (cursor_epoch, append.after)) => {
                found
            }
            none => {
                let _permit = match self.quota.take_search().await {
                    Ok(permit) => permit,
                    Err(wait) => return Ok(Err(wait)),
                };
                let search = self.search(append.epoch, cursor_epoch, lowest);
                let (index, at, reached) = (search.run().await?, Instant::now(), Seq::ZERO);
                none.insert(Box::new(SearchFound { searched_for, lowest, at, reached, index }))
            }
        };
        Ok(Ok(found.index.deduplicate(append.entries.clone())))
    }

    async fn cursor_epoch(&self) -> Result<Epoch, StoreError> {
        let known = self.writer.read(&self.state, &[copy_state::FIELD]).await?;
        let known = decode::list(known)?.into_iter().find(|value| *value != Value::Nil);
        Ok(state(known)?.epoch)
    }

    /// Runs append.lua; without entries, only checks whether the batch would be accepted.
    async fn run(
        &self,
        append: &Append,
        entries: Option<&[Entry]>,
        uncertain: Option<Loss>,
        now_ms: u64,
    ) -> Result<AppendResult, StoreError> {
        let losses = self.losses(append, uncertain);
        if let Err(wait) = self.wait_for_ledger_quota(losses.len()).await {
            return Ok(AppendResult::RateLimited(wait));
        }
        let followed = entries.filter(|_| losses.is_empty()).map(<[Entry]>::len);
        let check = || {
            let details = append_call::details(
                append,
                (self.registered_at_ms, entries.is_none()),
                (&self.client, self.streams.direction),
                &losses,
                now_ms,
            );
            self.batch(append, entries, BatchJoin::Check(details))
        };
        let make = || match self.chain().begin(append, (self.streams.direction, followed), now_ms) {
            Some(step) => self.batch(append, entries, BatchJoin::Step(step)),
            None => check(),
        };
        let mut appended = self.writer.append(&self.streams, make, now_ms).await;
        if appended.as_ref().is_ok_and(append_call::is_unexpected) {
            appended = self.writer.append(&self.streams, check, now_ms).await;
        }
        let answer = appended.inspect_err(|_| self.chain().handle_answered())?;
        if let Value::BulkString(id) = answer {
            self.chain().handle_answered();
            let accepted = entries.unwrap_or_default().len() as u64;
            let id = Seq::from_bytes(&id).ok();
            return Ok(AppendResult::Done { cursor: append.through, accepted, duplicates: 0, id });
        }
        let answered = append_call::checked(answer);
        let (result, state) = answered.inspect_err(|_| self.chain().handle_answered())?;
        self.chain().handle_checked(&result, state);
        Ok(result)
    }

    fn batch(&self, append: &Append, entries: Option<&[Entry]>, join: BatchJoin) -> AppendBatch {
        let entries = entries.unwrap_or_default();
        AppendBatch {
            state: self.state.clone(),
            generation: self.generation.map(|it| it.to_string()).unwrap_or_default(),
            epoch: append.epoch,
            client: self.client.clone(),
            join,
            count: entries.len(),
            entries: append_call::pack(entries),
        }
    }

    fn chain(&self) -> MutexGuard<'_, StateChain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_for_ledger_quota(&self, lines: usize) -> Result<(), Duration> {
        loop {
            match self.quota.take_lines(lines) {
                Err(wait) if wait <= LEDGER_WAIT_MAX => tokio::time::sleep(wait).await,
                taken => return taken,
            }
        }
    }

    /// Returns the losses, each with the seq that the cursor must not have passed: losses before a batch are new
    /// until the start of the batch is in the copy.
    fn losses(&self, append: &Append, uncertain: Option<Loss>) -> Vec<NewLoss> {
        let start = append.after.map_or(append.through, Seq::after);
        let refused = |&(seq, _): &(Seq, RejectReason)| {
            let (epoch, count, cause) = (append.epoch, Some(1), LossCause::Refused);
            (seq, Loss { epoch, from: seq, to: seq, count, cause })
        };
        let reported = append.account.losses.iter().copied().chain(uncertain);
        reported.map(|loss| (start, loss)).chain(append.refused.iter().map(refused)).collect()
    }
}

/// Decodes the state of a copy; one without a state is at its beginning.
fn state(field: Option<Value>) -> Result<CopyState, StoreError> {
    let Some(field) = field else { return Ok(CopyState::default()) };
    Ok(decode::text(field)?.parse::<CopyState>()?)
}
