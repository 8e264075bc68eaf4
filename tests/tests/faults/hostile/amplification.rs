//! Bodies and messages of four mebibytes that expand to as much memory as possible.

use futures_util::future::join_all;
use spoke_tests::{
    cloud::admit,
    load_probe::Siege,
    websocket::{JSON_SUBPROTOCOL, open},
};
use tokio_tungstenite::tungstenite::Message;

use crate::hostile::{good_client, hub};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_expand_in_memory_are_bounded_while_a_good_client_notices_nothing() {
    let mut stand = hub(&[]).await;
    let pid = stand.service.process().pid();
    let evil = stand.client("evil").await;
    let filled = |prefix: &str, element: &str, suffix: &str| {
        let available = (4 << 20) - prefix.len() - suffix.len();
        let middle = vec![element; available / (element.len() + 1)].join(",");
        [prefix, &middle, suffix].concat()
    };
    let bodies = [
        (400, format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        (
            400,
            format!(r#"{{"seq":"1-0","fields":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
        ),
        (
            400,
            format!(
                r#"{{"seq":"1-0","fields":{}{}}}"#,
                r#"{"a":"#.repeat(100_000),
                "}".repeat(100_000)
            ),
        ),
        (400, r#"{"seq":1e999999999,"fields":[]}"#.to_owned()),
        (400, format!(r#"{{"seq":"1-0","fields":[],"epoch":{}}}"#, "9".repeat(1 << 20))),
        (400, format!(r#"{{"seq":"{}-0","fields":[["a","b"]]}}"#, "9".repeat(1 << 20))),
        (400, format!(r#"{{"{}":1}}"#, "x".repeat(4_000_000))),
        (400, filled(r#"{"seq":"1-0","fields":["#, r#"["",""]"#, "]}")),
        (400, filled(r#"{"seq":"1-0","fields":{"#, r#""":"""#, "}}")),
        (413, filled(r#"{"entries":["#, r#"{"seq":"1-0","fields":{"":""}}"#, "]}")),
        (400, filled("", "1", "")),
    ];
    let attack = async || {
        for (status, body) in &bodies {
            let mut decoded = 0;
            let answers = join_all(
                (0..16).map(|_| evil.post_body("/xadd", "application/json", body.as_str())),
            );
            for answer in answers.await {
                // 503 if the memory budget is used up.
                let found = answer.refusal().0;
                assert!([*status, 503].contains(&found), "{:.60}: {answer:?}", body);
                decoded += usize::from(found == *status);
                assert!(answer.text.len() < 2000, "{:.60}: the answer repeats the body", body);
            }
            assert!(decoded > 0, "{body:.60}: none was decoded");
        }
    };

    let siege = Siege::lay(pid, async |recorder| good_client(&stand, recorder).await, attack).await;

    // Sixteen bodies of 4 MiB, and the memory that decoding them needs.
    siege.assert_borne("bodies that expand", 256);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_messages_that_expand_are_bounded_while_a_good_client_notices_nothing() {
    let mut stand = hub(&[]).await;
    let pid = stand.service.process().pid();
    let token = admit(&stand.redis, "evil").await;
    let list = vec!["1"; 2_000_000].join(",");
    let messages = [
        format!(r#"{{"type":"echo","id":1,"payload":[{list}]}}"#),
        format!(r#"{{"type":"echo","id":[{list}]}}"#),
        format!(r#"{{"id":1,"payload":[{list}]}}"#),
        format!("[{list}]"),
        format!(
            r#"{{"type":"echo","id":1,"payload":{}{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        ),
        format!(r#"{{"type":"xadd","id":1,"payload":{{"{}":1}}}}"#, "x".repeat(4_000_000)),
    ];
    let address = stand.service.address();
    let attack = async || {
        let mut sockets = Vec::new();
        for _ in 0..8 {
            sockets.push(open(address, &token, JSON_SUBPROTOCOL).await);
        }
        for message in &messages {
            let all = sockets.iter_mut().map(async |socket| {
                socket.send(Message::text(message.as_str())).await;
                socket.next().await
            });
            join_all(all).await;
        }
    };

    let siege = Siege::lay(pid, async |recorder| good_client(&stand, recorder).await, attack).await;

    siege.assert_borne("messages that expand", 64);
}
