//! `spoke-auth provision`, `list`, `show`, `extend`, `revoke`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spoke_protocol::message::GoawayReason;
use spoke_tests::{
    cloud::{Cloud, admit, now_ms, one_time_code},
    service::Kind,
    single_service::Stand,
    websocket::{hello, session},
};

const KEY: &str = "spoke-auth:client:dev1:h";
const SECRET: &str = "a-secret-of-32-bytes-as-devices-";
const DAY_MS: u64 = 24 * 3_600_000;

async fn auth() -> Stand {
    Stand::start(Kind::Auth, &[]).await
}

async fn register(stand: &Stand, client: &str, code: &str) -> u16 {
    let body = json!({ "client": client, "secret": SECRET, "otp": code });
    stand.api().post_json("/register", &body).await.status
}

async fn log_in(stand: &Stand) -> Option<String> {
    let body = json!({ "client": "dev1", "secret": SECRET });
    let answer = stand.api().post_json("/login", &body).await;
    (answer.status == 200).then(|| answer.json()["sessionToken"].as_str().map(str::to_owned))?
}

#[tokio::test]
async fn provision_prints_everything_that_a_device_needs() {
    let stand = auth().await;
    let urls = ["--auth-url", "https://a.example.com", "--hub-url", "https://h.example.com"];
    let arguments = [&["provision", "dev1"][..], &urls].concat();
    let text = stand.command(&arguments).await.done().stdout;

    let stored = stand.redis.hash(KEY).await;
    let secret = &stored["otpSecret"];
    assert!(secret.len() >= 32, "160 bits in base32: {secret}");
    let line = format!(
        "spoke-agent enrol --client dev1 --auth https://a.example.com --hub https://h.example.com \
         --otp-secret {secret}"
    );
    assert!(text.contains(&line), "{text}");
    assert!(text.contains(&format!("otpauth://totp/Spoke:dev1?secret={secret}")), "{text}");
    assert!(text.contains('█') && text.contains('▀'), "there is no QR code: {text}");
    let deadline: u64 = stored["regDeadline"].parse().unwrap();
    assert!(deadline.abs_diff(now_ms() + 7 * DAY_MS) < 60_000, "a week: {deadline}");
    assert_eq!(register(&stand, "dev1", "000000").await, 403, "registering still needs the code");
}

#[tokio::test]
async fn provision_prints_the_same_as_json() {
    let stand = auth().await;
    let arguments = ["provision", "dev1", "--valid", "12h", "--json"];
    let made = stand.command(&arguments).await.done().json();
    let stored = stand.redis.hash(KEY).await;
    assert_eq!(made["client"], "dev1");
    assert_eq!(made["otpSecret"], stored["otpSecret"].as_str());
    let deadline: u64 = stored["regDeadline"].parse().unwrap();
    assert!(deadline.abs_diff(now_ms() + DAY_MS / 2) < 60_000, "twelve hours: {deadline}");
}

#[tokio::test]
async fn provisioning_a_known_client_needs_again_and_voids_its_secret_and_sessions() {
    let stand = auth().await;
    spoke_tests::cloud::provision(&stand.redis, "dev1", now_ms() + DAY_MS).await;
    assert_eq!(register(&stand, "dev1", &one_time_code(0)).await, 200);
    let token = log_in(&stand).await.unwrap();
    let before = stand.redis.hash(KEY).await;

    let refused = stand.command(&["provision", "dev1"]).await;

    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--again"), "the message says what to do: {refused:?}");
    assert_eq!(stand.redis.hash(KEY).await, before, "nothing changed");
    stand.command(&["provision", "dev1", "--again"]).await.done();
    assert_ne!(stand.redis.hash(KEY).await["otpSecret"], before["otpSecret"]);
    assert_eq!(log_in(&stand).await, None);
    let refresh = stand.api().with_token(&token).post("/refresh").await;
    assert_eq!(refresh.status, 401, "its sessions end: {refresh:?}");
}

#[tokio::test]
async fn list_and_show_print_the_state_of_each_client() {
    let stand = auth().await;
    let empty = stand.command(&["list", "--json"]).await.done().json();
    assert_eq!(empty, json!([]));
    for client in ["dev1", "waiting", "revoked", "also"] {
        spoke_tests::cloud::provision(&stand.redis, client, now_ms() + DAY_MS).await;
    }
    spoke_tests::cloud::provision(&stand.redis, "late", now_ms() - 1000).await;
    assert_eq!(register(&stand, "dev1", &one_time_code(0)).await, 200);
    log_in(&stand).await.unwrap();
    log_in(&stand).await.unwrap();
    stand.command(&["revoke", "revoked"]).await.done();

    let all = stand.command(&["list", "--json"]).await.done().json();
    let rows = all.as_array().unwrap().iter();
    let rows: Vec<_> = rows.map(|row| (&row["client"], &row["standing"])).collect();
    let expected = json!([
        ["also", "provisioned"],
        ["dev1", "registered"],
        ["late", "expired"],
        ["revoked", "revoked"],
        ["waiting", "provisioned"]
    ]);
    assert_eq!(json!(rows), expected);
    let one = stand.command(&["show", "dev1", "--json"]).await.done().json();
    assert_eq!((&one["standing"], &one["sessions"]), (&json!("registered"), &json!(2)), "{one}");
    let text = stand.command(&["list"]).await.done().stdout;
    for client in ["also", "dev1", "late", "revoked", "waiting"] {
        assert!(text.contains(client), "{text}");
    }
    assert!(!(text + &all.to_string()).contains("GRZW"), "a secret is listed");
    let unknown = stand.command(&["show", "nobody"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("nobody"), "{unknown:?}");
}

#[tokio::test]
async fn a_list_of_hundreds_is_complete_and_sorted() {
    let stand = auth().await;
    for n in 0..700 {
        let key = format!("spoke-auth:client:d{n:03}:h");
        stand.redis.command::<()>(&["HSET", &key, "otpSecret", "x", "regDeadline", "1"]).await;
    }
    // Other keys under the same prefix that are not clients.
    stand.redis.command::<()>(&["SET", "spoke-auth:client:x y:h", "1"]).await;
    stand.redis.command::<()>(&["ZADD", "spoke-auth:client:d000:sessions:z", "1", "m"]).await;
    let all = stand.command(&["list", "--json"]).await.done().json();
    let names: Vec<_> =
        all.as_array().unwrap().iter().map(|row| row["client"].as_str().unwrap()).collect();
    let expected: Vec<_> = (0..700).map(|n| format!("d{n:03}")).collect();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn extend_moves_the_deadline_of_unregistered_clients_only() {
    let stand = auth().await;
    spoke_tests::cloud::provision(&stand.redis, "dev1", now_ms() - 1000).await;
    assert_eq!(register(&stand, "dev1", &one_time_code(0)).await, 403);

    stand.command(&["extend", "dev1", "--valid", "1h"]).await.done();

    assert_eq!(register(&stand, "dev1", &one_time_code(0)).await, 200);
    let registered = stand.command(&["extend", "dev1"]).await;
    assert_eq!(registered.code, Some(1), "{registered:?}");
    assert!(registered.stderr.contains("--again"), "the message says what to do: {registered:?}");
    let unknown = stand.command(&["extend", "nobody"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(!stand.redis.command::<bool>(&["EXISTS", "spoke-auth:client:nobody:h"]).await);
}

#[tokio::test]
async fn a_revoked_client_can_neither_log_in_nor_refresh_nor_register() {
    let stand = auth().await;
    spoke_tests::cloud::provision(&stand.redis, "dev1", now_ms() + DAY_MS).await;
    assert_eq!(register(&stand, "dev1", &one_time_code(0)).await, 200);
    let token = log_in(&stand).await.unwrap();

    stand.command(&["revoke", "dev1"]).await.done();

    assert_eq!(log_in(&stand).await, None);
    assert_eq!(stand.api().with_token(&token).post("/refresh").await.status, 401);
    assert_eq!(register(&stand, "dev1", &one_time_code(1)).await, 403);
    let unknown = stand.command(&["revoke", "nobody"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
}

#[tokio::test]
async fn revoke_closes_the_live_connection_within_a_second() {
    let cloud = Cloud::start().await;
    cloud.provision("dev1").await;
    let body = json!({ "client": "dev1", "secret": SECRET, "otp": one_time_code(0) });
    assert_eq!(cloud.auth.api().post_json("/register", &body).await.status, 200);
    let body = json!({ "client": "dev1", "secret": SECRET });
    let answer: Value = cloud.auth.api().post_json("/login", &body).await.ok();
    let token = answer["sessionToken"].as_str().unwrap();
    let (mut revoked, _) = session(cloud.hub.address(), token, hello()).await;
    let other = admit(&cloud.redis, "dev2").await;
    let (mut other, _) = session(cloud.hub.address(), &other, hello()).await;
    let mut start = spoke_tests::process::Start::with(&["revoke", "dev1"]);
    start.environment = cloud.auth.environment().to_vec();
    let program = spoke_tests::binaries::path_of("spoke-auth");

    spoke_tests::process::run(&program, &start).await.done();
    let begun = Instant::now();

    assert_eq!(revoked.goaway().await.reason, GoawayReason::Unauthorized);
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    other.send_frame(&spoke_protocol::message::Frame::Ping).await;
    let pong = other.frame().await;
    assert!(matches!(pong, spoke_protocol::message::Frame::Pong(_)), "{pong:?}");
}

#[tokio::test]
async fn commands_fail_and_mention_redis_if_it_is_down() {
    let mut stand = auth().await;
    stand.redis.kill9();
    for arguments in [&["list"][..], &["show", "dev1"], &["provision", "dev1"], &["revoke", "dev1"]]
    {
        let ended = stand.command(arguments).await;
        assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.to_lowercase().contains("redis"), "{arguments:?}: {ended:?}");
    }
}
