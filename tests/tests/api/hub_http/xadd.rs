//! `POST /xadd` with one entry.

use futures_util::future::join_all;
use serde_json::{Value, json};
use spoke_tests::{entries::awkward, service::Kind, single_service::Stand};

use crate::hub_http::{IN, b64, carried, entry_body, hub, inbound};

#[tokio::test]
async fn an_entry_is_stored_with_client_epoch_and_seq_as_its_first_fields() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "0-0", "the hub has nothing yet");

    let answer = dev1.post_json("/xadd", &entry_body("1700000000000-0", 7)).await.ok();

    let entries = stand.redis.entries(IN).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(answer["id"], entries[0].id);
    assert_eq!(
        inbound(&stand.redis).await,
        [crate::hub_http::text("dev1", 1, "1700000000000-0", 7)]
    );
    let seq = dev1.get("/seq").await.ok();
    assert_eq!((&seq["epoch"], &seq["seq"]), (&json!(1), &json!("1700000000000-0")));
}

#[tokio::test]
async fn one_of_five_concurrent_equal_posts_is_accepted_and_four_are_duplicates() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    for round in 1..=10u64 {
        let body = entry_body(&format!("{round}-0"), round as usize);

        let answers = join_all((0..5).map(|_| dev1.post_json("/xadd", &body))).await;

        let accepted = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(accepted, 1, "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!(answer.refusal(), (409, "duplicate".to_owned()));
            assert_eq!(answer.json()["seq"], format!("{round}-0"), "the answer has the cursor");
        }
    }
    assert_eq!(inbound(&stand.redis).await, carried("dev1", 1, 1..=10));
}

#[tokio::test]
async fn a_seq_at_or_before_the_cursor_is_a_duplicate_and_changes_nothing() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &entry_body("10-5", 1)).await.ok();
    for seq in ["10-5", "10-4", "9-99", "0-1"] {
        let answer = dev1.post_json("/xadd", &entry_body(seq, 2)).await;
        assert_eq!(answer.refusal(), (409, "duplicate".to_owned()), "{seq}");
        assert_eq!(answer.json()["seq"], "10-5", "{seq}");
    }
    dev1.post_json("/xadd", &entry_body("10-6", 3)).await.ok();
    assert_eq!(stand.redis.length(IN).await, 2);
}

#[tokio::test]
async fn seqs_are_compared_with_all_64_bits() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    // Neighbours are equal as floating point numbers, or swapped in the order of text.
    let ascending = [
        "9-0",
        "10-0",
        "10-9",
        "10-10",
        "10-9007199254740992",
        "10-9007199254740993",
        "1700000000000-0",
        "1700000000001-0",
        "1700000000001-18446744073709551614",
        "1700000000001-18446744073709551615",
        "1700000000002-0",
    ];
    for (n, seq) in ascending.iter().enumerate() {
        dev1.post_json("/xadd", &entry_body(seq, n)).await.ok();
        assert_eq!(dev1.get("/seq").await.ok()["seq"], *seq);
        if let Some(before) = n.checked_sub(1).map(|before| ascending[before]) {
            assert_eq!(
                dev1.post_json("/xadd", &entry_body(before, n)).await.status,
                409,
                "{before}"
            );
        }
    }
    assert_eq!(stand.redis.length(IN).await, ascending.len());
}

#[tokio::test]
async fn every_awkward_entry_arrives_bit_for_bit_in_every_encoding() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let mut ms = 0;
    for (what, fields) in awkward() {
        let pair = |form: fn(&[u8]) -> Value| {
            let pairs = fields.iter().map(|(name, value)| json!([form(name), form(value)]));
            pairs.collect::<Vec<_>>()
        };
        let as_text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => b64(bytes),
        };
        for pairs in [pair(b64), pair(as_text)] {
            ms += 1;
            let body = json!({ "seq": format!("{ms}-0"), "fields": pairs });
            let answer = dev1.post_json("/xadd", &body).await;
            assert_eq!(answer.status, 200, "{what}: {answer:.300?}");
            let stored = stand.redis.entries(IN).await.pop().unwrap();
            assert!(stored.fields[3..] == fields, "{what} did not arrive as it was sent");
        }
    }
}

#[tokio::test]
async fn fields_may_be_an_object_whose_order_is_kept() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let body = r#"{"seq":"1-0","fields":{"z":"1","a":"2","m":{"b64":"/w=="},"id":"3"}}"#;
    dev1.post_body("/xadd", "application/json", body).await.ok();
    let stored = stand.redis.entries(IN).await.pop().unwrap();
    let expected: [(&[u8], &[u8]); 4] =
        [(b"z", b"1"), (b"a", b"2"), (b"m", b"\xff"), (b"id", b"3")];
    let stored: Vec<_> = stored.fields[3..].iter().map(|(n, v)| (&n[..], &v[..])).collect();
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn a_malformed_entry_is_refused_and_nothing_changes() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    let fields = json!([["a", "1"]]);
    let table = [
        r#""#.to_owned(),
        "{".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        json!({ "fields": fields }).to_string(),
        json!({ "seq": "2-0" }).to_string(),
        json!({ "seq": 2, "fields": fields }).to_string(),
        json!({ "seq": "2", "fields": fields }).to_string(),
        json!({ "seq": "2-0-0", "fields": fields }).to_string(),
        json!({ "seq": "*", "fields": fields }).to_string(),
        json!({ "seq": "2-*", "fields": fields }).to_string(),
        json!({ "seq": "-1-0", "fields": fields }).to_string(),
        json!({ "seq": "+2-0", "fields": fields }).to_string(),
        json!({ "seq": " 2-0", "fields": fields }).to_string(),
        json!({ "seq": "0-0", "fields": fields }).to_string(),
        json!({ "seq": "18446744073709551616-0", "fields": fields }).to_string(),
        json!({ "seq": "2-18446744073709551616", "fields": fields }).to_string(),
        json!({ "seq": "2-0", "fields": "a" }).to_string(),
        json!({ "seq": "2-0", "fields": [["a"]] }).to_string(),
        json!({ "seq": "2-0", "fields": [["a", "1", "b"]] }).to_string(),
        json!({ "seq": "2-0", "fields": ["a", "1"] }).to_string(),
        json!({ "seq": "2-0", "fields": [["a", 1]] }).to_string(),
        json!({ "seq": "2-0", "fields": { "a": null } }).to_string(),
        json!({ "seq": "2-0", "fields": [["a", { "b64": "?" }]] }).to_string(),
        json!({ "seq": "2-0", "fields": [["a", { "b64": "AA" , "x": 1 }]] }).to_string(),
        json!({ "seq": "2-0", "fields": [["a", { "hex": "00" }]] }).to_string(),
        json!({ "seq": "2-0", "fields": fields, "sequence": 1 }).to_string(),
        format!(r#"{{"seq":"2-0","fields":{fields}}} {{}}"#),
        format!("{}1{}", "[".repeat(5000), "]".repeat(5000)),
    ];
    for body in table {
        let answer = dev1.post_body("/xadd", "application/json", body.clone()).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{body:.80}: {answer:?}");
    }
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "1-0");
    assert_eq!(stand.redis.length(IN).await, 1);
}

#[tokio::test]
async fn an_entry_that_can_never_be_carried_is_refused_with_its_reason() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let pairs =
        |count: usize| (0..count).map(|i| json!([format!("f{i}"), "v"])).collect::<Vec<_>>();
    let table = [
        (400, "reserved-field", json!([["a", "1"], ["client", "dev2"]])),
        (400, "reserved-field", json!([["epoch", "9"]])),
        (400, "reserved-field", json!([[{ "b64": "c2Vx" }, "9-9"]])),
        (400, "too-many-fields", json!(pairs(129))),
        (400, "empty", json!([])),
        (413, "too-large", json!([["blob", "x".repeat(1024 * 1024 + 1)]])),
        (413, "too-large", json!([["x".repeat(1025), "long name"]])),
    ];
    for (status, reason, fields) in table {
        let answer = dev1.post_json("/xadd", &json!({ "seq": "5-0", "fields": fields })).await;
        assert_eq!(answer.refusal(), (status, reason.to_owned()), "{answer:?}");
    }
    assert_eq!(stand.redis.length(IN).await, 0);
    dev1.post_json("/xadd", &entry_body("5-0", 5)).await.ok();
    // Names that only resemble the reserved ones are allowed.
    let near = json!([["Client", "a"], ["seq ", "b"], ["req", "1-1"], ["client\0", "c"]]);
    dev1.post_json("/xadd", &json!({ "seq": "6-0", "fields": near })).await.ok();
}

#[tokio::test]
async fn a_body_that_is_too_large_or_not_json_is_refused() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let large = json!({ "seq": "1-0", "fields": [["a", "x".repeat(4 * 1024 * 1024)]] });
    assert_eq!(dev1.post_json("/xadd", &large).await.refusal(), (413, "too-large".to_owned()));
    let answer = dev1.post_body("/xadd", "text/plain", entry_body("1-0", 1).to_string()).await;
    assert_eq!(answer.refusal().0, 415, "{answer:?}");
    assert_eq!(stand.redis.length(IN).await, 0);
}

#[tokio::test]
async fn a_client_over_its_rate_gets_429_with_retry_after_and_another_client_does_not() {
    let stand = Stand::start(Kind::Hub, &[("client_rate", "10/s 1MB/s")]).await;
    let (dev1, dev2) = (stand.client("dev1").await, stand.client("dev2").await);
    let entries = |first: u64, count: u64| {
        let entry = |n| json!({ "seq": format!("{n}-0"), "fields": [["n", "1"]] });
        json!({ "entries": (first..first + count).map(entry).collect::<Vec<_>>() })
    };
    // A burst is ten seconds of the rate; a batch may exceed it once.
    dev1.post_json("/xadd", &entries(1, 400)).await.ok();

    let answer = dev1.post_json("/xadd", &entries(401, 1)).await;

    assert_eq!(answer.refusal(), (429, "too-fast".to_owned()));
    let wait = answer.retry_after().unwrap();
    assert!((25..=31).contains(&wait), "300 entries at 10/s: {wait} s");
    dev2.post_json("/xadd", &entries(1, 1)).await.ok();
    assert_eq!(stand.redis.length(IN).await, 401);

    // Another rate applies to the next request, and what was sent before still counts.
    let key = "spoke-auth:client:dev2:h";
    stand.redis.command::<u64>(&["HSET", key, "rate", "100/s 1MB/s"]).await;
    dev2.post_json("/xadd", &entries(2, 1000)).await.ok();
    assert_eq!(dev2.post_json("/xadd", &entries(1002, 400)).await.status, 200);
    let wait = dev2.post_json("/xadd", &entries(1402, 1)).await.retry_after().unwrap();
    assert!((2..=5).contains(&wait), "400 entries at 100/s: {wait} s");
}
