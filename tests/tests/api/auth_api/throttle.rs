//! Throttling of frequent requests, and a full bcrypt pool.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use spoke_tests::cloud::one_time_code;

use crate::auth_api::{
    SECRET, auth_with, auth_with_device, log_in, provision_now, register, token, wrong_code,
};

const OTHER: &str = "another-secret-of-some-length";

#[tokio::test]
async fn a_client_that_logs_in_too_often_gets_429_with_retry_after() {
    let settings = [("throttle.login_burst", "3"), ("throttle.login_per_minute", "1")];
    let stand = auth_with_device(&settings).await;
    let api = stand.api();
    for _ in 0..3 {
        assert_eq!(log_in(&api, "dev1", SECRET).await.status, 200);
    }

    let answer = log_in(&api, "dev1", SECRET).await;

    assert_eq!(answer.refusal(), (429, "throttled".to_owned()));
    assert!((1..=60).contains(&answer.retry_after().unwrap()), "{answer:?}");
    assert_eq!(log_in(&api, "dev2", SECRET).await.status, 401, "another client is served");
}

#[tokio::test]
async fn too_many_wrong_codes_are_throttled_and_the_right_code_is_accepted() {
    let settings = [("throttle.register_burst", "2"), ("throttle.register_per_minute", "1")];
    let stand = auth_with(&settings).await;
    provision_now(&stand.redis, "dev1").await;
    for _ in 0..2 {
        assert_eq!(register(&stand.api(), "dev1", SECRET, &wrong_code()).await.status, 403);
    }
    let answer = register(&stand.api(), "dev1", SECRET, &wrong_code()).await;
    assert_eq!(answer.refusal(), (429, "throttled".to_owned()));
    register(&stand.api(), "dev1", SECRET, &one_time_code(0)).await.ok();
}

#[tokio::test]
async fn an_address_is_throttled_whichever_clients_it_names() {
    let settings = [("throttle.address_burst", "5"), ("throttle.address_per_minute", "1")];
    let stand = auth_with(&settings).await;
    for i in 0..5 {
        let answer = log_in(&stand.api(), &format!("dev{i}"), SECRET).await;
        assert_eq!(answer.status, 401, "{answer:?}");
    }
    let answer = log_in(&stand.api(), "dev99", SECRET).await;
    assert_eq!(answer.refusal(), (429, "throttled".to_owned()));
}

#[tokio::test]
async fn repeated_failed_logins_are_throttled_but_the_right_secret_is_accepted() {
    let stand = auth_with_device(&[("throttle.failures_free", "2")]).await;
    let api = stand.api();
    let mut throttled = None;
    for _ in 0..10 {
        let answer = log_in(&api, "dev1", OTHER).await;
        if answer.status == 429 {
            throttled = Some(answer);
            break;
        }
    }
    let throttled = throttled.expect("one of ten wrong secrets is throttled");
    assert_eq!(throttled.refusal(), (429, "throttled".to_owned()));
    let right = log_in(&api, "dev1", SECRET).await;
    assert_eq!(right.status, 200, "guesses do not lock out the device: {right:?}");
    assert_eq!(
        log_in(&api, "dev1", OTHER).await.status,
        429,
        "the device's login does not reset the throttling of wrong secrets"
    );
    assert_eq!(log_in(&api, "dev2", OTHER).await.status, 401, "another client is served");
}

#[tokio::test]
async fn a_full_bcrypt_pool_answers_busy_at_once_and_refreshes_bypass_it() {
    let settings = [("bcrypt_cost", "11"), ("bcrypt_workers", "1"), ("bcrypt_queue", "1")];
    let stand = auth_with_device(&settings).await;
    let api = stand.api();
    let token = token(&api).await;

    let logins = join_all((0..12).map(|_| log_in(&api, "dev1", SECRET)));
    let refreshes =
        join_all((0..5).map(|_| async { api.with_token(&token).post("/refresh").await }));
    let (logins, refreshes) = tokio::join!(logins, refreshes);

    let served = logins.iter().filter(|answer| answer.status == 200).count();
    assert!(served >= 1, "{logins:?}");
    let mut refused = logins.iter().filter(|answer| answer.status != 200).peekable();
    assert!(refused.peek().is_some(), "the pool was never full");
    for answer in refused {
        assert_eq!(answer.refusal(), (503, "busy".to_owned()));
    }
    for answer in refreshes {
        assert_eq!(answer.status, 200, "a refresh runs no bcrypt: {answer:?}");
    }
}

#[tokio::test]
async fn an_unknown_client_costs_the_same_time_as_a_wrong_secret() {
    let stand = auth_with_device(&[("bcrypt_cost", "10"), ("bcrypt_workers", "1")]).await;
    let api = stand.api();
    provision_now(&stand.redis, "waiting").await;
    let wrong = wrong_code();
    let requests = [
        ("a login with a wrong secret", "dev1", None),
        ("a login of an unknown client", "nobody", None),
        ("a login before registering", "waiting", None),
        ("a registration of an unknown client", "nobody", Some(&wrong)),
        ("a registration with a wrong code", "waiting", Some(&wrong)),
        ("a registration of a known client", "dev1", Some(&wrong)),
    ];
    // The fastest of many, in turns: other processes can only make a request slower, and their
    // load comes and goes.
    let mut fastest = [Duration::MAX; 6];
    for _ in 0..12 {
        for ((_, client, code), fastest) in requests.iter().zip(&mut fastest) {
            let begun = Instant::now();
            match code {
                None => log_in(&api, client, OTHER).await,
                Some(code) => register(&api, client, OTHER, code).await,
            };
            *fastest = begun.elapsed().min(*fastest);
        }
    }
    let known = fastest[0];
    assert!(known > Duration::from_millis(10), "bcrypt was not run: {known:?}");
    for ((what, ..), time) in requests.iter().zip(fastest) {
        let ratio = time.as_secs_f64() / known.as_secs_f64();
        assert!((0.6..1.7).contains(&ratio), "{what} takes {time:?}, a wrong secret {known:?}");
    }
}
