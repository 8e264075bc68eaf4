//! `POST /register`

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};
use spoke_store::session_tokens::{digest, session_key};
use spoke_tests::{
    cloud::{now_ms, one_time_code, provision},
    single_service::Stand,
};

use crate::auth_api::{
    HOUR_MS, SECRET, auth, auth_with_device, log_in, provision_now, register, session_token,
    wrong_code,
};

const KEY: &str = "spoke-auth:client:dev1:h";

#[tokio::test]
async fn a_device_provisioned_with_the_contracts_redis_command_registers_and_logs_in() {
    let stand = auth().await;
    let line = [
        "HSET",
        "spoke-auth:client:dev1:h",
        "otpSecret",
        "GRZWE3CLNBBTK2LMIRFEM6CCI5WEQR3P",
        "regDeadline",
        "1893456000000",
    ];
    stand.redis.cli(&line).await.done();

    let answer = register(&stand.api(), "dev1", SECRET, &one_time_code(0)).await;

    assert_eq!(answer.status, 200, "{answer:?}");
    let stored = stand.redis.hash(KEY).await;
    assert!(!stored.contains_key("regDeadline"), "a client can register only once: {stored:?}");
    assert!(stored["secret"].starts_with("$2b$04$"), "the secret is stored as bcrypt: {stored:?}");
    let registered_at: u64 = stored["registeredAt"].parse().unwrap();
    assert!(registered_at.abs_diff(now_ms()) < 60_000, "{stored:?}");
    assert_eq!(log_in(&stand.api(), "dev1", SECRET).await.status, 200);
}

#[tokio::test]
async fn a_code_one_step_off_is_accepted_and_one_three_steps_off_is_not() {
    for (steps, status) in [(-3, 403), (-1, 200), (1, 200), (3, 403)] {
        let stand = auth().await;
        provision_now(&stand.redis, "dev1").await;
        // Even if the time step changes during the test, the verdicts stay the same.
        let answer = register(&stand.api(), "dev1", SECRET, &one_time_code(steps)).await;
        assert_eq!(answer.status, status, "{steps} steps from now: {answer:?}");
    }
}

#[tokio::test]
async fn all_refused_registrations_get_the_same_answer() {
    let stand = auth().await;
    let api = stand.api();
    for client in ["wrong-code", "taken", "revoked", "used"] {
        provision_now(&stand.redis, client).await;
    }
    provision(&stand.redis, "too-late", now_ms() - 1).await;
    let code = one_time_code(0);
    assert_eq!(register(&api, "taken", SECRET, &code).await.status, 200);
    stand.redis.command::<()>(&["HSET", "spoke-auth:client:revoked:h", "disabled", "1"]).await;
    stand.redis.command::<()>(&["HSET", "spoke-auth:client:used:h", "otpStep", "99999999"]).await;

    let other = "another-secret-of-some-length";
    let answers = [
        register(&api, "nobody", SECRET, &code).await,
        register(&api, "wrong-code", SECRET, &wrong_code()).await,
        register(&api, "too-late", SECRET, &code).await,
        register(&api, "taken", other, &code).await,
        register(&api, "revoked", SECRET, &code).await,
        register(&api, "used", SECRET, &code).await,
    ];

    for answer in &answers {
        assert_eq!(answer.refusal(), (403, "refused".to_owned()), "{answer:?}");
    }
    let bodies: BTreeSet<_> = answers.iter().map(|answer| &answer.text).collect();
    assert_eq!(bodies.len(), 1, "a caller can tell the answers apart: {bodies:?}");
    let headers = |i: usize| answers[i].headers.keys().map(ToString::to_string).collect::<Vec<_>>();
    for i in 1..answers.len() {
        assert_eq!(headers(i), headers(0), "a caller can tell answer {i} apart");
    }
}

#[tokio::test]
async fn a_used_code_is_refused_even_after_the_client_is_provisioned_again() {
    let stand = auth_with_device(&[]).await;
    let step = stand.redis.hash(KEY).await["otpStep"].parse::<u64>().unwrap();
    let used = one_time_code(step as i64 - (now_ms() / 30_000) as i64);
    stand.redis.command::<()>(&["HDEL", KEY, "secret"]).await;
    provision_now(&stand.redis, "dev1").await;

    let again = register(&stand.api(), "dev1", SECRET, &used).await;
    let next = register(&stand.api(), "dev1", SECRET, &one_time_code(1)).await;

    assert_eq!(again.refusal(), (403, "refused".to_owned()));
    assert_eq!(next.status, 200, "the next code is a new one: {next:?}");
}

#[tokio::test]
async fn one_of_twenty_concurrent_registrations_succeeds() {
    let stand = auth().await;
    let api = stand.api();
    provision_now(&stand.redis, "dev1").await;
    let code = one_time_code(0);
    let secrets: Vec<_> = (0..20).map(|i| format!("{SECRET}{i}")).collect();

    let all = secrets.iter().map(|secret| register(&api, "dev1", secret, &code));
    let answers = join_all(all).await;

    let winners: Vec<_> = (0..20).filter(|&i| answers[i].status == 200).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    for (i, secret) in secrets.iter().enumerate() {
        if i != winners[0] {
            assert_eq!(answers[i].refusal(), (403, "refused".to_owned()));
        }
        let expected = if i == winners[0] { 200 } else { 401 };
        assert_eq!(log_in(&api, "dev1", secret).await.status, expected, "secret {i}");
    }
}

#[tokio::test]
async fn registering_the_same_secret_again_before_the_deadline_changes_nothing() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    let before = stand.redis.hash(KEY).await;

    // A device that missed the answer has only the code of its first try.
    let again = register(&api, "dev1", SECRET, &one_time_code(0)).await;
    let other = register(&api, "dev1", "another-secret-of-some-length", &one_time_code(1)).await;

    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(other.status, 403, "{other:?}");
    assert_eq!(stand.redis.hash(KEY).await, before);

    stand.redis.command::<()>(&["HSET", KEY, "regWindow", &(now_ms() - 1).to_string()]).await;
    let late = register(&api, "dev1", SECRET, &one_time_code(1)).await;
    assert_eq!(late.refusal(), (403, "refused".to_owned()), "the window is closed");
}

/// The time of registration in the client's hash, in ms since 1970.
async fn registered_at(stand: &Stand) -> u64 {
    stand.redis.hash(KEY).await["registeredAt"].parse().expect("registeredAt is a number")
}

#[tokio::test]
async fn registered_at_increases_with_each_new_secret_even_if_the_clock_goes_back() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    // The clock was an hour ahead when the client registered, and is right now.
    let ahead = now_ms() + HOUR_MS;
    stand.redis.command::<()>(&["HSET", KEY, "registeredAt", &ahead.to_string()]).await;
    stand.command(&["revoke", "dev1"]).await.done();
    stand.command(&["provision", "dev1", "--again"]).await.done();
    provision_now(&stand.redis, "dev1").await;

    assert_eq!(register(&api, "dev1", SECRET, &one_time_code(0)).await.status, 200);
    assert_eq!(registered_at(&stand).await, ahead + 1, "after --again");
    assert_eq!(register(&api, "dev1", SECRET, &one_time_code(1)).await.status, 200);
    assert_eq!(registered_at(&stand).await, ahead + 1, "the same secret again changes nothing");

    stand.redis.command::<()>(&["HDEL", KEY, "secret"]).await;
    provision_now(&stand.redis, "dev1").await;
    assert_eq!(register(&api, "dev1", SECRET, &one_time_code(1)).await.status, 200);
    assert_eq!(registered_at(&stand).await, ahead + 2, "after the secret was deleted by hand");
}

#[tokio::test]
async fn an_invalid_registered_at_counts_as_absent() {
    for invalid in ["", "soon", "-1", "1e300", "18446744073709551615", "9007199254740993"] {
        let stand = auth().await;
        provision_now(&stand.redis, "dev1").await;
        stand.redis.command::<()>(&["HSET", KEY, "registeredAt", invalid]).await;
        assert_eq!(register(&stand.api(), "dev1", SECRET, &one_time_code(0)).await.status, 200);
        assert!(registered_at(&stand).await.abs_diff(now_ms()) < 60_000, "{invalid:?}");
    }
}

#[tokio::test]
async fn a_session_belongs_to_its_registration_and_ends_with_the_next_one() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    let session_of = |token: &str| session_key("spoke-auth", &digest(token));
    let first = registered_at(&stand).await.to_string();

    let logged_in = session_token(&log_in(&api, "dev1", SECRET).await.ok());
    let refreshed = session_token(&api.with_token(&logged_in).post("/refresh").await.ok());
    for token in [&logged_in, &refreshed] {
        assert_eq!(stand.redis.hash(&session_of(token)).await["registeredAt"], first);
    }
    // By hand, so that no command ends the sessions, and with their list deleted.
    stand.redis.command::<()>(&["DEL", "spoke-auth:client:dev1:sessions:z"]).await;
    stand.redis.command::<()>(&["HDEL", KEY, "secret"]).await;
    provision_now(&stand.redis, "dev1").await;
    let other = "another-secret-of-some-length";
    assert_eq!(register(&api, "dev1", other, &one_time_code(1)).await.status, 200);

    let old = api.with_token(&refreshed).post("/refresh").await;
    assert_eq!(
        old.refusal(),
        (401, "no-session".to_owned()),
        "the session is of an earlier registration"
    );
    let new = session_token(&log_in(&api, "dev1", other).await.ok());
    let second: u64 = stand.redis.hash(&session_of(&new)).await["registeredAt"].parse().unwrap();
    assert!(second > first.parse().unwrap(), "{second} is not later than {first}");
}

#[tokio::test]
async fn a_refusal_has_a_date_header_so_that_a_device_with_a_wrong_clock_can_retry() {
    let stand = auth().await;
    let answer = register(&stand.api(), "dev1", SECRET, "000000").await;
    let date = answer.header("date").expect("a refusal has a date");
    let stated = httpdate_ms(date);
    assert!(stated.abs_diff(now_ms()) < 60_000, "{date}");
}

#[tokio::test]
async fn a_malformed_registration_is_refused_with_the_field_name_but_not_its_value() {
    let stand = auth().await;
    let good = json!({ "client": "dev1", "secret": SECRET, "otp": "123456" });
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let instead_of_otp = |field: &str, value: Value| {
        let mut body = with(field, value);
        body.as_object_mut().unwrap().remove("otp");
        body
    };
    let without = |field: &str| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(field);
        body
    };
    let table = [
        ("client", without("client")),
        ("client", with("client", json!(7))),
        ("client", with("client", json!(""))),
        ("client", with("client", json!("two words"))),
        ("client", with("client", json!("-dash-first"))),
        ("client", with("client", json!("a".repeat(65)))),
        ("client", with("client", json!("dev1:h spoke-auth:client:x"))),
        ("secret", without("secret")),
        ("secret", with("secret", json!("s".repeat(23)))),
        ("secret", with("secret", json!("s".repeat(73)))),
        ("secret", with("secret", json!(format!("{SECRET}\0{SECRET}")))),
        ("otp", without("otp")),
        ("otp", with("otp", json!("12345"))),
        ("otp", with("otp", json!("1234567"))),
        ("otp", with("otp", json!("12345a"))),
        ("otp", with("otp", json!(123456))),
        ("proof", with("proof", json!("0".repeat(64)))),
        ("proof", instead_of_otp("proof", json!("0".repeat(63)))),
        ("proof", instead_of_otp("proof", json!("A".repeat(64)))),
        ("proof", instead_of_otp("proof", json!(7))),
    ];
    for (field, body) in table {
        let answer = stand.api().post_json("/register", &body).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{body}");
        assert!(answer.message().contains(field), "{body}: {answer:?}");
        assert!(!answer.text.contains("ssss"), "the answer contains a secret: {answer:?}");
    }
}

#[tokio::test]
async fn a_malformed_unsupported_or_oversized_body_is_refused() {
    let stand = auth().await;
    let api = stand.api();
    for body in ["", "{", "[]", "null", "\"dev1\"", "{\"client\":"] {
        let answer = api.post_body("/register", "application/json", body).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{body:?}");
    }
    let form = "client=dev1&secret=%zz&otp";
    let answer = api.post_body("/register", "application/x-www-form-urlencoded", form).await;
    assert_eq!(answer.refusal().0, 400, "{answer:?}");
    let answer = api.post_body("/register", "text/plain", "client=dev1").await;
    assert_eq!(answer.refusal().0, 415, "{answer:?}");
    let large = json!({ "client": "dev1", "secret": "s".repeat(10_000), "otp": "123456" });
    let answer = api.post_json("/register", &large).await;
    assert_eq!(answer.refusal(), (413, "too-large".to_owned()));
}

#[tokio::test]
async fn a_form_body_works_as_well_as_json() {
    let stand = auth().await;
    let api = stand.api();
    provision_now(&stand.redis, "dev1").await;
    // Percent and plus signs are what form decoders get wrong.
    let secret = "per%cent+plus&and=equals ten";
    let encoded = "per%25cent%2Bplus%26and%3Dequals+ten";
    let kind = "application/x-www-form-urlencoded";

    let body = format!("client=dev1&secret={encoded}&otp={}", one_time_code(0));
    let registered = api.post_body("/register", kind, body).await;
    let by_form = api.post_body("/login", kind, format!("client=dev1&secret={encoded}")).await;

    assert_eq!(registered.status, 200, "{registered:?}");
    assert_eq!(by_form.status, 200, "{by_form:?}");
    assert_eq!(log_in(&api, "dev1", secret).await.status, 200, "the secret arrived unchanged");
}

#[tokio::test]
async fn secrets_of_24_and_72_bytes_are_accepted_and_every_byte_counts() {
    let stand = auth().await;
    let api = stand.api();
    for (client, length) in [("short", 24), ("long", 72)] {
        provision(&stand.redis, client, now_ms() + HOUR_MS).await;
        let secret = "s".repeat(length);
        let nearly = format!("{}t", "s".repeat(length - 1));

        let registered = register(&api, client, &secret, &one_time_code(0)).await;

        assert_eq!(registered.status, 200, "{length}: {registered:?}");
        assert_eq!(log_in(&api, client, &nearly).await.status, 401, "{length}, last byte wrong");
        assert_eq!(log_in(&api, client, &secret).await.status, 200, "{length}");
    }
}

#[tokio::test]
async fn a_client_with_the_longest_name_registers() {
    let stand = auth().await;
    let name = format!("A{}", "._-z".repeat(16)).chars().take(64).collect::<String>();
    provision_now(&stand.redis, &name).await;
    let answer = register(&stand.api(), &name, SECRET, &one_time_code(0)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Converts a date such as `Sun, 06 Nov 1994 08:49:37 GMT` to ms since 1970.
fn httpdate_ms(text: &str) -> u64 {
    let parts: Vec<_> = text.split([' ', ':']).collect();
    let number = |i: usize| parts[i].parse::<u64>().expect("a date has numbers");
    let month = "JanFebMarAprMayJunJulAugSepOctNovDec".find(parts[2]).expect("a month") as u64 / 3;
    // Days by the civil calendar, with years that begin in March.
    let (year, month) =
        if month > 1 { (number(3), month - 2) } else { (number(3) - 1, month + 10) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + number(1);
    (((days - 719_469) * 24 + number(4)) * 3600 + number(5) * 60 + number(6)) * 1000
}
