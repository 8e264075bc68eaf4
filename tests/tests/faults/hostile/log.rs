//! The log: no client can flood it, and what happened is logged all the same.

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use spoke_protocol::wire::frame::SUBPROTOCOL;
use spoke_tests::{
    api::Api,
    single_service::Stand,
    websocket::{JSON_SUBPROTOCOL, Offer, Socket},
};
use tokio_tungstenite::tungstenite::Message;

use crate::hostile::{SECRET, auth, hub};

const TIMES: usize = 1000;
/// The most lines for one event a thousand times: the first, one a minute, and a count at the end.
const LINES_EACH: usize = 4;

/// The lines after the first `skipped`, as JSON.
fn lines(stand: &Stand, skipped: usize) -> Vec<Value> {
    let log = stand.service.log();
    log.lines()
        .skip(skipped)
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

fn of_reason<'a>(lines: &'a [Value], reason: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["reason"] == reason).collect()
}

/// Sends the same request a thousand times, twenty at once.
async fn a_thousand_times(send: impl AsyncFn() -> u16, status: u16) {
    for _ in 0..TIMES / 20 {
        for answered in join_all((0..20).map(|_| send())).await {
            assert_eq!(answered, status);
        }
    }
}

/// Asserts that the first refusal is logged and the others are counted: a thousand in total.
fn assert_logged_and_counted(lines: &[Value], reason: &str) {
    let found = of_reason(lines, reason);
    assert!((2..=LINES_EACH).contains(&found.len()), "{reason} has {} lines", found.len());
    assert_eq!(found[0]["peer"], "127.0.0.1", "{found:?}");
    let counted: u64 = found.iter().filter_map(|line| line["count"].as_u64()).sum();
    assert_eq!(counted + 1, TIMES as u64, "{found:?}");
}

#[tokio::test]
async fn a_thousand_refusals_by_the_hub_are_logged_as_a_line_and_a_count() {
    let mut stand = hub(&[]).await;
    let before = lines(&stand, 0).len();
    let (invalid, evil) = (stand.api().with_token("x"), stand.client("evil").await);
    let call = async |api: &Api, method: Method, path: &str| {
        api.call(api.request(method, path).json(&json!({ "nonsense": 1 }))).await.status
    };
    a_thousand_times(async || call(&invalid, Method::GET, "/seq").await, 401).await;
    a_thousand_times(async || call(&invalid, Method::GET, "/seq?token=x").await, 400).await;
    a_thousand_times(async || call(&evil, Method::POST, "/xadd").await, 400).await;
    a_thousand_times(async || call(&evil, Method::GET, "/nowhere").await, 404).await;
    a_thousand_times(async || call(&evil, Method::DELETE, "/xadd").await, 405).await;

    assert_eq!(stand.service.terminate().await.code(), Some(0));

    let lines = lines(&stand, before);
    for reason in ["unauthorized", "token-in-url", "malformed", "not-found", "method-not-allowed"] {
        assert_logged_and_counted(&lines, reason);
    }
    assert!(lines.len() < 40, "{} lines", lines.len());
}

#[tokio::test]
async fn a_thousand_session_starts_do_not_flood_the_log() {
    let stand = hub(&[]).await;
    let evil = stand.client("evil").await;
    let before = lines(&stand, 0).len();
    let address = stand.service.address();
    for n in 0..TIMES {
        let subprotocol = [SUBPROTOCOL, JSON_SUBPROTOCOL][n % 2];
        let offer = Offer::of(evil.token().unwrap(), subprotocol);
        if let Ok(mut socket) = Socket::connect(address, &offer).await {
            // Neither a HELLO nor a JSON request.
            socket.send(Message::binary(b"\xc1".to_vec())).await;
        }
        evil.post_json("/session", &json!({})).await;
    }
    let lines = lines(&stand, before);
    // A burst of sixty sessions and one a second, of two lines each, however fast this test ran.
    assert!(lines.len() < 400, "{} lines", lines.len());
    assert!(
        !of_reason(&lines, "too-many-sessions").is_empty(),
        "the refused sessions are not logged"
    );
}

#[tokio::test]
async fn a_thousand_refusals_by_auth_are_logged_as_a_line_and_a_count() {
    let settings = [("throttle.address_failures_free", "20"), ("throttle.failures_free", "5")];
    let (mut stand, _) = auth(&settings).await;
    let before = lines(&stand, 0).len();
    let api = stand.api();
    let wrong = json!({ "client": "good", "secret": SECRET.to_uppercase() });
    let empty = json!({});
    for n in 0..TIMES {
        let unknown = json!({ "client": format!("made-up-{n}"), "secret": SECRET });
        let answers = tokio::join!(
            api.post_json("/login", &wrong),
            api.post_json("/login", &unknown),
            api.post_json("/login", &empty),
        );
        assert!(matches!(answers.0.status, 401 | 429 | 503), "{:?}", answers.0);
        assert!(matches!(answers.1.status, 401 | 429 | 503), "{:?}", answers.1);
        assert_eq!(answers.2.status, 400);
    }

    assert_eq!(stand.service.terminate().await.code(), Some(0));

    let lines = lines(&stand, before);
    assert_logged_and_counted(&lines, "malformed");
    for reason in ["refused", "throttled"] {
        let found = of_reason(&lines, reason).len();
        assert!((2..=LINES_EACH).contains(&found), "{reason} has {found} lines");
    }
    let throttled = lines.iter().filter(|line| {
        line["message"].as_str().is_some_and(|text| text.contains("requests throttled"))
    });
    assert!((1..=8).contains(&throttled.count()), "{lines:?}");
    assert!(lines.len() < 30, "{} lines", lines.len());
    assert!(!stand.service.log().to_lowercase().contains(SECRET), "a secret is in the log");
}
