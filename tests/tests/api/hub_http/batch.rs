//! `POST /xadd` with a batch.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::hub_http::{IN, carried, entry_bodies, entry_body, hub, inbound};

const LOST: &str = "spoke-hub:lost:x";

fn batch(entries: Vec<Value>) -> Value {
    json!({ "entries": entries })
}

#[tokio::test]
async fn a_batch_is_appended_in_order_and_a_repeat_is_all_duplicates() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;

    let first = dev1.post_json("/xadd", &batch(entry_bodies(1, 100))).await.ok();
    let again = dev1.post_json("/xadd", &batch(entry_bodies(1, 100))).await.ok();
    let overlap = dev1.post_json("/xadd", &batch(entry_bodies(51, 100))).await.ok();

    let answer = |seq: &str, accepted: u64, duplicates: u64| json!({ "seq": seq, "accepted": accepted, "duplicates": duplicates, "refused": [] });
    assert_eq!(first, answer("100-0", 100, 0));
    assert_eq!(again, answer("100-0", 0, 100));
    assert_eq!(overlap, answer("150-0", 50, 50));
    assert_eq!(inbound(&stand.redis).await, carried("dev1", 1, 1..=150));
}

#[tokio::test]
async fn concurrent_overlapping_batches_append_every_entry_once_and_in_order() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let bodies: Vec<_> = (0..20u64).map(|i| batch(entry_bodies(1, 10 * (i % 5 + 1)))).collect();
    let answers = join_all(bodies.iter().map(|body| dev1.post_json("/xadd", body))).await;
    let accepted: u64 = answers.iter().map(|a| a.ok()["accepted"].as_u64().unwrap()).sum();
    assert_eq!(accepted, 50);
    assert_eq!(inbound(&stand.redis).await, carried("dev1", 1, 1..=50));
}

#[tokio::test]
async fn a_refused_entry_is_reported_and_the_entries_around_it_are_accepted() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let mut entries = entry_bodies(1, 5);
    entries[1]["fields"] = json!([["client", "dev2"]]);
    entries[3]["fields"] = json!([]);
    entries[4]["fields"] = json!([["blob", "x".repeat(1024 * 1024 + 1)]]);

    let answer = dev1.post_json("/xadd", &batch(entries)).await.ok();

    assert_eq!((&answer["seq"], &answer["accepted"]), (&json!("5-0"), &json!(2)), "{answer}");
    let refused = json!([
        { "seq": "2-0", "reason": "reserved-field" },
        { "seq": "4-0", "reason": "empty" },
        { "seq": "5-0", "reason": "too-large" },
    ]);
    assert_eq!(answer["refused"], refused);
    assert_eq!(inbound(&stand.redis).await, carried("dev1", 1, [1, 3]));
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "5-0", "the cursor passes the refused entries");
    let ledger = stand.redis.entries(LOST).await;
    let lines: Vec<_> = ledger.iter().map(|loss| (loss.text("from"), loss.text("count"))).collect();
    let expected = ["2-0", "4-0", "5-0"].map(|seq| (Some(seq.to_owned()), Some("1".to_owned())));
    assert_eq!(lines, expected, "each loss is recorded");
    let names: Vec<_> = ledger[0].fields.iter().map(|(name, _)| name.as_slice()).collect();
    let contract_fields: [&[u8]; 8] =
        [b"client", b"direction", b"epoch", b"from", b"to", b"count", b"cause", b"at"];
    assert_eq!(names, contract_fields);
}

#[tokio::test]
async fn a_batch_out_of_order_is_refused_as_a_whole() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let bad = [
        vec![entry_body("1-0", 1), entry_body("3-0", 3), entry_body("2-0", 2)],
        vec![entry_body("1-0", 1), entry_body("1-0", 1)],
        vec![entry_body("0-0", 0), entry_body("1-0", 1)],
    ];
    for entries in bad {
        let answer = dev1.post_json("/xadd", &batch(entries)).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{answer:?}");
    }
    assert_eq!(stand.redis.length(IN).await, 0);
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "0-0");
}

#[tokio::test]
async fn a_batch_with_one_malformed_entry_is_refused_before_anything_is_written() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let mut entries = entry_bodies(1, 3);
    entries[2] = json!({ "seq": "3-0", "fields": [["a"]] });
    let answer = dev1.post_json("/xadd", &batch(entries)).await;
    assert_eq!(answer.refusal(), (400, "malformed".to_owned()));
    assert_eq!(stand.redis.length(IN).await, 0);
}

#[tokio::test]
async fn a_batch_that_begins_past_the_cursor_is_a_gap() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &batch(entry_bodies(1, 2))).await.ok();

    let gap = json!({ "epoch": 1, "after": "3-0", "entries": entry_bodies(4, 1) });
    let answer = dev1.post_json("/xadd", &gap).await;

    assert_eq!(answer.refusal(), (409, "gap".to_owned()));
    assert_eq!(answer.json()["seq"], "2-0", "the answer has the cursor");
    assert_eq!(stand.redis.length(IN).await, 2);
    let after = json!({ "epoch": 1, "after": "2-0", "entries": entry_bodies(4, 1) });
    assert_eq!(dev1.post_json("/xadd", &after).await.ok()["seq"], "4-0");
}

#[tokio::test]
async fn a_new_epoch_begins_at_the_start_and_the_old_one_is_stale_from_then_on() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &batch(entry_bodies(1, 9))).await.ok();

    let new_epoch = json!({ "epoch": 2, "entries": entry_bodies(1, 3) });
    let answer = dev1.post_json("/xadd", &new_epoch).await.ok();
    let stale = json!({ "epoch": 1, "entries": entry_bodies(10, 1) });
    let refused = dev1.post_json("/xadd", &stale).await;

    assert_eq!((&answer["accepted"], &answer["seq"]), (&json!(3), &json!("3-0")));
    assert_eq!(refused.refusal(), (409, "stale-epoch".to_owned()));
    assert_eq!(refused.json()["epoch"], 2, "the answer has the epoch");
    let seq = dev1.get("/seq").await.ok();
    assert_eq!((&seq["epoch"], &seq["seq"]), (&json!(2), &json!("3-0")));
    let mut expected = carried("dev1", 1, 1..=9);
    expected.extend(carried("dev1", 2, 1..=3));
    assert_eq!(inbound(&stand.redis).await, expected);
}

#[tokio::test]
async fn a_batch_may_have_a_thousand_entries_and_no_more() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let answer = dev1.post_json("/xadd", &batch(entry_bodies(1, 1001))).await;
    let (status, reason) = answer.refusal();
    assert!(matches!(status, 400 | 413), "{status} {reason}");
    assert_eq!(stand.redis.length(IN).await, 0);
    let answer = dev1.post_json("/xadd", &batch(entry_bodies(1, 1000))).await.ok();
    assert_eq!(answer["accepted"], 1000);
    assert_eq!(inbound(&stand.redis).await, carried("dev1", 1, 1..=1000));
}

#[tokio::test]
async fn an_unknown_key_of_a_batch_is_named() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let answer = dev1.post_json("/xadd", &json!({ "entries": [], "epcoh": 2 })).await;
    assert_eq!(answer.refusal(), (400, "malformed".to_owned()));
    assert!(answer.message().contains("epcoh"), "{answer:?}");
}
