//! Golden bytes, and ways to corrupt them.

use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::json;
use spoke_protocol::{
    Entry, Epoch, Seq,
    message::{Ack, Features, Frame, Goaway, GoawayReason, Push},
};
use spoke_tests::{entries::awkward, websocket::hello};

/// Every kind of frame and of JSON form, well formed.
pub(crate) fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let mut golden = frames();
    golden.extend(forms().into_iter().map(|(name, form)| (name, form.to_string().into_bytes())));
    golden
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let ack = Ack { epoch: Epoch(1), seq: Seq::new(7, 1), refused: vec![] };
    let goaway = Goaway { reason: GoawayReason::Restart, message: "bye".to_owned(), wait_ms: 500 };
    let frames = [
        ("HELLO", Frame::Hello(Box::new(hello()))),
        ("PUSH", push()),
        ("ACK", Frame::Ack(ack.clone())),
        ("PING", Frame::Ping),
        ("PONG", Frame::Pong(ack)),
        ("GOAWAY", Frame::Goaway(goaway)),
    ];
    let plain = frames.map(|(name, frame)| (name, frame.encode(Features::default()).to_vec()));
    let mut golden = plain.to_vec();
    golden.push(("PACKED", push().encode(Features::COMPRESSION).to_vec()));
    golden
}

/// A PUSH with all the small entries of `awkward`.
fn push() -> Frame {
    let own = |bytes: Vec<u8>| bytes::Bytes::from(bytes);
    let fields = awkward().into_iter().map(|(_, fields)| fields);
    let fields = fields.filter(|fields| fields.iter().all(|(_, value)| value.len() < 4096));
    let entries: Vec<_> = (1..)
        .zip(fields)
        .map(|(n, fields)| {
            let fields = fields.into_iter().map(|(name, value)| (own(name), own(value)));
            Entry { seq: Seq::new(1_700_000_000_000 + n / 3, n), fields: fields.collect() }
        })
        .collect();
    let through = entries.last().map_or(Seq::ZERO, |entry| entry.seq);
    Frame::Push(Push { epoch: Epoch(1), after: Seq::ZERO, through, entries, ..Push::default() })
}

fn forms() -> Vec<(&'static str, serde_json::Value)> {
    let origin = json!({ "epoch": 1, "start": "0-0", "first": "1-0", "last": "9-0", "added": 9,
        "acked": "5-0" });
    let cursor = json!({ "epoch": 1, "seq": "5-0", "digest": "ab".repeat(16) });
    let granted = json!({ "windowBatches": 8, "batchEntries": 1000, "batchBytes": 1_048_576,
        "entryFields": 128, "entryValueBytes": 1_048_576 });
    let entry = json!({ "seq": "5-1", "fields": [["a", "b"], [{ "b64": "/w==" }, "\n"]] });
    let batch = json!({ "epoch": 1, "after": "5-0", "through": "6-0", "entries": [entry] });
    let added = json!({ "seq": "6-0", "accepted": 1, "duplicates": 0,
        "refused": [{ "seq": "5-9", "reason": "too-large" }] });
    let read = json!({ "epoch": 1, "seq": "9-0",
        "entries": [{ "id": "9-0", "fields": { "a": "b" } }] });
    let welcome = json!({ "version": "0.1.0", "generation": 3, "cursor": cursor,
        "origin": origin, "position": { "epoch": 1, "after": "0-0", "joint": "0-0" },
        "granted": granted, "serverTimeMs": 1 });
    vec![
        ("xadd of one", entry.clone()),
        ("xadd of a batch", batch.clone()),
        ("xadd's answer", added),
        ("xread's answer", read),
        ("session", json!({ "version": "0.1.0", "origin": origin, "cursor": cursor })),
        ("session's answer", welcome),
        ("a request", json!({ "type": "xadd", "id": [1], "payload": batch })),
        ("a seq", json!("1700000000000-0")),
    ]
}

/// MessagePack headers that announce 4 GiB, and pieces of JSON.
const PIECES: [&[u8]; 14] = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xce\x00\x40\x00\x00",
    b"\x08",
    b"[[[[[[[[",
    b"\"\\ud800\"",
    b"1e999999999",
    b"18446744073709551616",
    b"{\"b64\":",
    b",",
];

#[derive(Debug, Clone)]
enum Corruption {
    Change(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, &'static [u8]),
    Repeat(Index, usize),
}

fn corruptions() -> impl Strategy<Value = Corruption> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Corruption::Change(at, byte)),
        any::<Index>().prop_map(Corruption::Cut),
        (any::<Index>(), 1..20usize).prop_map(|(at, bytes)| Corruption::Remove(at, bytes)),
        (any::<Index>(), prop::sample::select(&PIECES[..]))
            .prop_map(|(at, piece)| Corruption::Insert(at, piece)),
        (any::<Index>(), 1..200usize).prop_map(|(at, bytes)| Corruption::Repeat(at, bytes)),
    ]
}

/// Golden bytes, each corrupted a few times.
pub(crate) fn corrupted_golden() -> impl Strategy<Value = Vec<u8>> {
    let golden: Vec<_> = golden().into_iter().map(|(_, bytes)| bytes).collect();
    (prop::sample::select(golden), vec(corruptions(), 1..5)).prop_map(|(mut bytes, corruptions)| {
        corruptions.into_iter().for_each(|corruption| apply(corruption, &mut bytes));
        bytes
    })
}

fn apply(corruption: Corruption, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match corruption {
        Corruption::Change(at, byte) => bytes[at.index(length)] = byte,
        Corruption::Cut(at) => bytes.truncate(at.index(length)),
        Corruption::Remove(at, count) => {
            let at = at.index(length);
            bytes.drain(at..length.min(at + count));
        }
        Corruption::Insert(at, piece) => {
            let at = at.index(length);
            bytes.splice(at..at, piece.iter().copied());
        }
        Corruption::Repeat(at, count) => {
            let at = at.index(length);
            let part = bytes[at..length.min(at + count)].to_vec();
            bytes.splice(at..at, part);
        }
    }
}
