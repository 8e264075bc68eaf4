//! The hub over HTTP: contract section 5, by status code and reason.

mod access;
mod batch;
mod faults;
mod session;
mod xadd;
mod xread;

use serde_json::{Value, json};
use spoke_tests::{
    entries::{Stored, numbered},
    redis::RedisServer,
    service::Kind,
    single_service::Stand,
    wait::eventually_true,
};

const IN: &str = "spoke-hub:in:x";
const OUT: &str = "spoke-hub:out:dev1:x";

async fn hub() -> Stand {
    Stand::start(Kind::Hub, &[]).await
}

/// Returns once a read waits for new entries.
async fn assert_read_waits(stand: &Stand) {
    let admin = stand.service.admin();
    eventually_true("a read to wait", async || {
        admin.get("/metrics").await.text.contains("spoke_hub_connections 1\n")
    })
    .await;
}

/// The body of a request with one numbered entry.
fn entry_body(seq: &str, n: usize) -> Value {
    json!({ "seq": seq, "fields": [["topic", "test"], ["n", n.to_string()]] })
}

/// Bodies of numbered entries `from-0`, `from+1-0`, …
fn entry_bodies(from: u64, count: u64) -> Vec<Value> {
    (from..from + count).map(|ms| entry_body(&format!("{ms}-0"), ms as usize)).collect()
}

/// How the hub's in stream must hold those entries.
fn carried(client: &str, epoch: u64, seqs: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    seqs.into_iter().map(|ms| text(client, epoch, &format!("{ms}-0"), ms as usize)).collect()
}

/// The fields of the whole in stream, each entry as one text.
async fn inbound(redis: &RedisServer) -> Vec<Vec<u8>> {
    redis.entries(IN).await.iter().map(|Stored { fields, .. }| joined(fields)).collect()
}

fn text(client: &str, epoch: u64, seq: &str, n: usize) -> Vec<u8> {
    let epoch = epoch.to_string();
    let own = [("client", client), ("epoch", &epoch), ("seq", seq)];
    let mut fields = spoke_tests::entries::fields(own);
    fields.extend(numbered(n));
    joined(&fields)
}

fn joined(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let pairs = fields.iter().map(|(name, value)| [&name[..], value].join(&b'='));
    pairs.collect::<Vec<_>>().join(&b' ')
}

/// A byte string in the JSON encoding that can hold any bytes.
fn b64(bytes: &[u8]) -> Value {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len() / 3 * 4 + 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
        let bits = bits << (8 * (3 - group.len()));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    json!({ "b64": text })
}

/// A byte string of an answer, in either encoding.
fn unb64(value: &Value) -> Vec<u8> {
    if let Some(text) = value.as_str() {
        return text.as_bytes().to_vec();
    }
    let text = value["b64"].as_str().unwrap_or_else(|| panic!("not a byte string: {value}"));
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64: {text}"),
    };
    let digits: Vec<_> = text.bytes().filter(|&c| c != b'=').map(digit).collect();
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0u32, |bits, &six| bits << 6 | u32::from(six));
        let bits = bits << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
