//! The JSON forms of HTTP and of `spoke.v1.json`.
//!
//! Fields are a list of pairs or an object, and are read in their order, repeats and all. A byte
//! string is a JSON string, or `{"b64": "…"}` where it is not UTF-8 or where escapes would make the
//! string longer than base64 does: a value of NULs would grow sixfold.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};

use super::frame::{Cursor, Granted, Origin};
use crate::{
    entry::{Digest, Entry, EntryLimits, Field, Unfit},
    seq::{Epoch, Seq},
    sync::position::Position,
};

/// The answer of `GET /seq`, and a cursor wherever one is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CursorForm {
    /// The epoch of the last entry the copy holds; 0 if it holds none.
    pub epoch: Epoch,
    /// Its seq.
    pub seq: Seq,
    /// Its digest, as 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// The body of `POST /xadd`: one entry or a batch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "the body is {\"seq\", \"fields\"} or {\"entries\": [{\"seq\", \"fields\"}, …]}")]
pub enum XaddForm {
    /// A batch.
    Batch(BatchForm),
    /// One entry.
    One(EntryForm),
}

/// A batch, as PUSH is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchForm {
    /// The life of the origin; without it the one that the hub knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Where the batch before ended; without it no gap is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Seq>,
    /// Where the cursor goes; without it to the last entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Seq>,
    /// The entries, in ascending order of seq.
    pub entries: Vec<EntryForm>,
}

/// One entry on its way up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryForm {
    /// Its ID in the stream where it was born.
    pub seq: Seq,
    /// Its fields.
    pub fields: Fields,
}

/// The answer to one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedForm {
    /// Its ID in the hub's stream.
    pub id: Seq,
}

/// The answer to a batch, as ACK is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAddedForm {
    /// The cursor.
    pub seq: Seq,
    /// How many entries were appended.
    pub accepted: u64,
    /// How many the hub had already.
    pub duplicates: u64,
    /// What will never be appended.
    pub refused: Vec<RefusedForm>,
}

/// One entry that will never be appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedForm {
    /// Its seq.
    pub seq: Seq,
    /// Why.
    pub reason: Unfit,
}

/// The answer of `GET /xread`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XreadForm {
    /// The life of the out stream that these belong to.
    pub epoch: Epoch,
    /// The entries, in order.
    pub entries: Vec<ReadForm>,
    /// What to ask after next; it covers entries that could never be sent.
    pub seq: Seq,
}

/// One entry on its way down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadForm {
    /// Its ID in the hub's out stream.
    pub id: Seq,
    /// Its fields.
    pub fields: Fields,
}

/// The body of `POST /session`, as HELLO is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HelloForm {
    /// The agent's version.
    pub version: String,
    /// The device's out stream.
    pub origin: OriginForm,
    /// The device's in stream.
    pub cursor: CursorForm,
}

/// The answer of `POST /session`, as WELCOME is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WelcomeForm {
    /// The hub's version.
    pub version: String,
    /// The generation of this session, for the header `Spoke-Generation`.
    pub generation: u64,
    /// How far this client's entries have come.
    pub cursor: CursorForm,
    /// The client's out stream at the hub.
    pub origin: OriginForm,
    /// Where the hub begins to send.
    pub position: PositionForm,
    /// What the hub takes.
    pub granted: GrantedForm,
    /// The hub's clock, in milliseconds since 1970.
    pub server_time_ms: u64,
}

/// Where an origin stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the same as `frame::Origin`")]
pub struct OriginForm {
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
pub struct PositionForm {
    pub epoch: Epoch,
    pub after: Seq,
    pub joint: Seq,
}

/// What a receiver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the same as `frame::Granted`")]
pub struct GrantedForm {
    pub window_batches: usize,
    pub batch_entries: usize,
    pub batch_bytes: usize,
    pub entry_fields: usize,
    pub entry_value_bytes: usize,
}

impl From<Cursor> for CursorForm {
    fn from(Cursor { epoch, seq, digest }: Cursor) -> Self {
        Self { epoch, seq, digest: digest.map(|digest| digest.to_string()) }
    }
}

impl From<CursorForm> for Cursor {
    fn from(CursorForm { epoch, seq, digest }: CursorForm) -> Self {
        let digest = digest.and_then(|digest| Digest::from_hex(digest.as_bytes()));
        Self { epoch, seq, digest }
    }
}

impl From<Origin> for OriginForm {
    fn from(Origin { epoch, start, first, last, added, acked }: Origin) -> Self {
        Self { epoch, start, first, last, added, acked }
    }
}

impl From<OriginForm> for Origin {
    fn from(OriginForm { epoch, start, first, last, added, acked }: OriginForm) -> Self {
        Self { epoch, start, first, last, added, acked }
    }
}

impl From<Position> for PositionForm {
    fn from(Position { epoch, after, joint, .. }: Position) -> Self {
        Self { epoch, after, joint }
    }
}

impl From<Granted> for GrantedForm {
    fn from(Granted { window_batches, batch_entries, batch_bytes, entry }: Granted) -> Self {
        let EntryLimits { fields: entry_fields, value_bytes: entry_value_bytes } = entry;
        Self { window_batches, batch_entries, batch_bytes, entry_fields, entry_value_bytes }
    }
}

impl From<GrantedForm> for Granted {
    /// Never more than this side's own limits, never nothing.
    fn from(form: GrantedForm) -> Self {
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

impl From<EntryForm> for Entry {
    fn from(EntryForm { seq, fields }: EntryForm) -> Self {
        Self { seq, fields: fields.0 }
    }
}

impl From<Entry> for EntryForm {
    fn from(Entry { seq, fields }: Entry) -> Self {
        Self { seq, fields: Fields(fields) }
    }
}

impl From<Entry> for ReadForm {
    fn from(Entry { seq, fields }: Entry) -> Self {
        Self { id: seq, fields: Fields(fields) }
    }
}

impl From<ReadForm> for Entry {
    fn from(ReadForm { id, fields }: ReadForm) -> Self {
        Self { seq: id, fields: fields.0 }
    }
}

/// The fields of an entry in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields(pub Vec<Field>);

/// One byte string in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteString(pub Bytes);

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            list.serialize_element(&(ByteString(name.clone()), ByteString(value.clone())))?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields as a list of [field, value] pairs or as an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Fields, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = list.next_element::<(ByteString, ByteString)>()? {
            fields.push((name.0, value.0));
        }
        Ok(Fields(fields))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = object.next_entry::<String, ByteString>()? {
            fields.push((name.into(), value.0));
        }
        Ok(Fields(fields))
    }
}

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if escaped_len(text) <= text.len().div_ceil(3) * 4 + BASE64_AROUND => {
                serializer.serialize_str(text)
            }
            _ => {
                let mut object = serializer.serialize_map(Some(1))?;
                object.serialize_entry("b64", &STANDARD.encode(&self.0))?;
                object.end()
            }
        }
    }
}

/// What `{"b64":""}` takes beyond the quotes of a string.
const BASE64_AROUND: usize = 8;

fn escaped_len(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ByteStringVisitor)
    }
}

struct ByteStringVisitor;

impl<'de> Visitor<'de> for ByteStringVisitor {
    type Value = ByteString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"b64\": \"…\"}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteString, E> {
        Ok(ByteString(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<ByteString, E> {
        Ok(ByteString(text.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<ByteString, A::Error> {
        let Some(("b64", text)) = object.next_entry::<&str, String>()? else {
            return Err(de::Error::custom("a byte string's object has the one key b64"));
        };
        if object.next_key::<de::IgnoredAny>()?.is_some() {
            return Err(de::Error::custom("a byte string's object has the one key b64"));
        }
        let bytes = STANDARD.decode(text).map_err(|_| de::Error::custom("b64 is not base64"))?;
        Ok(ByteString(bytes.into()))
    }
}

#[cfg(test)]
mod tests;
