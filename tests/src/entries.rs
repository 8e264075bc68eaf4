//! Entries as Redis holds them: bytes in order and with repeated fields, never as a map.

use redis::Value;

/// Field names and values in order.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its ID in that stream.
    pub id: String,
    /// Its fields.
    pub fields: Fields,
}

impl Stored {
    /// The first value of a field, as text.
    pub fn text(&self, name: &str) -> Option<String> {
        let (_, value) = self.fields.iter().find(|(field, _)| field == name.as_bytes())?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// Makes fields from pairs.
pub fn fields<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (N, V)>) -> Fields {
    let bytes = |(name, value): (N, V)| (name.as_ref().to_vec(), value.as_ref().to_vec());
    pairs.into_iter().map(bytes).collect()
}

/// The fields `topic` and `n`, which distinguish entries.
pub fn numbered(n: usize) -> Fields {
    fields([("topic", "test".to_owned()), ("n", n.to_string())])
}

/// Entries that a careless implementation would corrupt, each with the reason.
pub fn awkward() -> Vec<(&'static str, Fields)> {
    let many = (0..128).map(|i| (format!("field-{i}"), format!("value-{i}")));
    vec![
        ("text", fields([("topic", "test"), ("payload", "{\"type\":\"hello\"}")])),
        ("NUL bytes", fields([(&b"a\0b"[..], &b"\0"[..]), (b"\0", b"x\0\0y")])),
        ("invalid UTF-8", fields([(&b"\xff\xfe"[..], &b"\xc3\x28\x80"[..]), (b"ok", b"\xf0")])),
        ("a repeated field", fields([("a", "1"), ("b", "2"), ("a", "3"), ("a", "1")])),
        ("order against the alphabet", fields([("z", "1"), ("m", "2"), ("a", "3")])),
        ("an empty name and value", fields([("", "x"), ("x", ""), ("", "")])),
        ("128 fields", fields(many)),
        ("a value of 1 MiB", fields([("blob", every_byte(1024 * 1024))])),
        ("fields that look like ours", fields([("id", "7"), ("req", "1-1"), ("fields", "x")])),
        (
            "a field that looks like our base64",
            fields([("b64", "AAAA"), ("x", "{\"b64\":\"AA==\"}")]),
        ),
        ("all of it at once", all_at_once()),
        ("line ends", fields([("crlf", "a\r\nb\r\n"), ("$5", "*3\r\n$4\r\nXADD\r\n")])),
    ]
}

/// 128 fields with repeated and non-text names, empty values, and a mebibyte of values in total.
fn all_at_once() -> Fields {
    let names = [&b"a"[..], b"\xff\x00", b"", b"a", b"b64"];
    let value = |i: usize| match i {
        0 => every_byte(1024 * 1024 - 64 * 3),
        i if i % 2 == 0 => vec![],
        i => vec![0xff, 0x00, i as u8],
    };
    (0..128).map(|i| (names[i % names.len()].to_vec(), value(i))).collect()
}

/// This many bytes, with every byte value.
pub fn every_byte(length: usize) -> Vec<u8> {
    // 251 is prime, so the pattern does not align with powers of two.
    (0..length).map(|i| (i % 251) as u8 ^ (i / 251 % 256) as u8).collect()
}

/// The entries of an XRANGE reply.
///
/// # Panics
/// If it is not one.
pub fn stored(reply: Value) -> Vec<Stored> {
    let parts = |value| match value {
        Value::Array(parts) => parts,
        Value::Nil => Vec::new(),
        other => panic!("expected a list, got {other:?}"),
    };
    let bytes = |value| match value {
        Value::BulkString(bytes) => bytes,
        other => panic!("expected a byte string, got {other:?}"),
    };
    let entry = |value| {
        let [id, pairs] =
            <[Value; 2]>::try_from(parts(value)).expect("an entry is an ID and fields");
        let pairs: Vec<_> = parts(pairs).into_iter().map(bytes).collect();
        let fields = pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        Stored { id: String::from_utf8(bytes(id)).expect("an ID is text"), fields }
    };
    parts(reply).into_iter().map(entry).collect()
}
