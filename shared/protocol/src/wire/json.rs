//! The JSON forms of HTTP and of `spoke.v1.json`.
//!
//! A key that a plain request does not have is refused, and named: a slip must not be a default. The
//! handshake of the HTTP transport passes over what it does not know, as HELLO and WELCOME do, so
//! that an agent one version newer keeps working.

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

/// The header that says which session a request belongs to: a generation. One that is not the
/// newest is refused.
pub const GENERATION_HEADER: &str = "spoke-generation";

/// The reason of a refusal where one stream at the hub cannot be used as it is: what goes another way goes on.
pub const UNUSABLE_STREAM: &str = "unusable-stream";

/// The answer of `GET /seq`, and a cursor wherever one is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorBody {
    /// The epoch of the last entry the copy holds; 0 if it holds none.
    pub epoch: Epoch,
    /// Its seq.
    pub seq: Seq,
    /// Its digest, as 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex_digest")]
    pub digest: Option<Digest>,
    /// The origin's count at that entry.
    #[serde(default, skip_serializing_if = "Tally::is_unknown")]
    pub tally: Tally,
    /// The origin's seal on it, as 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
    /// The copy has lost its cursor, and this is the newest entry that it found.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub found: bool,
}

/// A batch, as PUSH is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchBody {
    /// The life of the origin; without it the one that the hub knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Where the batch before ended; without it no gap is looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Seq>,
    /// Where the cursor goes; without it to the last entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<Seq>,
    /// The entries, in ascending order of seq.
    pub entries: Vec<EntryBody>,
    /// What it says of its origin beside them.
    #[serde(skip_serializing_if = "is_silent")]
    pub account: BatchAccount,
    /// The origin's seal on a cursor at the batch's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

/// One entry on its way up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryBody {
    /// Its ID in the stream where it was born.
    pub seq: Seq,
    /// Its fields.
    pub fields: Fields,
}

/// The answer to one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedBody {
    /// Its ID in the hub's stream.
    pub id: Seq,
}

/// The answer to a batch, as ACK is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAddedBody {
    /// The cursor.
    pub seq: Seq,
    /// How many entries were appended.
    pub accepted: u64,
    /// How many the hub had already.
    pub duplicates: u64,
    /// What will never be appended.
    pub refused: Vec<RefusedBody>,
}

/// One entry that will never be appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedBody {
    /// Its seq.
    pub seq: Seq,
    /// Why.
    pub reason: RejectReason,
}

/// The answer of `GET /xread`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XreadBody {
    /// The life of the out stream that these belong to.
    pub epoch: Epoch,
    /// The entries, in order: a batch at most.
    #[serde(deserialize_with = "batch::whole")]
    pub entries: Vec<ReadBody>,
    /// What to ask after next; it covers entries that could never be sent.
    pub seq: Seq,
    /// What the batch says of its origin beside the entries.
    #[serde(default, skip_serializing_if = "is_silent")]
    pub account: BatchAccount,
    /// The origin's seal on a cursor at `seq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

/// One entry on its way down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBody {
    /// Its ID in the hub's out stream.
    pub id: Seq,
    /// Its fields.
    pub fields: Fields,
}

/// The body of `POST /session`, as HELLO is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloBody {
    /// The agent's version.
    pub version: String,
    /// The device's out stream.
    pub origin: OriginBody,
    /// The device's in stream.
    pub cursor: CursorBody,
    /// Which process it is, as 16 hex digits. One that does not say is told apart from nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// What the client is to the hub that its streams stand with, as a `WelcomeBody` told; 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner: Option<PartnerId>,
}

/// The answer of `POST /session`, as WELCOME is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WelcomeBody {
    /// The hub's version.
    pub version: String,
    /// The generation of this session, for the header `Spoke-Generation`.
    pub generation: u64,
    /// How far this client's entries have come.
    pub cursor: CursorBody,
    /// The client's out stream at the hub.
    pub origin: OriginBody,
    /// Where the hub begins to send.
    pub position: PositionBody,
    /// What the hub takes.
    pub granted: ReceiveLimitsBody,
    /// The hub's clock, in milliseconds since 1970.
    pub server_time_ms: u64,
    /// What the client is to this hub, as 32 hex digits.
    pub partner: PartnerId,
}

/// Where an origin stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same as `frame::OriginState`")]
pub struct OriginBody {
    pub epoch: Epoch,
    pub start: Seq,
    pub first: Seq,
    pub last: Seq,
    pub added: u64,
    pub acked: Seq,
}

/// Where a sender begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the same as `position::Position`")]
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

/// What a receiver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the same as `frame::ReceiveLimits`")]
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
    /// Never more than this side's own limits, never nothing.
    fn from(form: ReceiveLimitsBody) -> Self {
        let ours = Self::default();
        let least = |theirs: usize, ours: usize| theirs.min(ours).max(1);
        Self {
            window_batches: least(form.window_batches, ours.window_batches),
            batch_entries: least(form.batch_entries, ours.batch_entries),
            batch_bytes: least(form.batch_bytes, ours.batch_bytes),
            entry: EntryLimits {
                fields: least(form.entry_fields, ours.entry.fields),
                value_bytes: least(form.entry_value_bytes, ours.entry.value_bytes),
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

fn is_silent(account: &BatchAccount) -> bool {
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
        digest.map(Some).ok_or_else(|| D::Error::custom("a digest is 32 hex digits"))
    }
}

#[cfg(test)]
mod tests;
