//! Guessed codes and secrets: how many are checked, and that guesses do not lock out the real device.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use spoke_tests::{
    api::{Answer, Api},
    cloud::{now_ms, one_time_code, proof, provision},
    service::{Kind, Service},
    single_service::Stand,
};

use crate::auth_api::{
    HOUR_MS, SECRET, auth, auth_with, auth_with_device, log_in, provision_now, register,
    session_token, token, wrong_code,
};

const KEY: &str = "spoke-auth:client:dev1:h";
const OTHER: &str = "another-secret-of-some-length";
/// Wrong codes of a client after which its codes are locked.
const MAX: usize = 100;
/// Wrong codes of all clients together after which each client has one attempt.
const ALL_MAX: usize = 1000;

async fn register_with_proof(api: &Api, client: &str, secret: &str, proof: &str) -> Answer {
    let body = json!({ "client": client, "secret": secret, "proof": proof });
    api.post_json("/register", &body).await
}

async fn send_wrong_codes(api: &Api, client: &str, count: usize) {
    let wrong = wrong_code();
    for _ in 0..count {
        let answer = register(api, client, OTHER, &wrong).await;
        assert!(matches!(answer.status, 403 | 429), "{answer:?}");
    }
}

async fn show(stand: &Stand) -> Value {
    let ended = stand.command(&["show", "dev1", "--json"]).await;
    serde_json::from_str(&ended.done().stdout).expect("show prints a JSON object")
}

async fn metric(service: &Service, name: &str) -> Option<String> {
    let text = service.admin().get("/metrics").await.text;
    text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned))
}

#[tokio::test]
async fn a_proof_registers_only_its_own_client_and_secret_and_only_once() {
    let stand = auth().await;
    let api = stand.api();
    for client in ["dev1", "dev2"] {
        provision_now(&stand.redis, client).await;
    }
    let own = proof("dev1", SECRET, 0);
    let refused = [
        ("another client", register_with_proof(&api, "dev2", SECRET, &own).await),
        ("another secret", register_with_proof(&api, "dev1", OTHER, &own).await),
        (
            "three steps ago",
            register_with_proof(&api, "dev1", SECRET, &proof("dev1", SECRET, -3)).await,
        ),
        (
            "in three steps",
            register_with_proof(&api, "dev1", SECRET, &proof("dev1", SECRET, 3)).await,
        ),
        ("not a proof", register_with_proof(&api, "dev1", SECRET, &"0".repeat(64)).await),
        (
            "an unknown client",
            register_with_proof(&api, "nobody", SECRET, &proof("nobody", SECRET, 0)).await,
        ),
    ];
    for (what, answer) in &refused {
        assert_eq!(answer.refusal(), (403, "refused".to_owned()), "{what}");
        assert_eq!(answer.text, refused[0].1.text, "{what} can be told apart");
        assert!(answer.header("date").is_some(), "a device with a wrong clock gets the time");
    }

    register_with_proof(&api, "dev1", SECRET, &own).await.ok();

    log_in(&api, "dev1", SECRET).await.ok();
    let before = stand.redis.hash(KEY).await;
    register_with_proof(&api, "dev1", SECRET, &own).await.ok();
    assert_eq!(stand.redis.hash(KEY).await, before, "the same proof again changes nothing");
    stand.redis.command::<()>(&["HDEL", KEY, "secret"]).await;
    provision_now(&stand.redis, "dev1").await;
    assert_eq!(
        register_with_proof(&api, "dev1", SECRET, &own).await.status,
        403,
        "each time step is accepted once"
    );
}

#[tokio::test]
async fn a_hundred_wrong_codes_lock_a_clients_codes_until_extend() {
    let stand = auth().await;
    let (api, key) = (stand.api(), "spoke-auth:client:dev2:h");
    for client in ["dev1", "dev2"] {
        provision_now(&stand.redis, client).await;
    }
    send_wrong_codes(&api, "dev1", MAX - 1).await;
    assert_eq!(show(&stand).await["codesLocked"], false);
    // Wrong proofs are counted, too.
    assert_eq!(register_with_proof(&api, "dev1", OTHER, &"0".repeat(64)).await.status, 403);
    send_wrong_codes(&api, "dev1", 5).await;

    let right = register(&api, "dev1", SECRET, &one_time_code(0)).await;

    assert_eq!(right.refusal(), (403, "refused".to_owned()), "the client's codes are locked");
    assert_eq!(stand.redis.hash(KEY).await["wrongCodes"], MAX.to_string());
    let shown = show(&stand).await;
    assert_eq!((&shown["codesLocked"], &shown["wrongCodes"]), (&json!(true), &json!(MAX)));
    let listed = stand.command(&["list"]).await.done().stdout.clone();
    assert!(listed.contains("codes locked after 100 wrong"), "{listed}");
    assert_eq!(metric(&stand.service, "spoke_auth_codes_locked_total").await.as_deref(), Some("1"));
    assert_eq!(
        metric(&stand.service, "spoke_auth_wrong_codes_total").await.as_deref(),
        Some("100")
    );
    let log = stand.service.log();
    let locked: Vec<_> = log.lines().filter(|line| line.contains("codes locked")).collect();
    assert_eq!(locked.len(), 1, "{locked:?}");
    assert!(locked[0].contains("dev1") && locked[0].contains("spoke-auth extend"), "{locked:?}");

    // Another client is not affected.
    register(&api, "dev2", SECRET, &one_time_code(0)).await.ok();
    assert!(
        !stand.redis.hash(key).await.contains_key("wrongCodes"),
        "registering clears the count"
    );
    stand.command(&["extend", "dev1"]).await.done();
    register(&api, "dev1", SECRET, &one_time_code(0)).await.ok();
}

#[tokio::test]
async fn a_proof_is_accepted_while_codes_are_locked_and_a_new_deadline_unlocks_them() {
    for unlock in ["a proof", "extend", "provision --again", "by hand"] {
        let stand = auth().await;
        provision_now(&stand.redis, "dev1").await;
        let deadline = stand.redis.hash(KEY).await["regDeadline"].clone();
        let locked = ["HSET", KEY, "wrongCodes", "100", "wrongCodesUntil", &deadline];
        stand.redis.command::<()>(&locked).await;
        let code = one_time_code(0);
        assert_eq!(register(&stand.api(), "dev1", SECRET, &code).await.status, 403, "{unlock}");
        match unlock {
            "a proof" => {
                register_with_proof(&stand.api(), "dev1", SECRET, &proof("dev1", SECRET, 0))
                    .await
                    .ok();
                continue;
            }
            "by hand" => provision(&stand.redis, "dev1", now_ms() + 2 * HOUR_MS).await,
            "extend" => drop(stand.command(&["extend", "dev1"]).await.done()),
            _ => {
                stand.command(&["provision", "dev1", "--again"]).await.done();
                // Restores the OTP secret that the test's codes are made from.
                let secret = spoke_tests::cloud::OTP_SECRET;
                stand.redis.command::<()>(&["HSET", KEY, "otpSecret", secret]).await;
            }
        }
        register(&stand.api(), "dev1", SECRET, &one_time_code(0)).await.ok();
    }
}

#[tokio::test]
async fn two_processes_together_check_at_most_a_hundred_concurrent_guesses() {
    let settings = [("throttle.register_burst", "10000"), ("throttle.address_burst", "10000")];
    let stand = auth_with(&settings).await;
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<_> =
        [("throttle.failures_free", "100000"), ("throttle.address_failures_free", "100000")]
            .into_iter()
            .chain(settings)
            .collect();
    let other = Service::start(Kind::Auth, &stand.redis.url(), &all, folder.path()).await;
    provision_now(&stand.redis, "dev1").await;

    let apis = [stand.api(), other.api()];
    join_all(apis.iter().cycle().take(40).map(|api| send_wrong_codes(api, "dev1", 4))).await;

    assert_eq!(stand.redis.hash(KEY).await["wrongCodes"], MAX.to_string());
    for api in &apis {
        let right = register(api, "dev1", SECRET, &one_time_code(0)).await;
        assert_eq!(right.status, 403, "the right code comes too late: {right:?}");
    }
    register_with_proof(&apis[1], "dev1", SECRET, &proof("dev1", SECRET, 0)).await.ok();
}

#[tokio::test]
async fn too_many_wrong_codes_overall_leave_each_client_one_attempt() {
    let stand = auth().await;
    let api = stand.api();
    for client in ["dev1", "dev2", "dev3"] {
        provision_now(&stand.redis, client).await;
    }
    let all = (ALL_MAX - 1).to_string();
    stand.redis.command::<()>(&["SET", "spoke-auth:wrong-codes", &all, "PX", "3600000"]).await;
    // The thousandth wrong code of all clients: from here on each client has one attempt.
    send_wrong_codes(&api, "dev1", 1).await;
    send_wrong_codes(&api, "dev2", 1).await;

    for client in ["dev1", "dev2"] {
        let right = register(&api, client, SECRET, &one_time_code(0)).await;
        assert_eq!(right.status, 403, "{client} has used its attempt: {right:?}");
    }
    register(&api, "dev3", SECRET, &one_time_code(0)).await.ok();
    stand.command(&["extend", "dev1"]).await.done();
    register(&api, "dev1", SECRET, &one_time_code(0)).await.ok();
    register_with_proof(&api, "dev2", SECRET, &proof("dev2", SECRET, 0)).await.ok();
    let log = stand.service.log();
    assert!(log.contains("wrong registration codes reached the limit for all clients"), "{log}");
    let ttl: i64 = stand.redis.command(&["PTTL", "spoke-auth:wrong-codes"]).await;
    assert!((1..=3_600_000).contains(&ttl), "the count expires: {ttl}");
}

#[tokio::test]
async fn wrong_codes_of_clients_that_cannot_register_are_not_counted() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    provision(&stand.redis, "late", now_ms() - 1).await;
    provision_now(&stand.redis, "out").await;
    stand.redis.command::<()>(&["HSET", "spoke-auth:client:out:h", "disabled", "1"]).await;
    for client in ["dev1", "late", "out", "nobody"] {
        send_wrong_codes(&api, client, 3).await;
        let stored = stand.redis.hash(&format!("spoke-auth:client:{client}:h")).await;
        assert!(!stored.contains_key("wrongCodes"), "{client}: {stored:?}");
    }
    let all: Option<u32> = stand.redis.command(&["GET", "spoke-auth:wrong-codes"]).await;
    assert_eq!(all.unwrap_or_default(), 0);
    assert!(!stand.redis.command::<bool>(&["EXISTS", "spoke-auth:client:nobody:h"]).await);
}

#[tokio::test]
async fn an_attacker_cannot_block_a_devices_registration_even_from_the_same_address() {
    // With the default settings.
    let stand = Stand::start(Kind::Auth, &[]).await;
    let api = stand.api();
    provision_now(&stand.redis, "dev1").await;
    send_wrong_codes(&api, "dev1", 30).await;
    let throttled = register(&api, "dev1", OTHER, &wrong_code()).await;
    assert_eq!(throttled.status, 429, "the attacker is throttled: {throttled:?}");
    for _ in 0..500 {
        // Requests with random names use up the address's allowance.
        if log_in(&api, &format!("x{}", rand::random::<u32>()), OTHER).await.status == 429 {
            break;
        }
    }

    register(&api, "dev1", SECRET, &one_time_code(0)).await.ok();

    // The same holds for a repeated registration, a login, a rotation, a refresh and a logout.
    register(&api, "dev1", SECRET, &one_time_code(1)).await.ok();
    let token = session_token(&log_in(&api, "dev1", SECRET).await.ok());
    let rotate = json!({ "client": "dev1", "secret": SECRET, "newSecret": OTHER });
    api.post_json("/rotate", &rotate).await.ok();
    api.with_token(&token).post("/refresh").await.ok();
    assert_eq!(api.with_token(&token).post("/logout").await.status, 204);
}

#[tokio::test]
async fn invalid_tokens_from_the_same_address_do_not_block_a_devices_refresh() {
    let settings = [("throttle.address_burst", "5"), ("throttle.address_per_minute", "1")];
    let stand = auth_with(&settings).await;
    provision_now(&stand.redis, "dev1").await;
    register(&stand.api(), "dev1", SECRET, &one_time_code(0)).await.ok();
    let token = token(&stand.api()).await;
    let attacker = stand.api().with_token(&"A".repeat(43));
    let mut last = 0;
    for _ in 0..60 {
        last = attacker.post("/refresh").await.status;
    }
    assert_eq!(last, 429, "the attacker is throttled");
    assert_eq!(attacker.post("/logout").await.status, 429);

    stand.api().with_token(&token).post("/refresh").await.ok();

    assert_eq!(stand.api().with_token(&token).post("/logout").await.status, 204);
}

#[tokio::test]
async fn a_client_that_refreshes_too_often_is_throttled() {
    let settings = [("throttle.login_burst", "1"), ("throttle.login_per_minute", "1")];
    let stand = auth_with_device(&settings).await;
    let api = stand.api().with_token(&token(&stand.api()).await);
    let mut last = 0;
    for _ in 0..15 {
        last = api.post("/refresh").await.status;
    }
    assert_eq!(last, 429);
}

#[tokio::test]
async fn a_device_with_a_missing_or_wrong_secret_tag_logs_in_and_the_tag_is_repaired() {
    let stand = auth_with_device(&[("throttle.failures_free", "2")]).await;
    let api = stand.api();
    for tag in ["", "ffff", "0000"] {
        stand.redis.command::<()>(&["HSET", KEY, "secretTag", tag]).await;
        log_in(&api, "dev1", SECRET).await.ok();
        assert_ne!(stand.redis.hash(KEY).await["secretTag"], tag, "the tag is repaired");
    }
    stand.redis.command::<()>(&["HDEL", KEY, "secretTag"]).await;
    log_in(&api, "dev1", SECRET).await.ok();
    for _ in 0..4 {
        log_in(&api, "dev1", OTHER).await;
    }
    assert_eq!(log_in(&api, "dev1", OTHER).await.status, 429);
    let begun = Instant::now();
    log_in(&api, "dev1", SECRET).await.ok();
    assert!(begun.elapsed() < Duration::from_secs(5));
}
