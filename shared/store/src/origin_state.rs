//! What an origin's side remembers, as fields of its state hash.

use redis::Value;

use super::{StoreError, decode};
use spoke_protocol::{
    loss::Checkpoint,
    partner::{Partner, PartnerId},
    seal::SealKey,
    seq::{Epoch, Seq},
    sync::{
        accounting::{Extent, RecordedLosses},
        resume::{EpochStart, HighWaterMark, OriginMemory, OriginStanding},
    },
};

/// The fields that `read` wants the values of, in this order.
pub(super) const FIELDS: [&str; 16] = [
    "out_epoch",
    "out_lives",
    "out_mark",
    "out_mark_added",
    "out_acked",
    "out_tally",
    "out_inherited",
    "out_written",
    "dead_epoch",
    "dead_seq",
    "dead_count",
    "out_lost",
    "out_key",
    "out_given",
    "out_partner",
    "out_place",
];

/// What is remembered of a stream that reaches so far.
pub(super) fn read(extent: Extent, values: Value) -> Result<OriginStanding, StoreError> {
    let mut values = decode::list(values)?.into_iter();
    let mut next = || values.next().filter(|value| *value != Value::Nil);
    let seq = |value: Option<Value>| value.map_or(Ok(Seq::ZERO), decode::seq);
    let number = |value: Option<Value>| value.map_or(Ok(0), decode::count);
    let epoch = Epoch(number(next())?);
    let lives = next().map_or(Ok(String::new()), decode::text)?;
    let lives = lives.split_ascii_whitespace().filter_map(life).collect();
    let mark = HighWaterMark { seq: seq(next())?, added: number(next())? };
    let acked = seq(next())?;
    let tally = next().map_or(Ok(String::new()), decode::text)?.parse().unwrap_or_default();
    let inherited = seq(next())?;
    let written = next().map_or(Ok(String::new()), decode::text)?;
    let dead_epoch = Epoch(number(next())?);
    let buried = seq(next())?;
    let (dead, lost) = (number(next())?, number(next())?);
    let key = next().map(decode::bytes).transpose()?.and_then(|hex| SealKey::from_hex(&hex));
    let given = next().map(decode::seq).transpose()?;
    let partner = next().map(decode::bytes).transpose()?.and_then(|hex| PartnerId::from_hex(&hex));
    let place = next().map_or(Ok(String::new()), decode::text)?;
    let memory = OriginMemory {
        epoch,
        epochs: lives,
        high_water_mark: mark,
        acked: Checkpoint::new(acked, tally),
        dead_lettered: if dead_epoch == epoch { buried } else { Seq::ZERO },
        inherited,
        recorded_losses: RecordedLosses::from_text(&written),
        seal_key: key,
        last_delivered: given,
        partner: partner.map(|id| Partner { id, address: place }),
    };
    Ok(OriginStanding { extent, memory, dead, lost, last_read: None, is_unreadable: false })
}

/// The fields of a life that begins, beside its epoch and the place of the group.
pub(super) fn fields(memory: &OriginMemory) -> Vec<(&'static str, String)> {
    let life =
        |life: &EpochStart| format!("{}:{}:{}", life.epoch, life.start.seq, life.start.tally);
    let lives: Vec<String> = memory.epochs.iter().map(life).collect();
    let mut fields = vec![
        ("out_lives", lives.join(" ")),
        ("out_mark", memory.high_water_mark.seq.to_string()),
        ("out_mark_added", memory.high_water_mark.added.to_string()),
        ("out_acked", memory.acked.seq.to_string()),
        ("out_tally", memory.acked.tally.to_string()),
        ("out_key", memory.seal_key.map(SealKey::to_hex).unwrap_or_default()),
    ];
    fields.extend(notes(memory));
    fields
}

/// The fields that may change within a life, beside those of the scripts.
pub(super) fn notes(memory: &OriginMemory) -> Vec<(&'static str, String)> {
    let mut fields = vec![("out_inherited", memory.inherited.to_string())];
    if let Some(Partner { id, address: place }) = &memory.partner {
        fields.extend([("out_partner", id.to_string()), ("out_place", place.clone())]);
    }
    fields
}

fn life(text: &str) -> Option<EpochStart> {
    let mut parts = text.split(':');
    let (epoch, start, tally) = (parts.next()?, parts.next()?, parts.next()?);
    let start = Checkpoint::new(start.parse().ok()?, tally.parse().ok()?);
    Some(EpochStart { epoch: Epoch(epoch.parse().ok()?), start })
}
