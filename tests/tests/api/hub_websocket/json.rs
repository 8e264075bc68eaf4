//! `spoke.v1.json`: for clients that use JSON, such as browsers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spoke_protocol::wire::json::{Fields, XreadBody};
use spoke_tests::{
    entries::{awkward, numbered},
    single_service::Stand,
    websocket::{JSON_SUBPROTOCOL, Socket, open},
};
use tokio_tungstenite::tungstenite::Message;

use crate::hub_websocket::{IN, OUT, carried, hub, numbers, token};

async fn connect(stand: &Stand) -> Socket {
    open(stand.service.address(), &token(stand, "dev1").await, JSON_SUBPROTOCOL).await
}

fn entry_body(n: u64) -> Value {
    json!({ "seq": format!("{n}-0"), "fields": [["topic", "test"], ["n", n.to_string()]] })
}

/// Code and reason of an answer that is an error.
fn error(answer: &Value) -> (u64, String) {
    assert_eq!(answer["error"], true, "{answer}");
    let payload = &answer["payload"];
    assert!(payload["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    let code = payload["code"].as_u64().unwrap_or_else(|| panic!("no code: {answer}"));
    (code, payload["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn each_type_is_answered_with_the_same_type_and_id() {
    let stand = hub().await;
    let mut socket = connect(&stand).await;

    let cursor = socket.ask("id", 1, json!({})).await;
    assert_eq!(cursor["payload"]["seq"], "0-0", "{cursor}");
    let added = socket.ask("xadd", "two", entry_body(1)).await;
    let stored = stand.redis.entries(IN).await;
    assert_eq!(added["payload"]["id"], stored[0].id, "{added}");
    let cursor = socket.ask("id", json!(["three"]), Value::Null).await;
    assert_eq!(cursor["payload"]["seq"], "1-0", "{cursor}");
    let id = stand.redis.add(OUT, &numbered(7)).await;
    let read = socket.ask("xread", json!({ "four": 4 }), json!({ "seq": "0-0" })).await;
    let expected = json!([{ "id": id, "fields": [["topic", "test"], ["n", "7"]] }]);
    assert_eq!(read["payload"]["entries"], expected, "{read}");
    let payload = json!({ "any": ["thing", 1.5, null, "ä\u{0}"] });
    let echo = socket.ask("echo", Value::Null, payload.clone()).await;
    assert_eq!(echo["payload"], payload);
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=1));
}

#[tokio::test]
async fn a_duplicate_is_an_error_that_names_the_cursor() {
    let stand = hub().await;
    let mut socket = connect(&stand).await;
    socket.ask("xadd", 1, entry_body(5)).await;
    let answer = socket.ask("xadd", 2, entry_body(5)).await;
    assert_eq!(error(&answer), (409, "duplicate".to_owned()));
    assert_eq!(answer["payload"]["seq"], "5-0", "{answer}");
}

#[tokio::test]
async fn a_batch_works_as_over_http() {
    let stand = hub().await;
    let mut socket = connect(&stand).await;
    let batch = json!({ "entries": (1..=20).map(entry_body).collect::<Vec<_>>() });
    let answer = socket.ask("xadd", 1, batch.clone()).await;
    let expected = json!({ "seq": "20-0", "accepted": 20, "duplicates": 0, "refused": [] });
    assert_eq!(answer["payload"], expected);
    let again = socket.ask("xadd", 2, batch).await;
    assert_eq!(again["payload"]["duplicates"], 20, "{again}");
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=20));
}

#[tokio::test]
async fn every_awkward_entry_goes_both_ways_bit_for_bit() {
    let stand = hub().await;
    let mut socket = connect(&stand).await;
    let mut after = "0-0".to_owned();
    for (n, (what, fields)) in (1u64..).zip(awkward()) {
        let own = fields.iter().map(|(name, value)| (name.clone().into(), value.clone().into()));
        let entry = json!({ "seq": format!("{n}-0"), "fields": Fields(own.collect()) });
        let added = socket.ask("xadd", n, entry).await;
        assert!(added["error"].is_null(), "{what}: {added:.300}");
        let stored = stand.redis.entries(IN).await.pop().unwrap();
        assert!(stored.fields[3..] == fields, "{what} did not arrive as it was sent");

        let id = stand.redis.add(OUT, &fields).await;
        let mut read = socket.ask("xread", n, json!({ "seq": after })).await;
        let read: XreadBody = serde_json::from_value(read["payload"].take()).unwrap();
        let received = read.entries[0].fields.0.iter().map(|(n, v)| (n.to_vec(), v.to_vec()));
        assert!(received.collect::<Vec<_>>() == fields, "{what} was changed");
        after = id;
    }
}

#[tokio::test]
async fn a_bad_request_gets_an_error_with_its_id_and_the_connection_stays_open() {
    let stand = hub().await;
    let mut socket = connect(&stand).await;
    let table = [
        ("no-such-type", json!({})),
        ("xadd", json!({})),
        ("xadd", json!({ "seq": "x", "fields": [] })),
        ("xadd", json!({ "seq": "1-0", "fields": [["client", "dev2"]] })),
        ("xadd", Value::Null),
        ("xread", json!({ "seq": 7 })),
        ("xread", json!({ "count": -1 })),
        ("xread", json!({ "blockMs": "soon" })),
    ];
    for (n, (kind, payload)) in table.into_iter().enumerate() {
        let answer = socket.ask(kind, n, payload).await;
        assert_eq!(error(&answer).0, 400, "{answer}");
    }
    for text in ["", "{", "[]", "7", "null", r#"{"id":1}"#, r#"{"type":7,"id":1}"#] {
        socket.send(Message::text(text)).await;
        assert_eq!(error(&socket.json().await).0, 400, "{text}");
    }
    let cursor = socket.ask("id", "still here", json!({})).await;
    assert_eq!(cursor["payload"]["seq"], "0-0", "nothing was stored: {cursor}");
}

#[tokio::test]
async fn a_waiting_read_does_not_block_other_requests_of_the_same_socket() {
    let stand = hub().await;
    let mut socket = connect(&stand).await;
    let waiting = json!({ "type": "xread", "id": "waiting", "payload": { "blockMs": 20_000 } });
    socket.send_json(&waiting).await;
    for n in 1..=5u64 {
        let begun = Instant::now();
        socket.ask("xadd", n, entry_body(n)).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    }
    let id = stand.redis.add(OUT, &numbered(1)).await;
    let answer = socket.json().await;
    assert_eq!((&answer["id"], &answer["type"]), (&json!("waiting"), &json!("xread")));
    assert_eq!(answer["payload"]["entries"][0]["id"], id, "{answer}");
}

#[tokio::test]
async fn concurrent_requests_are_each_answered_once() {
    let stand = hub().await;
    let mut socket = connect(&stand).await;
    for id in 0..50 {
        socket.send_json(&json!({ "type": "echo", "id": id, "payload": id * 2 })).await;
    }
    let mut answered = Vec::new();
    for _ in 0..50 {
        let answer = socket.json().await;
        let id = answer["id"].as_u64().unwrap();
        assert_eq!(answer["payload"], id * 2);
        answered.push(id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn concurrent_equal_entries_are_stored_once() {
    let stand = hub().await;
    let mut socket = connect(&stand).await;
    for id in 0..5 {
        socket.send_json(&json!({ "type": "xadd", "id": id, "payload": entry_body(1) })).await;
    }
    let mut stored = 0;
    for _ in 0..5 {
        let answer = socket.json().await;
        match answer["error"].as_bool() {
            Some(true) => assert_eq!(error(&answer), (409, "duplicate".to_owned())),
            _ => stored += 1,
        }
    }
    assert_eq!((stored, stand.redis.length(IN).await), (1, 1));
}

#[tokio::test]
async fn a_binary_message_is_refused() {
    let stand = hub().await;
    let mut socket = connect(&stand).await;
    socket.send(Message::binary(br#"{"type":"echo","id":1}"#.to_vec())).await;
    // Either an error answer or a close frame with a reason.
    match socket.next().await {
        spoke_tests::websocket::Heard::Text(text) => {
            error(&serde_json::from_str(&text).unwrap());
        }
        spoke_tests::websocket::Heard::Closed(how) => {
            assert!(how.is_some(), "closed without a reason")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_hub_that_shuts_down_closes_the_connection_with_a_close_frame() {
    let mut stand = hub().await;
    let mut socket = connect(&stand).await;
    socket.ask("echo", 1, json!("here")).await;
    socket.send_json(&json!({ "type": "xread", "id": 2, "payload": { "blockMs": 20_000 } })).await;
    let status = stand.service.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(socket.closed().await.is_some(), "closed without a close frame");
}
