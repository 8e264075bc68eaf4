//! JSON requests of version 0.1 against the current programs: the answers have the same form as in 0.1.

use http::Method;
use serde_json::{Value, json};
use spoke_protocol::wire::json::GENERATION_HEADER;
use spoke_tests::{
    api::Answer,
    binaries::path_of,
    cloud::{Cloud, admit, one_time_code, out},
    device::{Device, OUT},
    entries::{fields, numbered},
    process::{Start, run},
    redis::free_port,
    websocket::{JSON_SUBPROTOCOL, open},
};

use crate::fleet::golden::{HELP, json_body};

/// Keys that are left out if they have no value.
const OPTIONAL: [&str; 6] = ["digest", "tally", "loss", "losses", "account", "is_inherited"];

/// Asserts that every key of 0.1 is still there and has the same JSON type. There may be more keys.
fn assert_like(golden: &Value, found: &Value, at: &str) {
    match (golden, found) {
        (Value::Object(golden), Value::Object(found)) => {
            for (key, value) in golden {
                match found.get(key) {
                    Some(found) => assert_like(value, found, &format!("{at}.{key}")),
                    None => assert!(OPTIONAL.contains(&key.as_str()), "{at} lacks {key}: {HELP}"),
                }
            }
        }
        (Value::Array(golden), Value::Array(found)) => {
            for (golden, found) in golden.iter().zip(found) {
                assert_like(golden, found, at);
            }
        }
        // Null stands for a missing value.
        (Value::Null, _) | (_, Value::Null) => {}
        _ => {
            let is_same = std::mem::discriminant(golden) == std::mem::discriminant(found);
            assert!(is_same, "{at}: {golden} became {found}: {HELP}");
        }
    }
}

/// Asserts that an answer has this status and the form of this name.
fn assert_answer(answer: &Answer, status: u16, name: &str) -> Value {
    assert_eq!(answer.status, status, "{name}: {answer:?}: {HELP}");
    assert_like(&json_body(name), &answer.json(), name);
    answer.json()
}

#[tokio::test]
async fn auth_answers_the_requests_of_0_1_as_before() {
    let cloud = Cloud::start().await;
    cloud.provision("dev1").await;
    let auth = cloud.auth.api();
    let mut register = json_body("POST /register");
    register["otp"] = json!(one_time_code(0));
    assert_eq!(auth.post_json("/register", &register).await.status, 200, "{HELP}");
    let session = auth.post_json("/login", &json_body("POST /login")).await;
    let session = assert_answer(&session, 200, "a session");
    let auth = auth.with_token(session["sessionToken"].as_str().unwrap());
    let session = assert_answer(&auth.post("/refresh").await, 200, "a session");
    let auth = auth.with_token(session["sessionToken"].as_str().unwrap());
    assert_eq!(auth.post("/logout").await.status, 204, "{HELP}");
    let refusal = auth.post("/refresh").await;
    assert_eq!(refusal.refusal().0, 401, "{HELP}");
}

#[tokio::test]
async fn the_hub_answers_the_requests_of_0_1_as_before() {
    let cloud = Cloud::start().await;
    let dev1 = cloud.client("dev1").await;
    let welcome = dev1.post_json("/session", &json_body("POST /session")).await;
    let welcome = assert_answer(&welcome, 200, "a welcome");
    let batch = dev1.request(Method::POST, "/xadd").json(&json_body("POST /xadd of a batch"));
    let batch = batch.header(GENERATION_HEADER, welcome["generation"].to_string());
    let added = assert_answer(&dev1.call(batch).await, 200, "a batch added");
    assert_eq!((&added["seq"], &added["accepted"]), (&json!("1700000000004-9"), &json!(2)));
    assert_answer(&dev1.get("/seq").await, 200, "GET /seq");

    let dev2 = cloud.client("dev2").await;
    let one = json_body("POST /xadd of one");
    assert_answer(&dev2.post_json("/xadd", &one).await, 200, "one added");
    assert_answer(&dev2.post_json("/xadd", &one).await, 409, "a duplicate");
    let entry = fields([(&b"topic"[..], &b"test"[..]), (b"a", b"\xff")]);
    cloud.redis.add(&out("dev2"), &entry).await;
    let query = json_body("GET /xread");
    let read = dev2.get(&format!("/xread?{}", query.as_str().unwrap())).await;
    let read = assert_answer(&read, 200, "a read");
    assert_eq!(read["entries"][0]["fields"], json_body("a read")["entries"][0]["fields"], "{HELP}");
    let stale = dev2.get("/xread?seq=0-0&epoch=7").await;
    assert_answer(&stale, 409, "a refusal");

    let token = admit(&cloud.redis, "dev3").await;
    let mut socket = open(cloud.hub.address(), &token, JSON_SUBPROTOCOL).await;
    socket.send_json(&json_body("spoke.v1.json")).await;
    let name = "an answer of spoke.v1.json";
    assert_like(&json_body(name), &socket.json().await, name);
}

#[tokio::test]
async fn the_json_output_of_commands_keeps_the_fields_of_0_1() {
    let cloud = Cloud::start().await;
    let admin = format!("127.0.0.1:{}", free_port());
    let device = Device::start_with(&cloud, "dev1", &[("admin_listen", &admin)]).await;
    device.redis.add(OUT, &numbered(1)).await;
    cloud.redis.add(&out("dev1"), &numbered(2)).await;
    device.carried_both_ways(&cloud).await;
    let (name, status) = ("spoke-agent status --json", device.command(&["status", "--json"]).await);
    assert_like(&json_body(name), &status.done().json(), name);
    for (service, program, word) in
        [(&cloud.hub, "spoke-hub", "clients"), (&cloud.auth, "spoke-auth", "list")]
    {
        let environment = service.environment().to_vec();
        let start = Start { environment, ..Start::with(&[word, "--json"]) };
        let listed = run(&path_of(program), &start).await.done().json();
        assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
        let name = format!("{program} {word} --json");
        assert_like(&json_body(&name), &listed, &name);
    }
}
