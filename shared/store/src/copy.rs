//! An in stream and its cursor, which move together in one script and never apart.

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
    client_id::ClientId,
    entry::{Digest, Direction, Entry, RejectReason},
    loss::{Loss, LossCause},
    message::Cursor,
    seal::Seal,
    seq::{Epoch, Seq},
    sync::{
        dedup::{Deduplicated, UncertainRange},
        receiver::{Append, AppendResult},
    },
};

static APPEND: LazyLock<Script> =
    LazyLock::new(|| with_seqs(DENY_OOM, include_str!("scripts/append.lua")));

static USABLE: LazyLock<Script> =
    LazyLock::new(|| with_seqs(ALLOW_OOM, include_str!("scripts/usable.lua")));

/// One in stream with its cursor. Cheap enough to clone per session.
#[derive(Clone)]
pub struct CopyStore {
    writer: CommitWriter,
    state: String,
    stream: String,
    ledger: String,
    client: ClientId,
    direction: Direction,
    /// The session that may still write; none where writes are not fenced.
    generation: Option<u64>,
    /// When the client was registered, in milliseconds since 1970; 0 where that is not known.
    registered_at_ms: u64,
    guard: ClientQuota,
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
            registered_at_ms: 0,
            guard: ClientQuota::unlimited(),
        }
    }

    /// The same for a new session, which looks anew for what the copy holds: its Redis may have
    /// forgotten some of it since, and the origin may be in another life.
    #[must_use]
    pub fn for_session(&self) -> Self {
        Self { guard: ClientQuota::unlimited(), ..self.clone() }
    }

    /// The in stream of the hub, for what one client sends.
    pub fn hub(
        writer: CommitWriter,
        keys: &HubKeys,
        (client, registered_at_ms): (&ClientId, u64),
        generation: Option<u64>,
        guard: ClientQuota,
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
            guard,
        }
    }

    /// Where the copy stands.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
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
        // As append.lua has it: a client that was registered again begins anew.
        let is_reset = next().map_or(Ok(0), decode::count)? < self.registered_at_ms;
        if is_reset && cursor.epoch.is_known() {
            return Ok(Cursor { epoch: cursor.epoch.next(), ..Cursor::default() });
        }
        Ok(cursor)
    }

    /// The same; where there is no cursor, the newest entry of the origin that a search finds in its place.
    /// A client that has searched too often is believed to have none.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn cursor_or_search(&self) -> Result<Cursor, StoreError> {
        let cursor = self.cursor().await?;
        if cursor.epoch.is_known() {
            return Ok(cursor);
        }
        let Ok(_turn) = self.guard.take_search().await else { return Ok(cursor) };
        let found = match self.search(Epoch::MAX, Epoch::UNKNOWN, Seq::ZERO).newest().await {
            // Nothing of this origin is in what is no stream.
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

    /// How many entries are known to be lost on their way here.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn lost_entries(&self) -> Result<u64, StoreError> {
        let mut hget = cmd("HGET");
        hget.arg(&self.state).arg("in_lost");
        let lost: Option<u64> = hget.query_async(&mut self.writer.redis().connection()).await?;
        Ok(lost.unwrap_or(0))
    }

    /// Appends what is past the cursor and moves it, in one step.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it. After one that `is_transient` the batch may or may not be
    /// in the copy; to send it again is safe.
    pub async fn append(&self, append: &Append, now_ms: u64) -> Result<AppendResult, StoreError> {
        let appended = self.try_append(append, now_ms).await;
        self.name_wrong_key(appended).await
    }

    /// Whether what keeps it from being used is over: its key and the ledger's hold streams, with IDs left.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it, and what is in the way.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let probed = self.writer.redis().invoke(USABLE.key(&self.stream).key(&self.ledger)).await;
        self.name_wrong_key(probed).await
    }

    async fn name_wrong_key<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let keys = [(self.stream.as_str(), STREAM), (&self.ledger, STREAM), (&self.state, HASH)];
        name_wrong_key(self.writer.redis(), &keys, result).await
    }

    async fn try_append(&self, append: &Append, now_ms: u64) -> Result<AppendResult, StoreError> {
        if !append.account.is_inherited || append.entries.is_empty() {
            return self.run(append, Some(&append.entries), None, now_ms).await;
        }
        // The search is dear: not for a batch that would not be taken.
        match self.run(append, None, None, now_ms).await? {
            AppendResult::WouldAppend => {}
            refused => return Ok(refused),
        }
        let sifted = match self.sift(append).await? {
            Ok(sifted) => sifted,
            Err(wait) => return Ok(AppendResult::RateLimited(wait)),
        };
        let uncertain = sifted.uncertain.map(|UncertainRange { first, last, count }| Loss {
            epoch: append.epoch,
            from: first,
            to: last,
            count: Some(count),
            cause: LossCause::Uncertain,
        });
        let mut appended = self.run(append, Some(&sifted.entries), uncertain, now_ms).await?;
        if let AppendResult::Done { duplicates, cursor, .. } = &mut appended {
            *duplicates += sifted.duplicates;
            if let Some(found) = &mut *self.guard.found.lock().await {
                found.handle_done(append.epoch, *cursor, sifted);
            }
        }
        Ok(appended)
    }

    /// The inner error: how long to stay away, where the client has searched too often.
    async fn sift(&self, append: &Append) -> Result<Result<Deduplicated, Duration>, StoreError> {
        let of = (self.generation, append.epoch);
        let mut found = self.guard.found.lock().await;
        // Another session looks anew, unless nothing was found: its Redis may have forgotten some since. A
        // request without a session has none to remember it.
        let is_remembered = self.generation.is_some() || self.direction == Direction::Down;
        if let Some(found) = found.as_ref().filter(|found| found.of == of && is_remembered) {
            return Ok(Ok(found.held.deduplicate(append.entries.clone())));
        }
        let cursor_epoch = self.cursor_epoch().await?;
        let lowest = append.entries.first().map_or(Seq::ZERO, |entry| entry.seq);
        let of_this = (append.epoch, lowest);
        let found = match &mut *found {
            Some(found)
                if is_remembered && found.answers(of_this, (cursor_epoch, append.after)) =>
            {
                found
            }
            none => {
                let _turn = match self.guard.take_search().await {
                    Ok(turn) => turn,
                    Err(wait) => return Ok(Err(wait)),
                };
                let search = self.search(append.epoch, cursor_epoch, lowest);
                let (held, at, reached) = (search.run().await?, Instant::now(), Seq::ZERO);
                none.insert(SearchFound { of, lowest, at, reached, held })
            }
        };
        Ok(Ok(found.held.deduplicate(append.entries.clone())))
    }

    async fn cursor_epoch(&self) -> Result<Epoch, StoreError> {
        let known = self.writer.read(&self.state, &["in_epoch"]).await?;
        let known = decode::list(known)?.into_iter().find(|value| *value != Value::Nil);
        Ok(Epoch(known.map_or(Ok(0), decode::count)?))
    }

    /// Without entries only looks whether the batch would be taken.
    async fn run(
        &self,
        append: &Append,
        entries: Option<&[Entry]>,
        uncertain: Option<Loss>,
        now_ms: u64,
    ) -> Result<AppendResult, StoreError> {
        let losses = self.losses(append, uncertain);
        if let Err(wait) = self.wait_for_lines(losses.len()).await {
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
            // The clock of a device is not to be trusted.
            Direction::Down => String::new(),
        };
        script.arg(ceiling).arg(self.registered_at_ms).arg(u8::from(entries.is_none()));
        script.arg(LOST_MAX_LEN).arg(entries.unwrap_or_default().len());
        self.add_losses(&mut script, &losses, now_ms);
        script.arg(pack(entries.unwrap_or_default()));
        appended(self.writer.invoke(&script).await?)
    }

    async fn wait_for_lines(&self, lines: usize) -> Result<(), Duration> {
        loop {
            match self.guard.take_lines(lines) {
                Err(wait) if wait <= LEDGER_WAIT_MAX => tokio::time::sleep(wait).await,
                taken => return taken,
            }
        }
    }

    /// Each with the seq that the cursor must not have passed: what was lost before a batch is news
    /// until its front is here.
    fn losses(&self, append: &Append, uncertain: Option<Loss>) -> Vec<(Seq, Loss)> {
        let front = append.after.map_or(append.through, Seq::after);
        let refused = |&(seq, _): &(Seq, RejectReason)| {
            let (epoch, count, cause) = (append.epoch, Some(1), LossCause::Refused);
            (seq, Loss { epoch, from: seq, to: seq, count, cause })
        };
        let told = append.account.losses.iter().copied().chain(uncertain);
        told.map(|loss| (front, loss)).chain(append.refused.iter().map(refused)).collect()
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

/// The entries as append.lua takes them; nothing for none.
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
    let mut next = || parts.next().ok_or(decode::unexpected("the answer of append.lua"));
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
        _ => return Err(decode::unexpected("a word of append.lua")),
    })
}
