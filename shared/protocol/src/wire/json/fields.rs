//! Byte strings and fields in JSON.
//!
//! Fields are a list of pairs or an object. They are read in order and with repetitions, without a map in
//! between. One more field than an entry may have is kept, which is enough to refuse it, and the rest is
//! skipped: an empty pair takes six bytes here and ten times that once read.
//!
//! A byte string is a JSON string, or `{"b64": "…"}` if it is not UTF-8, or if escapes would make the string
//! longer than base64: a value of NULs would grow sixfold.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};

use crate::{entry::Field, limits::ENTRY_FIELDS_MAX};

/// The fields of an entry in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields(pub Vec<Field>);

/// A byte string in JSON.
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
        while fields.len() <= ENTRY_FIELDS_MAX {
            let Some((name, value)) = list.next_element::<(ByteString, ByteString)>()? else {
                return Ok(Fields(fields));
            };
            fields.push((name.0, value.0));
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        fields.shrink_to_fit();
        Ok(Fields(fields))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields, A::Error> {
        let mut fields = Vec::new();
        while fields.len() <= ENTRY_FIELDS_MAX {
            let Some((name, value)) = object.next_entry::<String, ByteString>()? else {
                return Ok(Fields(fields));
            };
            fields.push((name.into(), value.0));
        }
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        fields.shrink_to_fit();
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

/// The length of `{"b64":""}` without the quotes of a string.
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
        const ONE_KEY: &str = "invalid byte string: expected an object with the one key b64";
        let key = object.next_key::<String>()?;
        if key.as_deref() != Some("b64") {
            return Err(de::Error::custom(ONE_KEY));
        }
        let text: String = object.next_value()?;
        if object.next_key::<IgnoredAny>()?.is_some() {
            return Err(de::Error::custom(ONE_KEY));
        }
        let bytes =
            STANDARD.decode(text).map_err(|_| de::Error::custom("invalid b64: not base64"))?;
        Ok(ByteString(bytes.into()))
    }
}

#[cfg(test)]
mod tests;
