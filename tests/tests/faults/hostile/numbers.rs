//! Extreme numbers in every field: none duplicates an entry, and none is reported as a fault of Redis.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use spoke_protocol::{
    Epoch, Seq, Tally, TallyPrecision,
    message::{Cursor, Features, Hello, OriginState},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    api::Api,
    cloud::{IN, admit, now_ms},
    hostile::frames::{Batch, Claim, Lost, empty_push, greeting, push_with_tally},
    single_service::Stand,
    websocket::{Heard, JSON_SUBPROTOCOL, hello, open},
};
use tokio_tungstenite::tungstenite::Message;

use crate::hostile::hub;

/// How often each is sent.
const TIMES: usize = 4;
const HALF: u64 = 1 << 63;
/// Counts around the limits of a double, a signed and an unsigned integer, and of their sums.
const COUNTS: [u64; 9] = [
    (1 << 53) - 1,
    1 << 53,
    100_000_000_000_000_000,
    1_000_000_000_000_000_000,
    HALF - 2,
    HALF - 1,
    HALF,
    HALF + 1,
    u64::MAX,
];
const EPOCHS: [u64; 8] =
    [2, 3, 1 << 31, (1 << 32) - 1, (1 << 53) - 1, (1 << 53) + 1, HALF, u64::MAX];

/// Seqs with an extreme `ms` or `n`.
fn seqs() -> Vec<Seq> {
    let day = now_ms() + 24 * 3_600_000;
    vec![
        Seq::new(1, u64::MAX),
        Seq::new(now_ms(), u64::MAX),
        Seq::new(day - 60_000, u64::MAX),
        Seq::new(day + 60_000, 0),
        Seq::new(HALF - 1, 0),
        Seq::new(u64::MAX, 0),
        Seq::MAX,
    ]
}

/// Bodies of `/xadd`, each with at most one entry.
fn bodies() -> Vec<Value> {
    let now = now_ms();
    let entry = |seq: Seq| json!([{ "seq": seq.to_string(), "fields": [["n", "1"]] }]);
    let plain = entry(Seq::new(now, 0));
    let mut bodies = Vec::new();
    for count in COUNTS {
        let loss = |ms: u64| {
            let from = format!("{ms}-0");
            json!({ "epoch": 1, "from": from, "to": from, "count": count, "cause": "trimmed" })
        };
        let many: Vec<_> = (0..16).map(|n| loss(now - 100 + n)).collect();
        for losses in [vec![loss(now - 1)], many] {
            let account = json!({ "tally": "~", "losses": losses });
            bodies.push(json!({ "entries": plain, "account": account }));
        }
        for tally in
            [format!("{count},0,0"), format!("{count},{count},0"), format!("{count},0,{count}~")]
        {
            bodies.push(json!({ "epoch": 1, "entries": plain, "account": { "tally": tally } }));
        }
    }
    for epoch in EPOCHS {
        for is_inherited in [false, true] {
            let account = json!({ "is_inherited": is_inherited });
            bodies.push(json!({ "epoch": epoch, "entries": plain, "account": account }));
        }
        bodies.push(json!({ "epoch": epoch, "entries": [], "through": format!("{now}-0") }));
    }
    for seq in seqs() {
        let text = seq.to_string();
        bodies.push(json!({ "seq": text, "fields": [["n", "1"]] }));
        bodies.push(json!({ "entries": entry(seq) }));
        bodies.push(json!({ "entries": plain, "through": text }));
        bodies.push(json!({ "entries": [], "through": text }));
        bodies.push(json!({ "entries": entry(seq), "after": text }));
        bodies.push(json!({ "epoch": u64::MAX, "entries": entry(seq), "through": text }));
    }
    bodies
}

/// Asserts that no entry is in the copy twice.
async fn assert_each_once(stand: &Stand, what: &str) {
    let mut copies = BTreeMap::<_, u32>::new();
    for entry in stand.redis.entries(IN).await {
        *copies.entry(["client", "epoch", "seq"].map(|name| entry.text(name))).or_default() += 1;
    }
    let twice: Vec<_> = copies.iter().filter(|(_, copies)| **copies > 1).collect();
    assert!(twice.is_empty(), "{what}: {twice:?}");
}

/// Asserts that the log blames no fault on Redis, and that another client is still served.
async fn assert_healthy(stand: &Stand, good: &Api, what: &str) {
    assert_each_once(stand, what).await;
    let log = stand.service.log();
    let blamed = log.lines().find(|line| line.contains("\"WARN\"") && line.contains("redis"));
    assert_eq!(blamed, None, "{what}");
    let body = json!({ "seq": format!("{}-0", now_ms()), "fields": [["n", "1"]] });
    assert!(matches!(good.post_json("/xadd", &body).await.status, 200 | 409), "{what}");
}

#[tokio::test]
async fn an_extreme_number_over_http_duplicates_no_entry() {
    let stand = hub(&[]).await;
    let good = stand.client("good").await;
    for (n, body) in bodies().into_iter().enumerate() {
        let api = stand.client(&format!("evil{n}")).await;
        let mut last = None;
        for _ in 0..TIMES {
            let answer = api.post_json("/xadd", &body).await;
            assert!(answer.status < 500, "{body}: {answer:?}");
            // Only the first of them may add an entry.
            let answered = match answer.status {
                200 => {
                    assert!(last.is_none() || answer.json()["accepted"] == 0, "{body}: {answer:?}");
                    (200, String::new())
                }
                _ => answer.refusal(),
            };
            if let Some((status, _)) = &last
                && *status != 200
            {
                assert_eq!(last.as_ref(), Some(&answered), "{body}: the refusal changed");
            }
            last = Some(answered);
        }
        assert_each_once(&stand, &body.to_string()).await;
    }
    assert_healthy(&stand, &good, "all of them").await;
}

#[tokio::test]
async fn an_extreme_number_in_a_message_duplicates_no_entry() {
    let stand = hub(&[]).await;
    let good = stand.client("good").await;
    for (n, body) in bodies().into_iter().enumerate() {
        let token = admit(&stand.redis, &format!("evil{n}")).await;
        let mut socket = open(stand.service.address(), &token, JSON_SUBPROTOCOL).await;
        for id in 0..TIMES {
            let answer = socket.ask("xadd", id, body.clone()).await;
            if answer["error"] == true {
                let code = answer["payload"]["code"].as_u64();
                assert!(code < Some(500), "{body}: {answer}");
            }
        }
    }
    assert_healthy(&stand, &good, "messages").await;
}

#[tokio::test]
async fn an_extreme_number_in_a_frame_duplicates_no_entry() {
    let stand = hub(&[]).await;
    let good = stand.client("good").await;
    let batch = Batch::new(1, 1, b"n", b"1");
    let now = now_ms();
    let mut frames = Vec::new();
    for count in COUNTS {
        let lost = |ms| Lost { range: (Seq::new(ms, 0), Seq::new(ms, 9)), count };
        let many: Vec<_> = (0..16).map(|n| lost(now - 100 + n)).collect();
        frames.push(batch.push(&Claim::at(now), &[lost(now - 1)]));
        frames.push(batch.push(&Claim::at(now), &many));
        for flags in [1, 4, 2, 7] {
            frames.push(push_with_tally(Seq::new(now, 0), [count, 0, 0], flags));
            frames.push(push_with_tally(Seq::new(now, 0), [count, count, count], flags));
        }
    }
    for epoch in EPOCHS {
        for flags in [0, 2] {
            frames.push(batch.push(&Claim { epoch, flags, ..Claim::at(now) }, &[]));
        }
        frames.push(empty_push(epoch, Seq::ZERO, Seq::new(now, 0)));
    }
    for seq in seqs() {
        frames.push(batch.push(&Claim { first: seq, ..Claim::at(now) }, &[]));
        frames.push(batch.push(&Claim { through: Some(seq), ..Claim::at(now) }, &[]));
        frames.push(empty_push(1, Seq::ZERO, seq));
        frames.push(empty_push(1, seq, Seq::MAX));
        frames.push(empty_push(u64::MAX, Seq::ZERO, seq));
    }
    for (n, frame) in frames.into_iter().enumerate() {
        let token = admit(&stand.redis, &format!("evil{n}")).await;
        for _ in 0..TIMES {
            let mut socket = open(stand.service.address(), &token, SUBPROTOCOL).await;
            socket.send(Message::binary(greeting(Features::default()))).await;
            socket.send(Message::binary(frame.clone())).await;
            socket.send(Message::binary(frame.clone())).await;
            // WELCOME, and the answer to the frame.
            let answers = [socket.next().await, socket.next().await];
            assert!(matches!(answers[0], Heard::Bytes(_)), "frame {n}: {answers:?}");
        }
    }
    assert_healthy(&stand, &good, "frames").await;
}

#[tokio::test]
async fn a_greeting_with_extreme_numbers_does_no_harm() {
    let stand = hub(&[]).await;
    let good = stand.client("good").await;
    let mut greetings = Vec::new();
    for count in COUNTS {
        for epoch in EPOCHS {
            let tally =
                Tally { added: count, dead: 0, lost: count, precision: TallyPrecision::Exact };
            let epoch = Epoch(epoch);
            let [seq, old] = [Seq::MAX, Seq::new(1, 0)];
            let origin =
                OriginState { epoch, start: old, first: old, last: seq, added: count, acked: seq };
            let cursor = Cursor { epoch, seq, tally, ..Cursor::default() };
            greetings.push(Hello { origin, cursor, ..hello() });
        }
    }
    for (n, greeting) in greetings.into_iter().enumerate() {
        let client = format!("evil{n}");
        let api = stand.client(&client).await;
        let form = |origin: OriginState, cursor: Cursor| {
            let origin = spoke_protocol::wire::json::OriginBody::from(origin);
            let cursor = spoke_protocol::wire::json::CursorBody::from(cursor);
            json!({ "version": "0", "origin": origin, "cursor": cursor })
        };
        let mut socket = open(stand.service.address(), api.token().unwrap(), SUBPROTOCOL).await;
        socket.send_frame(&spoke_protocol::message::Frame::Hello(Box::new(greeting.clone()))).await;
        let answers = socket.next().await;
        assert!(matches!(answers, Heard::Bytes(_)), "{greeting:?}: {answers:?}");
        for _ in 0..2 {
            let body = form(greeting.origin, greeting.cursor);
            let answer = api.post_json("/session", &body).await;
            assert!(answer.status < 500, "{body}: {answer:?}");
        }
    }
    assert_healthy(&stand, &good, "greetings").await;
}
