//! The sender's state, kept as fields of one hash.

use redis::Value;

use super::{StoreError, decode};
use spoke_protocol::{
    Checkpoint, Epoch, Partner, PartnerId, SealKey, Seq,
    sync::{EpochStart, Extent, HighWaterMark, OriginMemory, OriginStanding, RecordedLosses},
};

/// The fields whose values [`read`] takes, in this order.
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

/// Decodes the sender's state for a stream of this extent.
pub(super) fn read(extent: Extent, values: Value) -> Result<OriginStanding, StoreError> {
    let mut values = decode::list(values)?.into_iter();
    let mut next = || values.next().filter(|value| *value != Value::Nil);
    let seq = |value: Option<Value>| value.map_or(Ok(Seq::ZERO), decode::seq);
    let number = |value: Option<Value>| value.map_or(Ok(0), decode::count);
    let epoch = Epoch(number(next())?);
    let epochs = next().map_or(Ok(String::new()), decode::text)?;
    let epochs = epochs.split_ascii_whitespace().filter_map(epoch_start).collect();
    let high_water_mark = HighWaterMark { seq: seq(next())?, added: number(next())? };
    let acked = seq(next())?;
    let tally = next().map_or(Ok(String::new()), decode::text)?.parse().unwrap_or_default();
    let inherited = seq(next())?;
    let recorded_losses = next().map_or(Ok(String::new()), decode::text)?;
    let dead_epoch = Epoch(number(next())?);
    let dead_lettered = seq(next())?;
    let (dead, lost) = (number(next())?, number(next())?);
    let seal_key = next().map(decode::bytes).transpose()?.and_then(|hex| SealKey::from_hex(&hex));
    let last_delivered = next().map(decode::seq).transpose()?;
    let partner = next().map(decode::bytes).transpose()?.and_then(|hex| PartnerId::from_hex(&hex));
    let address = next().map_or(Ok(String::new()), decode::text)?;
    let memory = OriginMemory {
        epoch,
        epochs,
        high_water_mark,
        acked: Checkpoint::new(acked, tally),
        dead_lettered: if dead_epoch == epoch { dead_lettered } else { Seq::ZERO },
        inherited,
        recorded_losses: RecordedLosses::from_text(&recorded_losses),
        seal_key,
        last_delivered,
        partner: partner.map(|id| Partner { id, address }),
    };
    Ok(OriginStanding { extent, memory, dead, lost, last_read: None, is_unreadable: false })
}

/// Decodes the extent of a stream, as reach.lua returns it.
pub(super) fn extent(reply: Value) -> Result<Extent, StoreError> {
    let mut parts = decode::list(reply)?.into_iter();
    let mut next = || parts.next().ok_or(decode::unexpected("the extent of a stream"));
    Ok(Extent {
        first: decode::seq(next()?)?,
        last: decode::seq(next()?)?,
        max_deleted: decode::seq(next()?)?,
        length: decode::count(next()?)?,
        added: decode::count(next()?)?,
        last_delivered: decode::seq(next()?).ok(),
    })
}

/// Returns the fields of an epoch that begins, except the epoch itself and the position of the group.
pub(super) fn epoch_fields(memory: &OriginMemory) -> Vec<(&'static str, String)> {
    let text = |at: &EpochStart| format!("{}:{}:{}", at.epoch, at.start.seq, at.start.tally);
    let epochs: Vec<String> = memory.epochs.iter().map(text).collect();
    let mut fields = vec![
        ("out_lives", epochs.join(" ")),
        ("out_mark", memory.high_water_mark.seq.to_string()),
        ("out_mark_added", memory.high_water_mark.added.to_string()),
        ("out_acked", memory.acked.seq.to_string()),
        ("out_tally", memory.acked.tally.to_string()),
        ("out_key", memory.seal_key.map(SealKey::to_hex).unwrap_or_default()),
    ];
    fields.extend(variable_fields(memory));
    fields
}

/// Returns the fields that may change within an epoch, except those of the scripts.
pub(super) fn variable_fields(memory: &OriginMemory) -> Vec<(&'static str, String)> {
    let mut fields = vec![("out_inherited", memory.inherited.to_string())];
    if let Some(Partner { id, address }) = &memory.partner {
        fields.extend([("out_partner", id.to_string()), ("out_place", address.clone())]);
    }
    fields
}

fn epoch_start(text: &str) -> Option<EpochStart> {
    let mut parts = text.split(':');
    let (epoch, start, tally) = (parts.next()?, parts.next()?, parts.next()?);
    let start = Checkpoint::new(start.parse().ok()?, tally.parse().ok()?);
    Some(EpochStart { epoch: Epoch(epoch.parse().ok()?), start })
}
