//! What a request may do with entries: the same over HTTP and over `spoke.v1.json`.

use std::{
    cmp::Ordering,
    pin::pin,
    time::{Duration, Instant},
};

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use spoke_shared::{
    entry::{Direction, Entry, EntryLimits, Unfit},
    limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, BLOCK_MAX},
    link::now_ms,
    refusal::Refusal,
    seq::{Epoch, Seq},
    store::{origin::OriginStore, presence},
    sync::{
        receiver::{Append, Appended, plan},
        sender::split,
    },
    wire::{
        frame::Granted,
        json::{
            AddedForm, BatchAddedForm, BatchForm, CursorForm, EntryForm, RefusedForm, XaddForm,
            XreadForm,
        },
    },
};

use crate::{
    bearer::{Caller, malformed, unauthorized},
    hub::{Hub, stale_epoch, superseded},
    session::token_ended,
};

/// Entries of the first read for an answer.
const FIRST_CHUNK: usize = 4;

/// What `xread` asks for.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Xread {
    /// After which entry; all up to it is acknowledged.
    #[serde(default)]
    pub seq: Seq,
    /// The life of the stream that `seq` belongs to, if the caller knows it.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// How many entries at most.
    #[serde(default)]
    pub count: Option<u64>,
    /// How long to wait for news.
    #[serde(default)]
    pub block_ms: u64,
}

/// The caller's cursor.
///
/// # Errors
/// 503.
pub async fn cursor(hub: &Hub, caller: &Caller) -> Result<CursorForm, Refusal> {
    let copy = hub.copy(&caller.client, None);
    let mut cursor = hub.checked(copy.cursor().await)?;
    // Before its first entry a client is in its first epoch.
    cursor.epoch = cursor.epoch.max(Epoch::FIRST);
    Ok(cursor.into())
}

/// Appends one entry or a batch.
///
/// # Errors
/// 400, 409, 413, 503.
pub async fn xadd(hub: &Hub, caller: &Caller, form: XaddForm) -> Result<Value, Refusal> {
    match form {
        XaddForm::One(entry) => xadd_one(hub, caller, entry).await.map(|added| json!(added)),
        XaddForm::Batch(batch) => xadd_batch(hub, caller, batch).await.map(|added| json!(added)),
    }
}

async fn xadd_one(hub: &Hub, caller: &Caller, form: EntryForm) -> Result<AddedForm, Refusal> {
    let entry = Entry::from(form);
    entry.check(Direction::Up, &EntryLimits::default()).map_err(unfit)?;
    let append = planned(Epoch::UNKNOWN, None, None, vec![entry])?;
    match append_to(hub, caller, &append).await? {
        Done { id: Some(id), accepted: 1, .. } => Ok(AddedForm { id }),
        Done { cursor, .. } => {
            let message = "the hub has this entry already: go on with the next";
            Err(Refusal::new(StatusCode::CONFLICT, "duplicate", message).with_seq(cursor))
        }
    }
}

async fn xadd_batch(
    hub: &Hub,
    caller: &Caller,
    form: BatchForm,
) -> Result<BatchAddedForm, Refusal> {
    if form.entries.len() > BATCH_ENTRIES_MAX {
        let message = format!("a batch holds at most {BATCH_ENTRIES_MAX} entries; send several");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message));
    }
    let entries: Vec<Entry> = form.entries.into_iter().map(Entry::from).collect();
    let append = planned(form.epoch.unwrap_or_default(), form.after, form.through, entries)?;
    let bytes: usize = append.entries.iter().map(Entry::bytes).sum();
    if append.entries.len() > 1 && bytes > BATCH_BYTES_MAX {
        let message = format!("a batch of several entries holds at most {BATCH_BYTES_MAX} bytes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message));
    }
    let Done { cursor, accepted, duplicates, .. } = append_to(hub, caller, &append).await?;
    let refused = append.refused.iter().map(|&(seq, reason)| RefusedForm { seq, reason }).collect();
    Ok(BatchAddedForm { seq: cursor, accepted, duplicates, refused })
}

fn planned(
    epoch: Epoch,
    after: Option<Seq>,
    through: Option<Seq>,
    entries: Vec<Entry>,
) -> Result<Append, Refusal> {
    plan(epoch, after, through, entries, Direction::Up, &EntryLimits::default())
        .map_err(|error| malformed(error.to_string()))
}

struct Done {
    cursor: Seq,
    accepted: u64,
    duplicates: u64,
    id: Option<Seq>,
}

async fn append_to(hub: &Hub, caller: &Caller, append: &Append) -> Result<Done, Refusal> {
    let copy = hub.copy(&caller.client, caller.generation);
    match hub.checked(copy.append(append, now_ms()).await)? {
        Appended::Done { cursor, accepted, duplicates, id } => {
            hub.metrics.accepted.add(accepted);
            hub.metrics.duplicates.add(duplicates);
            hub.metrics.refused.add(append.refused.len() as u64);
            Ok(Done { cursor, accepted, duplicates, id })
        }
        Appended::Superseded => Err(superseded()),
        Appended::StaleEpoch(epoch) => Err(stale_epoch(epoch)),
        Appended::Gap(cursor) => {
            let message = "this batch begins past the cursor, so something before it is missing: \
                           send from the cursor on";
            Err(Refusal::new(StatusCode::CONFLICT, "gap", message).with_seq(cursor))
        }
    }
}

fn unfit(reason: Unfit) -> Refusal {
    let status = match reason {
        Unfit::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Unfit::ReservedField | Unfit::TooManyFields | Unfit::Empty | Unfit::Other => {
            StatusCode::BAD_REQUEST
        }
    };
    Refusal::new(status, reason.word(), format!("this entry can never be carried: {reason}"))
}

/// Reads what is there for the caller after `ask.seq`, and waits for it if asked to.
///
/// # Errors
/// 400, 409, 429, 503.
pub async fn xread(hub: &Hub, caller: &Caller, ask: Xread) -> Result<XreadForm, Refusal> {
    let count = match ask.count.unwrap_or(BATCH_ENTRIES_MAX as u64) {
        0 => return Err(malformed("count is a whole number of 1 or more")),
        count => count.min(BATCH_ENTRIES_MAX as u64) as usize,
    };
    let until = Instant::now() + Duration::from_millis(ask.block_ms).min(BLOCK_MAX);
    let reader = Reader { hub, caller, origin: hub.origin(&caller.client), count };
    let (epoch, buried) = reader.begin(&ask).await?;
    let mut after = ask.seq;
    let first = reader.read(epoch, &mut after, buried).await?;
    if !first.is_empty() || ask.block_ms == 0 {
        return Ok(answer(epoch, first, after));
    }
    let (_place, stopped) = hub.live.wait(&caller.client, caller.generation)?;
    let mut stopped = pin!(stopped);
    let mut token_ended = pin!(token_ended(hub, caller));
    let news = hub.hints.watch(reader.origin.key());
    loop {
        tokio::select! {
            () = news.news() => {}
            () = hub.shutdown.begun() => return Ok(answer(epoch, Vec::new(), after)),
            Ok(_) = &mut stopped => return Err(superseded()),
            _ = &mut token_ended => return Err(unauthorized(hub)),
            () = tokio::time::sleep_until(until.into()) => {
                return Ok(answer(epoch, Vec::new(), after));
            }
        }
        reader.check_generation().await?;
        let entries = reader.read(epoch, &mut after, buried).await?;
        if entries.is_empty() {
            continue;
        }
        // The news may have come before the hint that the session has ended: look, in that order,
        // so that nothing added after its end is given out.
        if hub.checked(hub.sessions.client_of(&caller.token).await)?.is_none() {
            return Err(unauthorized(hub));
        }
        return Ok(answer(epoch, entries, after));
    }
}

fn answer(epoch: Epoch, entries: Vec<Entry>, seq: Seq) -> XreadForm {
    XreadForm { epoch, entries: entries.into_iter().map(Into::into).collect(), seq }
}

struct Reader<'a> {
    hub: &'a Hub,
    caller: &'a Caller,
    origin: OriginStore,
    count: usize,
}

impl Reader<'_> {
    /// Checks that the caller speaks of the stream as it is, and takes its acknowledgement.
    async fn begin(&self, ask: &Xread) -> Result<(Epoch, Seq), Refusal> {
        self.check_generation().await?;
        let standing = self.hub.checked(self.origin.standing().await)?;
        let origin = standing.origin;
        let epoch = origin.epoch.max(Epoch::FIRST);
        if ask.epoch.is_some_and(|asked| asked != epoch) || ask.seq > origin.last {
            return Err(stale_epoch(epoch));
        }
        if ask.seq > origin.acked {
            self.hub.checked(self.origin.record(ask.seq, None).await)?;
        }
        Ok((epoch, standing.buried))
    }

    async fn check_generation(&self) -> Result<(), Refusal> {
        let Some(ours) = self.caller.generation else { return Ok(()) };
        let (redis, keys) = (&self.hub.redis, &self.hub.keys);
        let newest = presence::generation(redis, keys, &self.caller.client).await;
        match self.hub.checked(newest)?.cmp(&ours) {
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(superseded()),
            Ordering::Less => {
                let message = "the hub's store has forgotten this session: begin a new one";
                Err(Refusal::new(StatusCode::CONFLICT, "gap", message))
            }
        }
    }

    /// At most one batch. `after` moves past what was read, entries that can never be sent included.
    async fn read(
        &self,
        epoch: Epoch,
        after: &mut Seq,
        buried: Seq,
    ) -> Result<Vec<Entry>, Refusal> {
        let _turn = self.hub.shares.turn(&self.caller.client).await;
        // Few at first, and then no more than are likely to fit: a thousand of the largest entries
        // would be a gigabyte, read from a connection that all clients share.
        let mut chunk = self.count.min(FIRST_CHUNK);
        let mut entries: Vec<Entry> = Vec::new();
        let granted = Granted::default();
        loop {
            let read = self.hub.checked(self.origin.read(*after, chunk).await)?;
            let is_last = read.len() < chunk;
            let (mut batches, letters) = split(Direction::Down, &granted, epoch, *after, read);
            let Some(first) = batches.pop_front() else { return Ok(entries) };
            let through = first.through;
            let due: Vec<_> =
                letters.into_iter().filter(|(seq, _)| *seq <= through && *seq > buried).collect();
            if !due.is_empty() {
                self.hub.checked(self.origin.bury(epoch, &due).await)?;
            }
            *after = through;
            entries.extend(first.entries);
            let bytes: usize = entries.iter().map(Entry::bytes).sum();
            let is_full = entries.len() >= self.count || bytes >= granted.batch_bytes / 2;
            if is_last || is_full || !batches.is_empty() {
                return Ok(entries);
            }
            let room = (granted.batch_bytes - bytes) / (bytes / entries.len().max(1)).max(1);
            chunk = (chunk * 8).min(room).min(self.count - entries.len()).max(1);
        }
    }
}
