//! `POST /login`, `/refresh`, `/logout`

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::json;
use spoke_store::session_tokens::{digest, session_key};
use spoke_tests::cloud::now_ms;

use crate::auth_api::{SECRET, auth, auth_with_device, log_in, session_token, token};

const OTHER: &str = "another-secret-of-some-length";

#[tokio::test]
async fn a_login_returns_a_token_of_256_random_bits_and_its_ttl() {
    let stand = auth_with_device(&[]).await;
    let answer = log_in(&stand.api(), "dev1", SECRET).await.ok();
    assert_eq!(answer["ttlSeconds"], 86_400);
    let token = session_token(&answer);
    assert_eq!(token.len(), 43, "256 bits in base64url: {token}");
    assert_ne!(token, session_token(&log_in(&stand.api(), "dev1", SECRET).await.ok()));
}

#[tokio::test]
async fn a_session_is_stored_under_the_tokens_digest_and_the_token_nowhere() {
    let stand = auth_with_device(&[("session_ttl_seconds", "600")]).await;
    let token = token(&stand.api()).await;

    let key = session_key("spoke-auth", &digest(&token));
    let stored = stand.redis.hash(&key).await;
    let ttl: i64 = stand.redis.command(&["PTTL", &key]).await;

    assert_eq!(stored["client"], "dev1");
    assert!(stored["issuedAt"].parse::<u64>().unwrap().abs_diff(now_ms()) < 60_000, "{stored:?}");
    assert!((540_000..=600_000).contains(&ttl), "the key expires with the session: {ttl}");
    // Redis writes each command to its file before it answers the next one.
    let file = all_files(&stand.redis.directory().join("appendonlydir"));
    let holds = |text: &str| file.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(&digest(&token)), "the file does not contain the session");
    assert!(!holds(&token), "the token is in the database");
    assert!(!holds(SECRET), "the secret is in the database");
    let log = stand.service.log();
    assert!(!log.contains(&token) && !log.contains(SECRET), "a secret is in the log");
}

#[tokio::test]
async fn all_refused_logins_get_the_same_answer() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    let revoked = ["HSET", "spoke-auth:client:gone:h", "disabled", "1", "otpSecret", "x"];
    stand.redis.command::<()>(&revoked).await;
    let answers = [
        log_in(&api, "dev1", OTHER).await,
        log_in(&api, "nobody", SECRET).await,
        log_in(&api, "gone", SECRET).await,
        log_in(&api, "dev1", "short").await,
        log_in(&api, "dev1", &"s".repeat(73)).await,
    ];
    for answer in &answers {
        assert_eq!(answer.refusal(), (401, "refused".to_owned()), "{answer:?}");
    }
    let bodies: BTreeSet<_> = answers.iter().map(|answer| &answer.text).collect();
    assert_eq!(bodies.len(), 1, "a caller can tell the answers apart: {bodies:?}");
}

#[tokio::test]
async fn a_malformed_login_is_refused_with_the_field_name() {
    let stand = auth().await;
    for (field, body) in [
        ("client", json!({ "secret": SECRET })),
        ("client", json!({ "client": "no spaces", "secret": SECRET })),
        ("secret", json!({ "client": "dev1" })),
        ("secret", json!({ "client": "dev1", "secret": ["s"] })),
    ] {
        let answer = stand.api().post_json("/login", &body).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{body}");
        assert!(answer.message().contains(field), "{answer:?}");
    }
}

#[tokio::test]
async fn a_refresh_returns_a_new_token_and_keeps_the_old_one_for_ten_minutes() {
    let stand = auth_with_device(&[]).await;
    let old = token(&stand.api()).await;
    let key = |token: &str| session_key("spoke-auth", &digest(token));

    let answer = stand.api().with_token(&old).post("/refresh").await.ok();

    let lost_token = session_token(&answer);
    assert_ne!(old, lost_token);
    assert_eq!(answer["ttlSeconds"], 86_400);
    // The answer got lost: the device asks again, and the token that was lost expires with the old one.
    let new = session_token(&stand.api().with_token(&old).post("/refresh").await.ok());
    for token in [&old, &lost_token] {
        let ttl: i64 = stand.redis.command(&["PTTL", &key(token)]).await;
        assert!((540_000..=600_000).contains(&ttl), "{ttl}");
        assert_eq!(stand.redis.hash(&key(token)).await["next"], key(&new));
    }
    let ttl: i64 = stand.redis.command(&["PTTL", &key(&new)]).await;
    assert!(ttl > 86_000_000, "{ttl}");
}

#[tokio::test]
async fn a_logout_ends_all_tokens_of_its_login_and_no_other() {
    for which in 0..3 {
        let stand = auth_with_device(&[]).await;
        let api = stand.api();
        let mut tokens = vec![token(&api).await];
        let other = token(&api).await;
        for _ in 0..2 {
            let last = tokens.last().unwrap();
            tokens.push(session_token(&api.with_token(last).post("/refresh").await.ok()));
        }

        assert_eq!(api.with_token(&tokens[which]).post("/logout").await.status, 204);

        for token in &tokens {
            let refused = api.with_token(token).post("/refresh").await.refusal();
            assert_eq!(refused, (401, "no-session".to_owned()), "{which}");
        }
        assert_eq!(api.with_token(&other).post("/refresh").await.status, 200);
    }
}

#[tokio::test]
async fn a_session_is_extended_by_a_refresh_and_expires_without_one() {
    let stand = auth_with_device(&[("session_ttl_seconds", "600")]).await;
    let old = token(&stand.api()).await;
    let key = |token: &str| session_key("spoke-auth", &digest(token));
    stand.redis.command::<()>(&["PEXPIRE", &key(&old), "5000"]).await;

    let new = session_token(&stand.api().with_token(&old).post("/refresh").await.ok());

    let ttl: i64 = stand.redis.command(&["PTTL", &key(&new)]).await;
    assert!(ttl > 540_000, "the new session has the full TTL: {ttl}");
    let ttl: i64 = stand.redis.command(&["PTTL", &key(&old)]).await;
    assert!(ttl <= 5000, "the old session does not live longer than before: {ttl}");
    stand.redis.command::<()>(&["PEXPIRE", &key(&old), "0"]).await;
    let ended = stand.api().with_token(&old).post("/refresh").await;
    assert_eq!(ended.refusal(), (401, "no-session".to_owned()));
}

#[tokio::test]
async fn a_logout_ends_only_its_own_session() {
    let stand = auth_with_device(&[]).await;
    let (leaving, staying) = (token(&stand.api()).await, token(&stand.api()).await);
    let leaving = stand.api().with_token(&leaving);

    let answer = leaving.post("/logout").await;

    assert_eq!((answer.status, answer.text.as_str()), (204, ""));
    assert_eq!(leaving.post("/refresh").await.refusal(), (401, "no-session".to_owned()));
    assert_eq!(leaving.post("/logout").await.status, 204, "a second logout is not an error");
    assert_eq!(stand.api().with_token(&staying).post("/refresh").await.status, 200);
}

#[tokio::test]
async fn a_refresh_without_a_valid_token_is_refused() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    let unknown = "A".repeat(43);
    let digest_of_valid_token = digest(&token(&api).await);
    for token in [unknown.as_str(), "", "short", &digest_of_valid_token, &"A".repeat(5000)] {
        let answer = api.with_token(token).post("/refresh").await;
        assert_eq!(answer.refusal(), (401, "no-session".to_owned()), "{token:.50}");
    }
    for path in ["/refresh", "/logout"] {
        assert_eq!(api.post(path).await.refusal(), (401, "no-session".to_owned()), "{path}");
    }
    let basic = api.request(http::Method::POST, "/refresh").basic_auth("dev1", Some(SECRET));
    assert_eq!(api.call(basic).await.refusal(), (401, "no-session".to_owned()));
}

#[tokio::test]
async fn a_token_in_the_url_is_refused_even_if_it_is_valid() {
    let stand = auth_with_device(&[]).await;
    let token = token(&stand.api()).await;
    for path in ["/refresh", "/logout", "/login", "/register"] {
        for name in ["token", "access_token", "sessionToken"] {
            let answer = stand.api().post(&format!("{path}?{name}={token}")).await;
            assert_eq!(answer.refusal(), (400, "token-in-url".to_owned()), "{path}?{name}");
            assert!(!answer.text.contains(&token), "the answer contains the token");
        }
    }
    assert!(!stand.service.log().contains(&token), "the token is in the log");
    assert_eq!(
        stand.api().with_token(&token).post("/refresh").await.status,
        200,
        "the session is still valid"
    );
}

#[tokio::test]
async fn a_seventeenth_session_ends_the_oldest() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    let oldest = token(&api).await;
    let second = token(&api).await;
    for _ in 2..16 {
        token(&api).await;
    }
    let exists = async |token: &str| {
        let key = session_key("spoke-auth", &digest(token));
        stand.redis.command::<bool>(&["EXISTS", &key]).await
    };
    assert!(exists(&oldest).await, "sixteen are allowed");

    token(&api).await;

    assert!(!exists(&oldest).await, "the oldest session ended");
    assert!(exists(&second).await, "the second session did not end");
}

#[tokio::test]
async fn a_client_disabled_by_hand_can_neither_log_in_nor_refresh() {
    let stand = auth_with_device(&[]).await;
    let token = token(&stand.api()).await;
    stand.redis.command::<()>(&["HSET", "spoke-auth:client:dev1:h", "disabled", "1"]).await;
    let login = log_in(&stand.api(), "dev1", SECRET).await;
    assert_eq!(login.refusal(), (401, "refused".to_owned()));
    let refresh = stand.api().with_token(&token).post("/refresh").await;
    assert_eq!(refresh.refusal(), (401, "no-session".to_owned()));
}

#[tokio::test]
async fn no_answer_may_be_cached() {
    let stand = auth_with_device(&[]).await;
    let answers =
        [log_in(&stand.api(), "dev1", SECRET).await, log_in(&stand.api(), "dev1", OTHER).await];
    for answer in answers {
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    }
}

fn all_files(folder: &Path) -> Vec<u8> {
    let entries = fs::read_dir(folder).expect("redis keeps its files there").flatten();
    entries.flat_map(|entry| fs::read(entry.path()).expect("the file can be read")).collect()
}
