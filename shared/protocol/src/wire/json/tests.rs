use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::wire::golden::{self, HELP};

const HELLO: &str = r#"{"version":"0.1.0",
    "origin":{"epoch":2,"start":"0-0","first":"3-0","last":"9-1","added":7,"acked":"5-0"},
    "cursor":{"epoch":1,"seq":"4-0","digest":"000102030405060708090a0b0c0d0e0f"},
    "instance":"0123456789abcdef"}"#;

#[test]
fn a_json_hello_has_the_content_of_the_hello_frame() {
    let body: HelloBody = serde_json::from_str(HELLO).unwrap();
    assert_eq!(serde_json::to_value(&body).unwrap(), serde_json::from_str::<Value>(HELLO).unwrap());
    assert_eq!(body.instance, Some(InstanceId(0x0123_4567_89ab_cdef)));
    let (origin, cursor) = (OriginState::from(body.origin), Cursor::from(body.cursor));
    assert_eq!((origin.epoch, origin.last, origin.added), (Epoch(2), Seq::new(9, 1), 7));
    let digest = Digest([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(
        cursor,
        Cursor { epoch: Epoch(1), seq: Seq::new(4, 0), digest: Some(digest), ..Cursor::default() }
    );
}

#[test]
fn a_json_hello_may_have_unknown_keys() {
    let more = HELLO.replace(r#""added":7"#, r#""added":7,"unknown":"key""#);
    serde_json::from_str::<HelloBody>(&more).unwrap();
}

#[test]
fn an_invalid_digest_is_refused_and_not_ignored() {
    for bad in [r#""00""#, r#""zz0102030405060708090a0b0c0d0e0f""#, "7"] {
        let hello = HELLO.replace(r#""000102030405060708090a0b0c0d0e0f""#, bad);
        assert!(serde_json::from_str::<HelloBody>(&hello).is_err(), "{bad}");
    }
    let without = json!({ "epoch": 0, "seq": "0-0" });
    let cursor: CursorBody = serde_json::from_value(without.clone()).unwrap();
    assert_eq!(serde_json::to_value(cursor).unwrap(), without);
}

#[test]
fn granted_limits_are_at_least_one_and_at_most_our_own() {
    let body = |n: usize| ReceiveLimitsBody {
        window_batches: n,
        batch_entries: n,
        batch_bytes: n,
        entry_fields: n,
        entry_value_bytes: n,
    };
    assert_eq!(ReceiveLimits::from(body(usize::MAX)), ReceiveLimits::default());
    let least = ReceiveLimits {
        window_batches: 1,
        batch_entries: 1,
        batch_bytes: 1,
        entry: EntryLimits { fields: 1, value_bytes: 1 },
    };
    assert_eq!(ReceiveLimits::from(body(0)), least);
}

fn read<F: DeserializeOwned>(name: &str, body: Value) -> F {
    serde_json::from_value(body).unwrap_or_else(|error| panic!("{name}: {error}; {HELP}"))
}

/// Asserts that a body of 0.1 is read and written back unchanged.
fn assert_kept<F: Serialize + DeserializeOwned>(name: &str) {
    let golden = golden::json_body(name);
    let body: F = read(name, golden.clone());
    assert_eq!(serde_json::to_value(body).unwrap(), golden, "{name}: {HELP}");
}

/// Returns the body with one more key in each object, except in the fields of an entry.
fn newer(body: Value) -> Value {
    match body {
        Value::Object(keys) => {
            let extended = |(key, value): (String, Value)| match key.as_str() {
                "fields" => (key, value),
                _ => (key, newer(value)),
            };
            let more = [("ofALaterVersion".to_owned(), json!([1, { "a": null }]))];
            keys.into_iter().map(extended).chain(more).collect()
        }
        Value::Array(list) => list.into_iter().map(newer).collect(),
        other => other,
    }
}

/// Asserts that a body is kept, and that a later version may add keys. This applies to the handshake and to
/// responses.
fn assert_may_grow<F: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str) {
    assert_kept::<F>(name);
    let golden = golden::json_body(name);
    let extended: F = read(name, newer(golden.clone()));
    assert_eq!(extended, read(name, golden), "{name}");
}

#[test]
fn the_json_bodies_of_0_1_are_read_and_written_unchanged_and_responses_may_grow() {
    assert_may_grow::<HelloBody>("POST /session");
    assert_may_grow::<WelcomeBody>("a welcome");
    assert_may_grow::<CursorBody>("GET /seq");
    assert_may_grow::<AddedBody>("one added");
    assert_may_grow::<BatchAddedBody>("a batch added");
    assert_may_grow::<XreadBody>("a read");
    assert_kept::<EntryBody>("POST /xadd of one");
    let name = "POST /xadd of a batch";
    let XaddBody::Batch(batch) = read(name, golden::json_body(name)) else { panic!("{HELP}") };
    assert_eq!(serde_json::to_value(batch).unwrap(), golden::json_body(name), "{HELP}");
}
