//! `POST /session`: the handshake of the HTTP transport, and fencing by its generation.

use http::Method;
use serde_json::{Value, json};
use spoke_tests::{
    api::{Answer, Api},
    entries::numbered,
};

use crate::hub_http::{IN, OUT, assert_read_waits, entry_bodies, entry_body, hub};

fn hello() -> Value {
    let origin = json!({
        "epoch": 0, "start": "0-0", "first": "0-0", "last": "0-0", "added": 0, "acked": "0-0",
    });
    json!({ "version": "0.1.0-test", "origin": origin, "cursor": { "epoch": 0, "seq": "0-0" } })
}

async fn fenced(api: &Api, method: Method, path: &str, generation: u64, body: &Value) -> Answer {
    let request = api.request(method, path).header("spoke-generation", generation);
    api.call(request.json(body)).await
}

#[tokio::test]
async fn a_session_reports_the_positions_of_both_streams() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &json!({ "entries": entry_bodies(1, 3) })).await.ok();
    let last = stand.redis.add(OUT, &numbered(1)).await;

    let welcome = dev1.post_json("/session", &hello()).await.ok();

    assert!(welcome["generation"].is_u64(), "{welcome}");
    assert_eq!(welcome["cursor"]["seq"], "3-0", "{welcome}");
    assert_eq!(welcome["origin"]["last"], last, "{welcome}");
    let time = welcome["serverTimeMs"].as_u64().expect("the answer has the time");
    assert!(time.abs_diff(spoke_tests::cloud::now_ms()) < 60_000);
    assert!(welcome["granted"].is_object(), "{welcome}");
}

#[tokio::test]
async fn a_newer_session_stops_the_older_one_from_reading_and_writing() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let older = dev1.post_json("/session", &hello()).await.ok()["generation"].as_u64().unwrap();
    let written = fenced(&dev1, Method::POST, "/xadd", older, &entry_body("1-0", 1)).await;
    assert_eq!(written.status, 200, "{written:?}");

    let newer = dev1.post_json("/session", &hello()).await.ok()["generation"].as_u64().unwrap();

    assert!(newer > older);
    let batch = json!({ "entries": entry_bodies(2, 1) });
    for (method, path, body) in [
        (Method::POST, "/xadd", &entry_body("2-0", 2)),
        (Method::POST, "/xadd", &batch),
        (Method::GET, "/xread", &Value::Null),
    ] {
        let answer = fenced(&dev1, method, path, older, body).await;
        assert_eq!(answer.refusal(), (409, "superseded".to_owned()), "{path}");
    }
    assert_eq!(stand.redis.length(IN).await, 1, "the older session wrote nothing");
    let written = fenced(&dev1, Method::POST, "/xadd", newer, &entry_body("2-0", 2)).await;
    assert_eq!(written.status, 200, "{written:?}");
    let read = fenced(&dev1, Method::GET, "/xread", newer, &Value::Null).await;
    assert_eq!(read.status, 200, "{read:?}");
}

#[tokio::test]
async fn a_waiting_read_of_a_superseded_session_gets_no_new_entries() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let older = dev1.post_json("/session", &hello()).await.ok()["generation"].as_u64().unwrap();
    let waiting = tokio::spawn({
        let dev1 = dev1.clone();
        async move { fenced(&dev1, Method::GET, "/xread?blockMs=10000", older, &Value::Null).await }
    });
    assert_read_waits(&stand).await;
    dev1.post_json("/session", &hello()).await.ok();
    stand.redis.add(OUT, &numbered(1)).await;
    let answer = waiting.await.unwrap();
    assert_eq!(answer.refusal(), (409, "superseded".to_owned()));
}

#[tokio::test]
async fn sessions_of_another_client_do_not_fence() {
    let stand = hub().await;
    let (dev1, dev2) = (stand.client("dev1").await, stand.client("dev2").await);
    let generation =
        dev1.post_json("/session", &hello()).await.ok()["generation"].as_u64().unwrap();
    for _ in 0..3 {
        dev2.post_json("/session", &hello()).await.ok();
    }
    assert_eq!(
        fenced(&dev1, Method::POST, "/xadd", generation, &entry_body("1-0", 1)).await.status,
        200
    );
}

#[tokio::test]
async fn malformed_hellos_and_generations_are_refused() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let mut bad_origin = hello();
    bad_origin["origin"]["last"] = json!("x");
    let mut bad_instance = hello();
    bad_instance["instance"] = json!("0");
    for body in [json!({}), json!([]), bad_origin, bad_instance, json!({ "version": 1 })] {
        let answer = dev1.post_json("/session", &body).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{body}");
    }
    for generation in ["x", "-1", "18446744073709551616"] {
        let request = dev1.request(Method::POST, "/xadd").header("spoke-generation", generation);
        let answer = dev1.call(request.json(&entry_body("1-0", 1))).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{generation}");
    }
}
