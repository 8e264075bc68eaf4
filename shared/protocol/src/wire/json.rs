//! The JSON bodies of HTTP and of `spoke.v1.json`.
//!
//! An unknown key in a plain request is refused by name, so that a typing error does not become a default. The
//! handshake of the HTTP transport ignores unknown keys, as HELLO and WELCOME do, so that an agent of a newer
//! version keeps working.

mod batch;
mod fields;
mod request;
mod xadd;

use serde::{Deserialize, Serialize};

pub use self::{
    fields::{ByteString, Fields},
    request::{InvalidRequest, RequestBody},
    xadd::XaddBody,
};
use crate::{
    entry::{Digest, Entry, EntryLimits, RejectReason},
    instance::InstanceId,
    loss::{BatchAccount, Loss, Tally},
    message::{Cursor, OriginState, ReceiveLimits},
    partner::PartnerId,
    seal::Seal,
    seq::{Epoch, Seq},
};

/// The header with the generation of the session that a request belongs to. Only the newest is accepted.
pub const GENERATION_HEADER: &str = "spoke-generation";

/// The reason of a refusal if one stream at the hub cannot be used. Other streams are not affected.
pub const UNUSABLE_STREAM: &str = "unusable-stream";
/// The reason word of a refusal because the client exceeds its rate; nothing was changed.
pub const TOO_FAST: &str = "too-fast";

/// The answer of `GET /seq`, and any other cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorBody {
    /// The epoch of the last entry in the copy; 0 if there is none.
    pub epoch: Epoch,
    /// Its seq.
    pub seq: Seq,
    /// Its digest, as 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex_digest")]
    pub digest: Option<Digest>,
    /// The origin's counts at that entry.
    #[serde(default, skip_serializing_if = "Tally::is_unknown")]
    pub tally: Tally,
    /// The origin's seal on it, as 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
    /// Whether the copy has lost its cursor, and a search found this newest entry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub found: bool,
}

/// A batch, like PUSH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchBody {
    /// The epoch of the origin; without it, the epoch that the hub knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The end of the batch before; without it, no gap is looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Seq>,
    /// The new cursor; without it, the last entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<Seq>,
    /// The entries, in ascending order of seq.
    pub entries: Vec<EntryBody>,
    /// The origin's counts and losses.
    #[serde(skip_serializing_if = "is_default")]
    pub account: BatchAccount,
    /// The origin's seal on a cursor at the end of the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

/// An entry from a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryBody {
    /// Its ID in the origin stream.
    pub seq: Seq,
    /// Its fields.
    pub fields: Fields,
}

/// The answer to a single entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedBody {
    /// Its ID in the hub's stream.
    pub id: Seq,
}

/// The answer to a batch, like ACK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAddedBody {
    /// The cursor.
    pub seq: Seq,
    /// The number of entries that were appended.
    pub accepted: u64,
    /// The number of entries that the hub had already.
    pub duplicates: u64,
    /// The entries that are never appended.
    pub refused: Vec<RefusedBody>,
}

/// An entry that is never appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBody {
    /// Its seq.
    pub seq: Seq,
    /// The reason.
    pub reason: RejectReason,
}

/// The answer of `GET /xread`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XreadBody {
    /// The epoch of the out stream.
    pub epoch: Epoch,
    /// The entries, in order; at most a batch.
    #[serde(deserialize_with = "batch::whole")]
    pub entries: Vec<ReadBody>,
    /// The seq for the next request. It covers entries that can never be sent.
    pub seq: Seq,
    /// The origin's counts and losses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub account: BatchAccount,
    /// The origin's seal on a cursor at `seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

/// An entry for a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBody {
    /// Its ID in the hub's out stream.
    pub id: Seq,
    /// Its fields.
    pub fields: Fields,
}

/// The body of `POST /session`, like HELLO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloBody {
    /// The agent's version.
    pub version: String,
    /// The device's out stream.
    pub origin: OriginBody,
    /// The device's in stream.
    pub cursor: CursorBody,
    /// The process, as 16 hex digits. Without it, two devices with one identity are not told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The peer with which the state was agreed, from its [`WelcomeBody`], as 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner: Option<PartnerId>,
}

/// The answer of `POST /session`, like WELCOME.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WelcomeBody {
    /// The hub's version.
    pub version: String,
    /// The generation of this session, for the header `Spoke-Generation`.
    pub generation: u64,
    /// The cursor of this client's entries at the hub.
    pub cursor: CursorBody,
    /// The client's out stream at the hub.
    pub origin: OriginBody,
    /// The position where the hub begins to send.
    pub position: PositionBody,
    /// The limits that the hub grants.
    pub granted: ReceiveLimitsBody,
    /// The hub's clock, in milliseconds since 1970.
    pub server_time_ms: u64,
    /// The identity of this pair of client and hub, as 32 hex digits.
    pub partner: PartnerId,
}

/// The JSON body of an [`OriginState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same as `message::OriginState`")]
pub struct OriginBody {
    pub epoch: Epoch,
    pub start: Seq,
    pub first: Seq,
    pub last: Seq,
    pub added: u64,
    pub acked: Seq,
}

/// The JSON body of a [`Position`](crate::sync::Position).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same as `resume::Position`")]
pub struct PositionBody {
    pub epoch: Epoch,
    pub after: Seq,
    pub tally: Tally,
    #[serde(rename = "joint")]
    pub joins_after: Seq,
    pub inherited: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
}

/// The JSON body of [`ReceiveLimits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the same as `message::ReceiveLimits`")]
pub struct ReceiveLimitsBody {
    pub window_batches: usize,
    pub batch_entries: usize,
    pub batch_bytes: usize,
    pub entry_fields: usize,
    pub entry_value_bytes: usize,
}

impl From<Cursor> for CursorBody {
    fn from(Cursor { epoch, seq, digest, tally, seal, is_found }: Cursor) -> Self {
        Self { epoch, seq, digest, tally, seal, found: is_found }
    }
}

impl From<CursorBody> for Cursor {
    fn from(CursorBody { epoch, seq, digest, tally, seal, found }: CursorBody) -> Self {
        Self { epoch, seq, digest, tally, seal, is_found: found }
    }
}

impl From<OriginState> for OriginBody {
    fn from(OriginState { epoch, start, first, last, added, acked }: OriginState) -> Self {
        Self { epoch, start, first, last, added, acked }
    }
}

impl From<OriginBody> for OriginState {
    fn from(OriginBody { epoch, start, first, last, added, acked }: OriginBody) -> Self {
        Self { epoch, start, first, last, added, acked }
    }
}

impl From<ReceiveLimits> for ReceiveLimitsBody {
    fn from(
        ReceiveLimits { window_batches, batch_entries, batch_bytes, entry }: ReceiveLimits,
    ) -> Self {
        let EntryLimits { fields: entry_fields, value_bytes: entry_value_bytes } = entry;
        Self { window_batches, batch_entries, batch_bytes, entry_fields, entry_value_bytes }
    }
}

impl From<ReceiveLimitsBody> for ReceiveLimits {
    /// Limits each value to 1 up to this side's own limit.
    fn from(body: ReceiveLimitsBody) -> Self {
        let ours = Self::default();
        let limited = |theirs: usize, ours: usize| theirs.min(ours).max(1);
        Self {
            window_batches: limited(body.window_batches, ours.window_batches),
            batch_entries: limited(body.batch_entries, ours.batch_entries),
            batch_bytes: limited(body.batch_bytes, ours.batch_bytes),
            entry: EntryLimits {
                fields: limited(body.entry_fields, ours.entry.fields),
                value_bytes: limited(body.entry_value_bytes, ours.entry.value_bytes),
            },
        }
    }
}

impl From<EntryBody> for Entry {
    fn from(EntryBody { seq, fields }: EntryBody) -> Self {
        Self { seq, fields: fields.0 }
    }
}

impl From<Entry> for EntryBody {
    fn from(Entry { seq, fields }: Entry) -> Self {
        Self { seq, fields: Fields(fields) }
    }
}

impl From<Entry> for ReadBody {
    fn from(Entry { seq, fields }: Entry) -> Self {
        Self { id: seq, fields: Fields(fields) }
    }
}

impl From<ReadBody> for Entry {
    fn from(ReadBody { id, fields }: ReadBody) -> Self {
        Self { seq: id, fields: fields.0 }
    }
}

fn is_default(account: &BatchAccount) -> bool {
    *account == BatchAccount::default()
}

mod hex_digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::entry::Digest;

    pub(super) fn serialize<S: Serializer>(
        digest: &Option<Digest>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => serializer.collect_str(digest),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Digest>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let digest = Digest::from_hex(text.as_bytes());
        digest.map(Some).ok_or_else(|| D::Error::custom("invalid digest: expected 32 hex digits"))
    }
}

#[cfg(test)]
mod tests;
