//! `POST /rotate`: a next secret is valid beside the current one until it is used.

use serde_json::json;
use spoke_tests::{
    api::{Answer, Api},
    cloud::one_time_code,
    single_service::Stand,
};

use crate::auth_api::{
    SECRET, auth_with_device, log_in, provision_now, register, session_token, token,
};

const KEY: &str = "spoke-auth:client:dev1:h";
const NEXT: &str = "the-secret-that-is-to-come-next-";

async fn rotate(api: &Api, secret: &str, next: &str) -> Answer {
    let body = json!({ "client": "dev1", "secret": secret, "newSecret": next });
    api.post_json("/rotate", &body).await
}

async fn has_next(stand: &Stand) -> bool {
    let stored = stand.redis.hash(KEY).await;
    assert_eq!(stored.contains_key("nextSecret"), stored.contains_key("nextTag"));
    assert!(
        stored.values().all(|value| value != NEXT),
        "the secret is stored in plain text: {stored:?}"
    );
    stored.contains_key("nextSecret")
}

#[tokio::test]
async fn both_secrets_are_valid_until_the_next_one_is_used_then_only_that_one() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    let before = token(&api).await;
    for _ in 0..2 {
        rotate(&api, SECRET, NEXT).await.ok();
        log_in(&api, "dev1", SECRET).await.ok();
        assert!(has_next(&stand).await, "a login with the current secret changes nothing");
    }
    assert_eq!(api.with_token(&before).post("/refresh").await.status, 200);

    let after = session_token(&log_in(&api, "dev1", NEXT).await.ok());

    assert!(!has_next(&stand).await);
    assert_eq!(log_in(&api, "dev1", SECRET).await.refusal(), (401, "refused".to_owned()));
    log_in(&api, "dev1", NEXT).await.ok();
    let old = api.with_token(&before).post("/refresh").await;
    assert_eq!(old.refusal(), (401, "no-session".to_owned()), "sessions of the old secret end");
    assert_eq!(api.with_token(&after).post("/refresh").await.status, 200);
    assert_eq!(rotate(&api, SECRET, NEXT).await.refusal(), (401, "refused".to_owned()));
}

#[tokio::test]
async fn an_unused_next_secret_is_replaced_by_a_newer_one() {
    let stand = auth_with_device(&[]).await;
    let other = "another-secret-to-come-after-all";
    rotate(&stand.api(), SECRET, other).await.ok();
    rotate(&stand.api(), SECRET, NEXT).await.ok();
    assert_eq!(log_in(&stand.api(), "dev1", other).await.status, 401);
    log_in(&stand.api(), "dev1", NEXT).await.ok();
}

#[tokio::test]
async fn rotating_without_the_current_secret_is_refused() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    let wrong = "not-the-secret-but-long-enough-x";
    assert_eq!(rotate(&api, wrong, NEXT).await.refusal(), (401, "refused".to_owned()));
    let body = json!({ "client": "nobody", "secret": SECRET, "newSecret": NEXT });
    assert_eq!(api.post_json("/rotate", &body).await.refusal(), (401, "refused".to_owned()));
    for next in ["short", SECRET] {
        assert_eq!(rotate(&api, SECRET, next).await.refusal(), (400, "malformed".to_owned()));
    }
    assert!(!has_next(&stand).await);
}

#[tokio::test]
async fn revoking_or_provisioning_again_removes_the_next_secret() {
    let stand = auth_with_device(&[]).await;
    rotate(&stand.api(), SECRET, NEXT).await.ok();
    stand.command(&["revoke", "dev1"]).await.done();
    assert!(!has_next(&stand).await);
    assert_eq!(log_in(&stand.api(), "dev1", NEXT).await.status, 401);
    assert_eq!(rotate(&stand.api(), SECRET, NEXT).await.status, 401);

    stand.command(&["provision", "dev1", "--again"]).await.done();
    provision_now(&stand.redis, "dev1").await;
    assert_eq!(register(&stand.api(), "dev1", SECRET, &one_time_code(0)).await.status, 200);
    rotate(&stand.api(), SECRET, NEXT).await.ok();
    stand.command(&["provision", "dev1", "--again"]).await.done();
    assert!(!has_next(&stand).await);
    assert_eq!(log_in(&stand.api(), "dev1", NEXT).await.status, 401);
}
