//! The call of append.lua for one or many batches.

use std::{fmt::Write, sync::LazyLock};

use bytes::Bytes;
use redis::{Cmd, Script, Value, cmd};
use rmp::encode;

use super::{
    Redis, StoreError,
    copy_state::{OrDash, StateStep},
    decode,
    keys::CopyStreams,
    loss_ledger,
    scripts::of_copy,
};
use crate::limits::LOST_MAX_LEN;
use spoke_protocol::{
    ClientId, Direction, Entry, Epoch, Loss, LossCause, Seq,
    sync::{Append, AppendResult},
};

static APPEND: LazyLock<Script> = LazyLock::new(|| of_copy(include_str!("scripts/append.lua")));

const INFALLIBLE: &str = "writing to memory does not fail";

/// One batch of a call.
pub(super) struct AppendBatch {
    /// The hash of its client.
    pub(super) state: String,
    pub(super) generation: String,
    pub(super) epoch: Epoch,
    pub(super) client: ClientId,
    pub(super) join: BatchJoin,
    /// The packed entries and their number.
    pub(super) entries: Vec<u8>,
    pub(super) count: usize,
}

/// How append.lua finds out whether a batch may be appended.
pub(super) enum BatchJoin {
    /// By comparing the state.
    Step(StateStep),
    /// By checking these details.
    Check(Vec<u8>),
}

/// A loss for the ledger, and the seq that the cursor must not have passed.
pub(super) type NewLoss = (Seq, Loss);

impl AppendBatch {
    /// Returns its approximate size in bytes.
    pub(super) fn bytes(&self) -> usize {
        let details = match &self.join {
            BatchJoin::Step(_) => 0,
            BatchJoin::Check(details) => details.len(),
        };
        self.entries.len() + details
    }

    /// Returns how long it holds Redis, as a number of entries: a batch costs about as much as one.
    pub(super) fn weight(&self) -> usize {
        1 + self.count
    }
}

/// Returns the command for these batches, in their order.
pub(super) fn command(streams: &CopyStreams, batches: &[&AppendBatch], now_ms: u64) -> Cmd {
    let mut evalsha = cmd("EVALSHA");
    evalsha.arg(APPEND.get_hash()).arg(2 + batches.len());
    evalsha.arg(&streams.stream).arg(&streams.ledger);
    for batch in batches {
        evalsha.arg(&batch.state);
    }
    let ceiling = match streams.direction {
        Direction::Up => Seq::ceiling(now_ms).to_string(),
        // The clock of a device is not trusted.
        Direction::Down => String::new(),
    };
    evalsha.arg(now_ms).arg(streams.direction.word()).arg(ceiling).arg(LOST_MAX_LEN);
    for batch in batches {
        evalsha.arg(&batch.generation).arg(batch.epoch.0).arg(batch.client.as_str());
        match &batch.join {
            BatchJoin::Step(StateStep { expected, new }) => evalsha.arg(expected).arg(new).arg(""),
            BatchJoin::Check(details) => evalsha.arg("").arg("").arg(details),
        };
        evalsha.arg(&batch.entries);
    }
    evalsha
}

/// Loads the script.
///
/// # Errors
/// [`redis::RedisError`] if Redis fails.
pub(super) async fn load(
    connection: &mut impl redis::aio::ConnectionLike,
) -> redis::RedisResult<()> {
    APPEND.prepare_invoke().load_async(connection).await.map(|_| ())
}

/// Runs the call for one batch, and returns its answer.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub(super) async fn run_one(
    redis: &Redis,
    streams: &CopyStreams,
    batch: &AppendBatch,
    now_ms: u64,
) -> Result<Value, StoreError> {
    let answers = redis.call(&command(streams, &[batch], now_ms), &APPEND).await?;
    let answer = decode::list(answers)?.pop();
    Ok(answer.ok_or(decode::unexpected("an answer for each batch"))?.extract_error()?)
}

/// Packs what append.lua checks.
pub(super) fn details(
    append: &Append,
    (registered_at_ms, is_check): (u64, bool),
    (client, direction): (&ClientId, Direction),
    losses: &[NewLoss],
    now_ms: u64,
) -> Vec<u8> {
    let lines: Vec<_> = losses
        .iter()
        .map(|(seq, loss)| {
            let lost = loss.count.filter(|_| loss.cause != LossCause::Uncertain).unwrap_or(0);
            (seq, lost, loss_ledger::fields((client, direction), loss, now_ms))
        })
        .collect();
    let elements = 10 + lines.iter().map(|(.., fields)| 3 + 2 * fields.len()).sum::<usize>();
    let mut list = TextList::new(elements, 256);
    let (known_epoch, known) = append.known.unwrap_or_default();
    match append.after {
        Some(after) => list.push(after),
        None => list.push(""),
    }
    list.push(append.through);
    list.push(OrDash(&append.digest));
    list.push(OrDash(&append.seal));
    list.push(append.account.tally);
    list.push(known_epoch.0);
    list.push(known);
    list.push(registered_at_ms);
    list.push(u8::from(is_check));
    list.push(append.entries.len());
    for (seq, lost, fields) in lines {
        list.push(seq);
        list.push(lost);
        list.push(2 * fields.len());
        for (name, value) in fields {
            list.push(name);
            list.push(value);
        }
    }
    list.packed
}

/// Packs entries; nothing for no entries.
pub(super) fn pack(entries: &[Entry]) -> Vec<u8> {
    let elements: usize = entries.iter().map(|entry| 2 + 2 * entry.fields.len()).sum();
    if elements == 0 {
        return Vec::new();
    }
    let bytes = entries.iter().map(|entry| 48 + 10 * entry.fields.len() + entry.bytes()).sum();
    let mut list = TextList::new(elements, bytes);
    for entry in entries {
        list.push(entry.seq);
        encode::write_uint(&mut list.packed, 2 * entry.fields.len() as u64).expect(INFALLIBLE);
        for part in entry.fields.iter().flat_map(|(name, value)| [name, value]) {
            list.push_bytes(part);
        }
    }
    list.packed
}

/// A list of texts in MessagePack.
struct TextList {
    packed: Vec<u8>,
    text: String,
}

impl TextList {
    fn new(elements: usize, bytes: usize) -> Self {
        let mut packed = Vec::with_capacity(bytes);
        encode::write_array_len(&mut packed, elements as u32).expect(INFALLIBLE);
        Self { packed, text: String::new() }
    }

    fn push(&mut self, value: impl std::fmt::Display) {
        self.text.clear();
        write!(self.text, "{value}").expect(INFALLIBLE);
        encode::write_str(&mut self.packed, &self.text).expect(INFALLIBLE);
    }

    fn push_bytes(&mut self, bytes: &Bytes) {
        encode::write_str_len(&mut self.packed, bytes.len() as u32).expect(INFALLIBLE);
        self.packed.extend_from_slice(bytes);
    }
}

/// Returns whether a batch was not appended because the state is not the expected one.
pub(super) fn is_unexpected(answer: &Value) -> bool {
    let word = match answer {
        Value::Array(parts) => parts.first(),
        _ => None,
    };
    matches!(word, Some(Value::BulkString(word)) if word == b"unexpected")
}

/// Decodes the answer to a batch that was checked, with the text of the state that it left.
///
/// # Errors
/// [`StoreError`] if Redis refused the batch.
pub(super) fn checked(reply: Value) -> Result<(AppendResult, Option<String>), StoreError> {
    let mut parts = decode::list(reply.extract_error()?)?.into_iter();
    let mut next = || parts.next().ok_or(decode::unexpected("the reply of append.lua"));
    let word = decode::bytes(next()?)?;
    let result = match word.as_ref() {
        b"done" => {
            let result = AppendResult::Done {
                cursor: decode::seq(next()?)?,
                accepted: decode::count(next()?)?,
                duplicates: decode::count(next()?)?,
                id: decode::seq(next()?).ok(),
            };
            return Ok((result, Some(decode::text(next()?)?)));
        }
        b"superseded" => AppendResult::Superseded,
        b"ready" => AppendResult::WouldAppend,
        b"stale-epoch" => AppendResult::StaleEpoch(Epoch(decode::count(next()?)?)),
        b"epoch-ahead" => AppendResult::EpochAhead(Epoch(decode::count(next()?)?)),
        b"seq-ahead" => AppendResult::SeqAhead,
        b"gap" => AppendResult::Gap(decode::seq(next()?)?),
        _ => return Err(decode::unexpected("a known reply of append.lua")),
    };
    Ok((result, None))
}
