//! Decodes frames from MessagePack. Every length and number is checked against its bound before it is used.

use super::codes::{AT_LEAST, EXACT, FOUND, INHERITED};
use crate::{
    entry::{Digest, Entry, EntryLimits, RejectReason},
    instance::InstanceId,
    limits::{
        BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, ENTRY_FIELDS_MAX, FIELD_BYTES_MIN, LOSS_COUNT_MAX,
        LOSSES_MAX, REFUSED_MAX, TEXT_BYTES_MAX,
    },
    loss::{BatchAccount, Loss, LossCause, Tally, TallyPrecision},
    message::{
        Ack, Cursor, Features, Goaway, GoawayReason, Hello, OriginState, Push, ReceiveLimits,
        Welcome,
    },
    partner::PartnerId,
    seal::Seal,
    seq::{Epoch, Seq},
    wire::msgpack::{DecodeError, MsgpackReader},
};

pub(super) fn seq(r: &mut MsgpackReader) -> Result<Seq, DecodeError> {
    Ok(Seq::new(r.uint("seq")?, r.uint("seq")?))
}

pub(super) fn epoch(r: &mut MsgpackReader) -> Result<Epoch, DecodeError> {
    Ok(Epoch(r.bounded("epoch", Epoch::MAX.0)?))
}

fn version(r: &mut MsgpackReader) -> Result<(u64, u64, String), DecodeError> {
    Ok((r.uint("major")?, r.uint("minor")?, r.text("version", TEXT_BYTES_MAX)?))
}

fn origin(r: &mut MsgpackReader) -> Result<OriginState, DecodeError> {
    let elements = r.array("an origin")?;
    let origin = OriginState {
        epoch: epoch(r)?,
        start: seq(r)?,
        first: seq(r)?,
        last: seq(r)?,
        added: r.uint("added")?,
        acked: seq(r)?,
    };
    r.skip(elements.checked_sub(10).ok_or(DecodeError::Cut)?)?;
    Ok(origin)
}

fn cursor(r: &mut MsgpackReader) -> Result<Cursor, DecodeError> {
    let elements = r.array("a cursor")?;
    let (epoch, seq) = (epoch(r)?, seq(r)?);
    let digest = r.bytes("digest")?;
    let digest = match digest.len() {
        0 => None,
        _ => Some(Digest(digest.as_ref().try_into().map_err(|_| DecodeError::Bound("digest"))?)),
    };
    let (tally, flags) = tally(r)?;
    let seal = seal(r)?;
    r.skip(elements.checked_sub(9).ok_or(DecodeError::Cut)?)?;
    Ok(Cursor { epoch, seq, digest, tally, seal, is_found: flags & FOUND != 0 })
}

fn seal(r: &mut MsgpackReader) -> Result<Option<Seal>, DecodeError> {
    let seal = r.bytes("seal")?;
    match seal.len() {
        0 => Ok(None),
        _ => Ok(Some(Seal(seal.as_ref().try_into().map_err(|_| DecodeError::Bound("seal"))?))),
    }
}

/// Decodes the counts, and the flags after them.
fn tally(r: &mut MsgpackReader) -> Result<(Tally, u64), DecodeError> {
    let (added, dead, lost) = (r.uint("added")?, r.uint("dead")?, r.uint("lost")?);
    let flags = r.uint("flags")?;
    let known = match flags & (EXACT | AT_LEAST) {
        0 => TallyPrecision::Unknown,
        EXACT => TallyPrecision::Exact,
        _ => TallyPrecision::AtLeast,
    };
    let tally = Tally::checked(added, dead, lost, known);
    Ok((tally.ok_or(DecodeError::Bound("tally"))?, flags))
}

pub(super) fn hello(r: &mut MsgpackReader) -> Result<Hello, DecodeError> {
    let (major, minor, version) = version(r)?;
    let (origin, cursor) = (origin(r)?, cursor(r)?);
    let (features, instance) = (Features(r.uint("features")?), InstanceId(r.uint("instance")?));
    let partner = partner(r)?;
    Ok(Hello { major, minor, version, origin, cursor, features, instance, partner })
}

pub(super) fn welcome(r: &mut MsgpackReader) -> Result<Welcome, DecodeError> {
    let (major, minor, version) = version(r)?;
    let generation = r.uint("generation")?;
    let (cursor, origin) = (cursor(r)?, origin(r)?);
    let granted = granted(r)?;
    let (heartbeat_ms, server_time_ms) = (r.uint("heartbeat")?, r.uint("server time")?);
    let features = Features(r.uint("features")?);
    let partner = partner(r)?;
    Ok(Welcome {
        major,
        minor,
        version,
        generation,
        cursor,
        origin,
        granted,
        heartbeat_ms,
        server_time_ms,
        features,
        partner,
    })
}

fn partner(r: &mut MsgpackReader) -> Result<PartnerId, DecodeError> {
    let id = r.bytes("partner")?;
    match id.len() {
        0 => Ok(PartnerId::UNKNOWN),
        _ => Ok(PartnerId(id.as_ref().try_into().map_err(|_| DecodeError::Bound("partner"))?)),
    }
}

fn granted(r: &mut MsgpackReader) -> Result<ReceiveLimits, DecodeError> {
    let elements = r.array("limits")?;
    let mut limit = |name, ours: usize| Ok((r.uint(name)?.min(ours as u64) as usize).max(1));
    let ours = ReceiveLimits::default();
    let granted = ReceiveLimits {
        window_batches: limit("window", ours.window_batches)?,
        batch_entries: limit("batch entries", ours.batch_entries)?,
        batch_bytes: limit("batch bytes", ours.batch_bytes)?,
        entry: EntryLimits {
            fields: limit("fields", ours.entry.fields)?,
            value_bytes: limit("value bytes", ours.entry.value_bytes)?,
        },
    };
    r.skip(elements.checked_sub(5).ok_or(DecodeError::Cut)?)?;
    Ok(granted)
}

pub(super) fn push(r: &mut MsgpackReader) -> Result<Push, DecodeError> {
    let (epoch, after, through) = (epoch(r)?, seq(r)?, seq(r)?);
    let elements = r.array("entries")?;
    if elements % 3 != 0 || elements / 3 > BATCH_ENTRIES_MAX {
        return Err(DecodeError::Bound("number of entries"));
    }
    let mut entries = Vec::with_capacity(elements / 3);
    let mut last = after;
    // Two empty byte strings take four bytes here, and sixteen times that once decoded.
    let mut fields_left = BATCH_BYTES_MAX / FIELD_BYTES_MIN;
    for _ in 0..elements / 3 {
        let entry = entry(r, last, &mut fields_left)?;
        last = entry.seq;
        entries.push(entry);
    }
    if through < last || through <= after {
        return Err(DecodeError::Bound("through"));
    }
    Ok(Push { epoch, after, through, entries, account: account(r)?, seal: seal(r)? })
}

fn account(r: &mut MsgpackReader) -> Result<BatchAccount, DecodeError> {
    let (tally, flags) = tally(r)?;
    let elements = r.array("losses")?;
    if elements % 7 != 0 || elements / 7 > LOSSES_MAX {
        return Err(DecodeError::Bound("number of losses"));
    }
    let mut losses = Vec::with_capacity(elements / 7);
    for _ in 0..elements / 7 {
        let (epoch, from, to) = (epoch(r)?, seq(r)?, seq(r)?);
        let count = Some(r.bounded("count", LOSS_COUNT_MAX)?).filter(|count| *count > 0);
        let cause = LossCause::from_word(&r.text("cause", TEXT_BYTES_MAX)?);
        losses.push(Loss { epoch, from, to, count, cause });
    }
    Ok(BatchAccount { tally, losses, is_inherited: flags & INHERITED > 0 })
}

/// Decodes an entry. `ms` is the difference from the entry before. `n` is its whole value if `ms` differs, and
/// the difference less one if not, so that no encoding repeats a seq. `fields_left` is the number of fields that
/// the batch may still have.
fn entry(
    r: &mut MsgpackReader,
    before: Seq,
    fields_left: &mut usize,
) -> Result<Entry, DecodeError> {
    let (step, n) = (r.uint("seq")?, r.uint("seq")?);
    let over = DecodeError::Bound("seq");
    let ms = before.ms.checked_add(step).ok_or(over.clone())?;
    let n = match step {
        0 => before.n.checked_add(1).and_then(|next| next.checked_add(n)).ok_or(over)?,
        _ => n,
    };
    let elements = r.array("fields")?;
    // The receiver refuses an entry past its own limit. This bounds the memory that a peer can ask for.
    if elements % 2 != 0 || elements / 2 > 8 * ENTRY_FIELDS_MAX {
        return Err(DecodeError::Bound("number of fields"));
    }
    *fields_left =
        fields_left.checked_sub(elements / 2).ok_or(DecodeError::Bound("number of fields"))?;
    let mut fields = Vec::with_capacity(elements / 2);
    for _ in 0..elements / 2 {
        fields.push((r.bytes("a field")?, r.bytes("a value")?));
    }
    Ok(Entry { seq: Seq::new(ms, n), fields })
}

pub(super) fn ack(r: &mut MsgpackReader) -> Result<Ack, DecodeError> {
    let (epoch, cursor) = (epoch(r)?, seq(r)?);
    let elements = r.array("refused entries")?;
    if elements % 3 != 0 || elements / 3 > REFUSED_MAX {
        return Err(DecodeError::Bound("number of refused entries"));
    }
    let mut refused = Vec::with_capacity(elements / 3);
    for _ in 0..elements / 3 {
        refused.push((seq(r)?, RejectReason::from_word(&r.text("reason", TEXT_BYTES_MAX)?)));
    }
    Ok(Ack { epoch, seq: cursor, refused })
}

pub(super) fn message(r: &mut MsgpackReader) -> Result<String, DecodeError> {
    r.text("message", TEXT_BYTES_MAX)
}

pub(super) fn goaway(r: &mut MsgpackReader) -> Result<Goaway, DecodeError> {
    Ok(Goaway {
        reason: GoawayReason::from_word(&r.text("reason", TEXT_BYTES_MAX)?),
        message: message(r)?,
        wait_ms: r.uint("wait")?,
    })
}
