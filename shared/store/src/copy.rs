//! An in stream and its cursor, which one script changes together.

use std::{
    fmt::Write,
    sync::LazyLock,
    time::{Duration, Instant},
};

use redis::{Script, ScriptInvocation, Value, cmd};
use rmp::encode;

use super::{
    Redis, StoreError,
    copy_scan::CopySearch,
    decode,
    error::{HASH, STREAM},
    group_commit::CommitWriter,
    key_types::name_wrong_key,
    keys::{DeviceKeys, HubKeys},
    loss_ledger,
    quota::{ClientQuota, SearchFound},
    scripts::{ALLOW_OOM, DENY_OOM, with_seqs},
};
use crate::limits::{LEDGER_WAIT_MAX, LOST_MAX_LEN};
use spoke_protocol::{
    ClientId, Digest, Direction, Entry, Epoch, Loss, LossCause, RejectReason, Seal, Seq,
    message::Cursor,
    sync::{Append, AppendResult, Deduplicated, UncertainRange},
};

static APPEND: LazyLock<Script> =
    LazyLock::new(|| with_seqs(DENY_OOM, include_str!("scripts/append.lua")));

static USABLE: LazyLock<Script> =
    LazyLock::new(|| with_seqs(ALLOW_OOM, include_str!("scripts/usable.lua")));

/// An in stream with its cursor. Cheap enough to clone per session.
#[derive(Clone)]
pub struct CopyStore {
    writer: CommitWriter,
    state: String,
    stream: String,
    ledger: String,
    client: ClientId,
    direction: Direction,
    /// The session that may write; none if writes are not fenced.
    generation: Option<u64>,
    /// When the client was registered, in milliseconds since 1970; 0 if that is not known.
    registered_at_ms: u64,
    quota: ClientQuota,
}

impl CopyStore {
    /// Opens the in stream of a device.
    pub fn device(redis: Redis, keys: &DeviceKeys, client: &ClientId) -> Self {
        Self {
            writer: redis.into(),
            state: keys.state(),
            stream: keys.inbound(),
            ledger: keys.lost(),
            client: client.clone(),
            direction: Direction::Down,
            generation: None,
            registered_at_ms: 0,
            quota: ClientQuota::unlimited(),
        }
    }

    /// Returns the same stream for a new session, which searches the copy again: its Redis may have lost entries
    /// since, and the origin may be in another epoch.
    #[must_use]
    pub fn for_session(&self) -> Self {
        Self { quota: ClientQuota::unlimited(), ..self.clone() }
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
            state: keys.client(client),
            stream: keys.inbound(),
            ledger: keys.lost(),
            client: client.clone(),
            direction: Direction::Up,
            generation,
            registered_at_ms,
            quota,
        }
    }

    /// Reads the cursor of the copy.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub async fn cursor(&self) -> Result<Cursor, StoreError> {
        const FIELDS: [&str; 6] =
            ["in_epoch", "in_seq", "in_digest", "in_tally", "in_seal", "registered_at"];
        let reply = self.writer.read(&self.state, &FIELDS).await?;
        let mut parts = decode::list(reply)?.into_iter();
        let mut next = || parts.next().filter(|value| *value != Value::Nil);
        let cursor = Cursor {
            epoch: Epoch(next().map_or(Ok(0), decode::count)?),
            seq: next().map_or(Ok(Seq::ZERO), decode::seq)?,
            digest: next().map(decode::bytes).transpose()?.and_then(|hex| Digest::from_hex(&hex)),
            tally: next().map_or(Ok(String::new()), decode::text)?.parse().unwrap_or_default(),
            seal: next().map(decode::bytes).transpose()?.and_then(|hex| Seal::from_hex(&hex)),
            is_found: false,
        };
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
            stream: &self.stream,
            client: &self.client,
            direction: self.direction,
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
        let result = self.writer.redis().invoke(USABLE.key(&self.stream).key(&self.ledger)).await;
        self.name_wrong_key(result).await
    }

    async fn name_wrong_key<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let keys = [(self.stream.as_str(), STREAM), (&self.ledger, STREAM), (&self.state, HASH)];
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
        let is_remembered = self.generation.is_some() || self.direction == Direction::Down;
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
                none.insert(SearchFound { searched_for, lowest, at, reached, index })
            }
        };
        Ok(Ok(found.index.deduplicate(append.entries.clone())))
    }

    async fn cursor_epoch(&self) -> Result<Epoch, StoreError> {
        let known = self.writer.read(&self.state, &["in_epoch"]).await?;
        let known = decode::list(known)?.into_iter().find(|value| *value != Value::Nil);
        Ok(Epoch(known.map_or(Ok(0), decode::count)?))
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
        let mut script = APPEND.key(&self.state);
        script.key(&self.stream).key(&self.ledger);
        script.arg(self.generation.map(|generation| generation.to_string()).unwrap_or_default());
        script.arg(append.epoch.0);
        script.arg(append.after.map(|seq| seq.to_string()).unwrap_or_default());
        script.arg(append.through.to_string());
        script.arg(append.digest.map(|digest| digest.to_string()).unwrap_or_default());
        script.arg(append.seal.map(|seal| seal.to_string()).unwrap_or_default());
        script.arg(append.account.tally.to_string());
        script.arg(now_ms).arg(self.client.as_str());
        script.arg(self.direction.word());
        let (known_epoch, known) = append.known.unwrap_or_default();
        script.arg(known_epoch.0).arg(known.to_string());
        let ceiling = match self.direction {
            Direction::Up => Seq::ceiling(now_ms).to_string(),
            // The clock of a device is not trusted.
            Direction::Down => String::new(),
        };
        script.arg(ceiling).arg(self.registered_at_ms).arg(u8::from(entries.is_none()));
        script.arg(LOST_MAX_LEN).arg(entries.unwrap_or_default().len());
        self.add_losses(&mut script, &losses, now_ms);
        script.arg(pack(entries.unwrap_or_default()));
        appended(self.writer.invoke(&script).await?)
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
    fn losses(&self, append: &Append, uncertain: Option<Loss>) -> Vec<(Seq, Loss)> {
        let start = append.after.map_or(append.through, Seq::after);
        let refused = |&(seq, _): &(Seq, RejectReason)| {
            let (epoch, count, cause) = (append.epoch, Some(1), LossCause::Refused);
            (seq, Loss { epoch, from: seq, to: seq, count, cause })
        };
        let reported = append.account.losses.iter().copied().chain(uncertain);
        reported.map(|loss| (start, loss)).chain(append.refused.iter().map(refused)).collect()
    }

    fn add_losses(&self, script: &mut ScriptInvocation<'_>, losses: &[(Seq, Loss)], now_ms: u64) {
        script.arg(losses.len());
        for (seq, loss) in losses {
            let fields = loss_ledger::fields((&self.client, self.direction), loss, now_ms);
            let lost = loss.count.filter(|_| loss.cause != LossCause::Uncertain);
            script.arg(seq.to_string()).arg(lost.unwrap_or(0)).arg(2 * fields.len());
            script.arg(&fields[..]);
        }
    }
}

/// Packs the entries for append.lua; nothing for no entries.
fn pack(entries: &[Entry]) -> Vec<u8> {
    const INFALLIBLE: &str = "writing to memory does not fail";
    let elements: usize = entries.iter().map(|entry| 2 + 2 * entry.fields.len()).sum();
    let bytes: usize =
        entries.iter().map(|entry| 48 + 10 * entry.fields.len() + entry.bytes()).sum();
    let mut packed = Vec::with_capacity(bytes);
    if elements == 0 {
        return packed;
    }
    encode::write_array_len(&mut packed, elements as u32).expect(INFALLIBLE);
    let mut seq = String::new();
    for entry in entries {
        seq.clear();
        write!(seq, "{}", entry.seq).expect(INFALLIBLE);
        encode::write_str(&mut packed, &seq).expect(INFALLIBLE);
        encode::write_uint(&mut packed, 2 * entry.fields.len() as u64).expect(INFALLIBLE);
        for part in entry.fields.iter().flat_map(|(name, value)| [name, value]) {
            encode::write_str_len(&mut packed, part.len() as u32).expect(INFALLIBLE);
            packed.extend_from_slice(part);
        }
    }
    packed
}

fn appended(reply: Value) -> Result<AppendResult, StoreError> {
    let mut parts = decode::list(reply)?.into_iter();
    let mut next = || parts.next().ok_or(decode::unexpected("the reply of append.lua"));
    let word = decode::bytes(next()?)?;
    Ok(match word.as_ref() {
        b"done" => AppendResult::Done {
            cursor: decode::seq(next()?)?,
            accepted: decode::count(next()?)?,
            duplicates: decode::count(next()?)?,
            id: decode::seq(next()?).ok(),
        },
        b"superseded" => AppendResult::Superseded,
        b"ready" => AppendResult::WouldAppend,
        b"stale-epoch" => AppendResult::StaleEpoch(Epoch(decode::count(next()?)?)),
        b"epoch-ahead" => AppendResult::EpochAhead(Epoch(decode::count(next()?)?)),
        b"seq-ahead" => AppendResult::SeqAhead,
        b"gap" => AppendResult::Gap(decode::seq(next()?)?),
        _ => return Err(decode::unexpected("a known reply of append.lua")),
    })
}
