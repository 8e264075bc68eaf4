//! Auth as devices see it: contract section 4, by status code and reason.

mod brute_force;
mod faults;
mod register;
mod rotate;
mod scripts;
mod sessions;
mod throttle;

use serde_json::{Value, json};
use spoke_tests::{
    api::{Answer, Api},
    cloud::{now_ms, one_time_code, provision},
    redis::RedisServer,
    service::Kind,
    single_service::Stand,
};

const SECRET: &str = "a-secret-of-32-bytes-as-devices-";
const HOUR_MS: u64 = 3_600_000;

async fn auth() -> Stand {
    auth_with(&[]).await
}

/// Auth with high throttling limits: most tests fail on purpose and in a row.
async fn auth_with(settings: &[(&str, &str)]) -> Stand {
    let mut all = vec![
        ("throttle.failures_free", "1000"),
        ("throttle.address_failures_free", "1000"),
        ("throttle.register_burst", "1000"),
        ("throttle.login_burst", "1000"),
        ("throttle.address_burst", "1000"),
    ];
    all.extend(settings);
    Stand::start(Kind::Auth, &all).await
}

/// Auth and a client that has registered `SECRET`.
async fn auth_with_device(settings: &[(&str, &str)]) -> Stand {
    let stand = auth_with(settings).await;
    provision_now(&stand.redis, "dev1").await;
    assert_eq!(register(&stand.api(), "dev1", SECRET, &one_time_code(0)).await.status, 200);
    stand
}

async fn provision_now(redis: &RedisServer, client: &str) {
    provision(redis, client, now_ms() + HOUR_MS).await;
}

async fn register(api: &Api, client: &str, secret: &str, code: &str) -> Answer {
    let body = json!({ "client": client, "secret": secret, "otp": code });
    api.post_json("/register", &body).await
}

async fn log_in(api: &Api, client: &str, secret: &str) -> Answer {
    api.post_json("/login", &json!({ "client": client, "secret": secret })).await
}

async fn token(api: &Api) -> String {
    session_token(&log_in(api, "dev1", SECRET).await.ok())
}

fn session_token(answer: &Value) -> String {
    answer["sessionToken"].as_str().expect("a login returns a token").to_owned()
}

/// A code that is not valid in any of the time steps around now.
fn wrong_code() -> String {
    let near: Vec<_> = (-3..=3).map(one_time_code).collect();
    let wrong = (0..10).map(|digit| digit.to_string().repeat(6));
    wrong.into_iter().find(|code| !near.contains(code)).expect("ten codes are more than seven")
}
