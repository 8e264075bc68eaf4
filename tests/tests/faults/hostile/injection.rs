//! Client text that another program would take for a command, a key, a script or a log line.

use serde_json::{Value, json};
use spoke_protocol::{
    message::{Frame, Goaway, GoawayReason, Hello},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    checker::from_device,
    cloud::{IN, out},
    single_service::Stand,
    wait::eventually_true,
    websocket::{hello, open},
};

use crate::hostile::hub;

/// Texts with a meaning for Redis, Lua, a shell, a log, a terminal or a web page.
const TEXTS: [&str; 14] = [
    "*1\r\n$8\r\nFLUSHALL\r\n",
    "\r\nFLUSHALL\r\n",
    "'); redis.call('FLUSHALL'); --",
    "]] redis.call('FLUSHALL') [[",
    "${KEYS[1]} {0} %s%n%p \\0",
    "spoke-hub:out:dev2:x",
    "spoke-auth:client:dev2:h",
    "0-1 MAXLEN 0 *",
    "$(reboot) `reboot` ; reboot",
    "\"}\n{\"level\":\"ERROR\",\"message\":\"the disk is on fire\"}",
    "\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}[31mERROR",
    "\u{9b}31m\u{202e}txet\u{2066}",
    "a\u{0}b\u{8}\u{7f}\u{85}\u{2028}c",
    "<script>fetch('/send')</script>",
];

async fn keys(stand: &Stand) -> Vec<String> {
    let mut keys: Vec<String> = stand.redis.command(&["KEYS", "*"]).await;
    keys.sort();
    keys
}

#[tokio::test]
async fn text_that_looks_like_a_command_is_carried_unchanged_and_never_executed() {
    let stand = hub(&[]).await;
    let (evil, dev2) = (stand.client("evil").await, stand.client("dev2").await);
    stand.redis.add(&out("dev2"), &vec![(b"n".to_vec(), b"1".to_vec())]).await;
    for api in [&evil, &dev2] {
        api.post_json("/xadd", &json!({ "seq": "1-0", "fields": [["n", "1"]] })).await.ok();
    }
    let before = keys(&stand).await;
    let theirs = stand.redis.hash("spoke-hub:client:dev2:h").await;
    for (n, text) in TEXTS.iter().enumerate() {
        let seq = format!("{}-0", n + 2);
        let entry = json!({ "seq": seq, "fields": [[text, text], ["after", text]] });
        evil.post_json("/xadd", &entry).await.ok();
        // Where a number or seq is expected, the text is refused.
        for body in [
            json!({ "seq": text, "fields": [["n", "1"]] }),
            json!({ "entries": [], "after": text }),
            json!({ "entries": [], "through": text }),
            json!({ "entries": [], "account": { "tally": text } }),
            json!({ "entries": [], "epoch": text }),
            json!({ "entries": [], "seal": text }),
        ] {
            assert_eq!(evil.post_json("/xadd", &body).await.refusal().0, 400, "{body}");
        }
        let cause = json!([{ "epoch": 1, "from": "1-0", "to": "1-0", "count": 1, "cause": text }]);
        let batch = json!({ "entries": [], "account": { "tally": "~", "losses": cause } });
        assert!(evil.post_json("/xadd", &batch).await.status < 500, "{batch}");
    }

    let carried = from_device(&stand.redis.entries(IN).await, "evil");
    assert_eq!(carried.len(), 1 + TEXTS.len());
    for (entry, text) in carried[1..].iter().zip(TEXTS) {
        let text = text.as_bytes().to_vec();
        assert_eq!(entry.fields, [(text.clone(), text.clone()), (b"after".to_vec(), text)]);
    }
    let more: Vec<_> = keys(&stand).await.into_iter().filter(|key| !before.contains(key)).collect();
    assert!(more.iter().all(|key| key == "spoke-hub:lost:x"), "keys were created: {more:?}");
    assert_eq!(stand.redis.length(&out("dev2")).await, 1);
    assert_eq!(stand.redis.hash("spoke-hub:client:dev2:h").await, theirs);
}

#[tokio::test]
async fn client_text_can_neither_forge_a_log_line_nor_control_a_terminal() {
    for format in ["json", "text"] {
        let stand = hub(&[("log.format", format)]).await;
        let address = stand.service.address();
        for (n, text) in TEXTS.iter().enumerate() {
            let api = stand.client(&format!("evil{n}")).await;
            let token = api.token().unwrap();
            let mut socket = open(address, token, SUBPROTOCOL).await;
            let hello = Hello { version: (*text).to_owned(), ..hello() };
            socket.send_frame(&Frame::Hello(Box::new(hello))).await;
            socket.next().await;
            let message = (*text).to_owned();
            let goaway = Goaway { reason: GoawayReason::Restart, message, wait_ms: 0 };
            socket.send_frame(&Frame::Goaway(goaway)).await;
            let empty = json!({ "epoch": 1, "start": "0-0", "first": "0-0", "last": "0-0", "added": 0, "acked": "0-0" });
            let cursor = json!({ "epoch": 0, "seq": "0-0" });
            let session = json!({ "version": text, "origin": empty, "cursor": cursor });
            assert!(api.post_json("/session", &session).await.status < 500);
            // And in a header.
            let agent = api.request(http::Method::GET, "/seq").header("user-agent", "x\u{85}y");
            assert!(api.call(agent).await.status < 500);
        }
        eventually_true("the sessions to be in the log", async || {
            stand.service.log().matches("session ended").count() >= TEXTS.len()
        })
        .await;
        let log = stand.service.log();
        let is_printable =
            |c: char| c == '\n' || !(c.is_control() || "\u{2028}\u{202e}\u{2066}".contains(c));
        let odd: Vec<_> = log.lines().filter(|line| !line.chars().all(is_printable)).collect();
        assert!(odd.is_empty(), "{format}: the log contains control characters: {odd:?}");
        for line in log.lines() {
            match format {
                "json" => {
                    let line: Value = serde_json::from_str(line).expect("each line is JSON");
                    assert_ne!(line["message"], "the disk is on fire");
                }
                _ => assert!(!line.starts_with("{\"level\""), "a log line was forged: {line}"),
            }
        }
        let shown = stand.command(&["clients"]).await.done().stdout;
        let odd = shown.chars().find(|c| !is_printable(*c));
        assert_eq!(odd, None, "{format}: {shown:?}");
    }
}
