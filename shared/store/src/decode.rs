//! Decodes Redis replies. Rejected: maps, which lose order, repetitions and bytes.

use bytes::Bytes;
use redis::Value;

use super::StoreError;
use spoke_protocol::{
    Entry, Field, Seq,
    wire::msgpack::{DecodeError, MsgpackReader},
};

/// Decodes the entries of an XRANGE reply. Byte strings are moved, not copied.
pub(super) fn entries(reply: Value) -> Result<Vec<Entry>, StoreError> {
    list(reply)?.into_iter().map(entry).collect()
}

/// Decodes the entries of pages that pages.lua has packed, as slices of each page.
pub(super) fn pages(pages: impl IntoIterator<Item = Value>) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    for page in pages {
        unpack(bytes(page)?, &mut entries).map_err(|_| unexpected("packed entries"))?;
    }
    Ok(entries)
}

fn unpack(page: Bytes, entries: &mut Vec<Entry>) -> Result<(), DecodeError> {
    let mut reader = MsgpackReader::new(page);
    let count = reader.array("entries")?;
    entries.reserve(count);
    for _ in 0..count {
        reader.array("an entry")?;
        let seq = reader.string("a stream ID")?;
        let seq = Seq::from_bytes(&seq).map_err(|_| DecodeError::Not("a stream ID"))?;
        let parts = reader.array("fields")?;
        let mut fields = Vec::with_capacity(parts / 2);
        for _ in 0..parts / 2 {
            fields.push((reader.string("a name")?, reader.string("a value")?));
        }
        entries.push(Entry { seq, fields });
    }
    Ok(())
}

fn entry(reply: Value) -> Result<Entry, StoreError> {
    let mut parts = list(reply)?.into_iter();
    let (Some(id), Some(fields), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(unexpected("a stream entry"));
    };
    Ok(Entry { seq: seq(id)?, fields: pairs(fields)? })
}

fn pairs(reply: Value) -> Result<Vec<Field>, StoreError> {
    let parts = list(reply)?;
    let mut fields = Vec::with_capacity(parts.len() / 2);
    let mut parts = parts.into_iter();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        fields.push((bytes(name)?, bytes(value)?));
    }
    Ok(fields)
}

/// Returns the values of these names in a flat list of names and values, or in a map.
pub(super) fn named(reply: Value, names: &[&str]) -> Result<Vec<Option<Value>>, StoreError> {
    let pairs: Vec<(Value, Value)> = match reply {
        Value::Map(pairs) => pairs,
        other => {
            let mut parts = list(other)?.into_iter();
            std::iter::from_fn(|| Some((parts.next()?, parts.next()?))).collect()
        }
    };
    let mut found: Vec<Option<Value>> = names.iter().map(|_| None).collect();
    for (name, value) in pairs {
        let name = bytes(name)?;
        if let Some(at) = names.iter().position(|wanted| wanted.as_bytes() == name.as_ref()) {
            found[at] = Some(value);
        }
    }
    Ok(found)
}

pub(super) fn list(reply: Value) -> Result<Vec<Value>, StoreError> {
    match reply {
        Value::Array(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        _ => Err(unexpected("a list")),
    }
}

pub(super) fn bytes(reply: Value) -> Result<Bytes, StoreError> {
    match reply {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) => Ok(text.into()),
        _ => Err(unexpected("a byte string")),
    }
}

pub(super) fn text(reply: Value) -> Result<String, StoreError> {
    String::from_utf8(bytes(reply)?.into()).map_err(|_| unexpected("text"))
}

pub(super) fn seq(reply: Value) -> Result<Seq, StoreError> {
    Seq::from_bytes(&bytes(reply)?).map_err(|_| unexpected("a stream ID"))
}

pub(super) fn count(reply: Value) -> Result<u64, StoreError> {
    redis::from_redis_value(reply).map_err(|_| unexpected("a whole number"))
}

/// Returns the error for a reply of another form, as of a key that another party wrote to.
pub(super) fn unexpected(expected: &'static str) -> StoreError {
    StoreError::Unexpected { expected }
}
