//! The log: nobody can fill it from outside, and what happened is told all the same.

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
/// Lines for each thing that is done a thousand times: one at first, one a minute, one at the end.
const LINES_EACH: usize = 4;

/// The lines that were written since, as JSON.
fn lines(stand: &Stand, before: usize) -> Vec<Value> {
    let log = stand.service.log();
    log.lines()
        .skip(before)
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

fn of_reason<'a>(lines: &'a [Value], reason: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["reason"] == reason).collect()
}

/// The same a thousand times, twenty at once.
async fn a_thousand_times(send: impl AsyncFn() -> u16, status: u16) {
    for _ in 0..TIMES / 20 {
        for answered in join_all((0..20).map(|_| send())).await {
            assert_eq!(answered, status);
        }
    }
}

/// Each begins with its refusal and, when all is over, ends with a count: all together a thousand.
fn assert_told(lines: &[Value], reason: &str) {
    let told = of_reason(lines, reason);
    assert!((2..=LINES_EACH).contains(&told.len()), "{reason} is told in {} lines", told.len());
    assert_eq!(told[0]["peer"], "127.0.0.1", "{told:?}");
    let counted: u64 = told.iter().filter_map(|line| line["count"].as_u64()).sum();
    assert_eq!(counted + 1, TIMES as u64, "{told:?}");
}

#[tokio::test]
async fn a_refusal_of_the_hub_a_thousand_times_is_a_line_and_a_count() {
    let mut stand = hub(&[]).await;
    let before = lines(&stand, 0).len();
    let (nobody, evil) = (stand.api().with_token("x"), stand.client("evil").await);
    let call = async |api: &Api, method: Method, path: &str| {
        api.call(api.request(method, path).json(&json!({ "nonsense": 1 }))).await.status
    };
    a_thousand_times(async || call(&nobody, Method::GET, "/seq").await, 401).await;
    a_thousand_times(async || call(&nobody, Method::GET, "/seq?token=x").await, 400).await;
    a_thousand_times(async || call(&evil, Method::POST, "/xadd").await, 400).await;
    a_thousand_times(async || call(&evil, Method::GET, "/nowhere").await, 404).await;
    a_thousand_times(async || call(&evil, Method::DELETE, "/xadd").await, 405).await;

    assert_eq!(stand.service.terminate().await.code(), Some(0));

    let lines = lines(&stand, before);
    for reason in ["unauthorized", "token-in-url", "malformed", "not-found", "method-not-allowed"] {
        assert_told(&lines, reason);
    }
    assert!(lines.len() < 40, "{} lines", lines.len());
}

#[tokio::test]
async fn sessions_that_are_begun_a_thousand_times_fill_no_log() {
    let stand = hub(&[]).await;
    let evil = stand.client("evil").await;
    let before = lines(&stand, 0).len();
    let address = stand.service.address();
    for n in 0..TIMES {
        let subprotocol = [SUBPROTOCOL, JSON_SUBPROTOCOL][n % 2];
        let offer = Offer::of(evil.token().unwrap(), subprotocol);
        if let Ok(mut socket) = Socket::connect(address, &offer).await {
            // What is no HELLO, and what is no request.
            socket.send(Message::binary(b"\xc1".to_vec())).await;
        }
        evil.post_json("/session", &json!({})).await;
    }
    let lines = lines(&stand, before);
    // A burst of sixty sessions and one a second, of two lines each, however fast this was.
    assert!(lines.len() < 400, "{} lines", lines.len());
    assert!(!of_reason(&lines, "too-many-sessions").is_empty(), "it is not said what goes on");
}

#[tokio::test]
async fn a_refusal_of_auth_a_thousand_times_is_a_line_and_a_count() {
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
    assert_told(&lines, "malformed");
    for reason in ["refused", "throttled"] {
        let told = of_reason(&lines, reason).len();
        assert!((2..=LINES_EACH).contains(&told), "{reason} is told in {told} lines");
    }
    let throttled = lines.iter().filter(|line| {
        line["message"].as_str().is_some_and(|text| text.contains("requests throttled"))
    });
    assert!((1..=8).contains(&throttled.count()), "{lines:?}");
    assert!(lines.len() < 30, "{} lines", lines.len());
    assert!(!stand.service.log().to_lowercase().contains(SECRET), "a secret is in the log");
}
