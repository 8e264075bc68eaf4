//! A flood of logins.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use spoke_tests::{
    cloud::{now_ms, one_time_code, provision},
    load_probe::{Recorder, Siege, connect_from},
    single_service::Stand,
    wait::{PATIENCE, eventually},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hostile::{PAUSE, SECRET, auth, request};

/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(6);

/// Sends one login with a wrong secret from another address; returns the whole response.
async fn log_in_from(stand: &Stand, host: u8, client: &str) -> Option<String> {
    let body = json!({ "client": client, "secret": SECRET.to_uppercase() }).to_string();
    let length = body.len().to_string();
    let headers = [
        ("content-type", "application/json"),
        ("content-length", length.as_str()),
        ("connection", "close"),
    ];
    let mut stream = connect_from(host, stand.service.address()).await.ok()?;
    let request = [request("POST", "/login", None, &headers), body.into_bytes()].concat();
    stream.write_all(&request).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// Sends wrong secrets from twelve addresses, for a registered client and for made-up ones; returns how
/// often each status was answered.
async fn flood(stand: &Stand) -> BTreeMap<String, usize> {
    let (until, made_up) = (Instant::now() + FLOOD, AtomicU64::new(0));
    let statuses = Mutex::new(BTreeMap::<String, usize>::new());
    let attackers = (0..48u8).map(async |n| {
        while Instant::now() < until {
            let client = match n % 2 {
                0 => "good".to_owned(),
                _ => format!("made-up-{}", made_up.fetch_add(1, Ordering::Relaxed)),
            };
            let Some(answer) = log_in_from(stand, 2 + n % 12, &client).await else { continue };
            let status = answer.get(9..12).unwrap_or("none").to_owned();
            if ["429", "503"].contains(&&*status) {
                assert!(answer.contains("\r\nretry-after: "), "{answer}");
            } else {
                assert_eq!(status, "401", "{answer}");
            }
            *statuses.lock().expect("no panic").entry(status).or_default() += 1;
        }
    });
    join_all(attackers).await;
    statuses.into_inner().expect("no panic")
}

/// Sends wrong logins on this many connections at a time from each of these addresses, until `is_over`.
async fn crowd(stand: &Stand, hosts: std::ops::Range<u8>, connections: u8, is_over: &AtomicBool) {
    let made_up = AtomicU64::new(0);
    let attackers = hosts.flat_map(|host| (0..connections).map(move |n| (host, n)));
    let attackers = attackers.map(async |(host, n)| {
        while !is_over.load(Ordering::Relaxed) {
            let client = match n % 2 {
                0 => "good".to_owned(),
                _ => format!("made-up-{}", made_up.fetch_add(1, Ordering::Relaxed)),
            };
            log_in_from(stand, host, &client).await;
        }
    });
    join_all(attackers).await;
}

/// Logs the good device in repeatedly while `crowd` runs: each login must succeed.
async fn good_device(stand: &Stand, is_over: &AtomicBool) -> Vec<Duration> {
    let (api, login) = (stand.api(), json!({ "client": "good", "secret": SECRET }));
    eventually("forty logins in the bcrypt queue", PATIENCE, async || {
        let text = stand.service.admin().get("/metrics").await.text;
        let in_hand = |line: &str| line.strip_prefix("spoke_auth_bcrypt_in_hand ")?.parse().ok();
        let waiting: Option<usize> = text.lines().find_map(in_hand);
        (waiting >= Some(40)).then_some(()).ok_or(text)
    })
    .await;
    let mut took = Vec::new();
    for n in 0..20 {
        let begun = Instant::now();
        let answer = api.post_json("/login", &login).await;
        assert_eq!(answer.status, 200, "login {n}: {answer:?}");
        took.push(begun.elapsed());
        let token =
            answer.json()["sessionToken"].as_str().expect("a login gives a token").to_owned();
        api.with_token(&token).post("/refresh").await.ok();
    }
    // And a device that was never registered.
    provision(&stand.redis, "new", now_ms() + 3_600_000).await;
    let body = json!({ "client": "new", "secret": SECRET, "otp": one_time_code(0) });
    api.post_json("/register", &body).await.ok();
    is_over.store(true, Ordering::Relaxed);
    took.sort_unstable();
    took
}

/// The settings of the original attack: a high bcrypt cost, and the default queue length.
const SLOW: [(&str, &str); 3] =
    [("bcrypt_cost", "9"), ("bcrypt_workers", "1"), ("throttle.address_failures_free", "1000000")];

#[tokio::test(flavor = "multi_thread")]
async fn a_good_device_logs_in_on_every_try_while_the_bcrypt_queue_is_full() {
    // Addresses and connections per address; the last row is the good device's own address.
    for (hosts, connections) in [(2..10, 24), (2..102, 2), (2..3, 192), (1..2, 96)] {
        let (stand, _) = auth(&SLOW).await;
        let is_over = AtomicBool::new(false);
        let crowd = crowd(&stand, hosts.clone(), connections, &is_over);
        let (took, ()) = tokio::join!(good_device(&stand, &is_over), crowd);
        let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{hosts:?} × {connections}: a good login took {median:?}, {slowest:?} at most");
        assert!(slowest < Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_few_logins_is_served_among_addresses_with_many() {
    let (stand, _) = auth(&SLOW).await;
    let is_over = AtomicBool::new(false);
    let good = async {
        for n in 0..8 {
            // Without the tag, auth cannot tell it from an unknown client before bcrypt runs.
            let key = "spoke-auth:client:good:h";
            stand.redis.command::<()>(&["HDEL", key, "secretTag"]).await;
            let login = json!({ "client": "good", "secret": SECRET });
            let answer = stand.api().post_json("/login", &login).await;
            assert_eq!(answer.status, 200, "login {n}: {answer:?}");
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(good, crowd(&stand, 2..10, 24, &is_over));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_logins_is_throttled_while_a_good_client_refreshes_and_logs_in() {
    // bcrypt takes about 20 ms at this cost, so the flood exceeds the capacity many times.
    let settings = [("bcrypt_cost", "8"), ("bcrypt_workers", "1"), ("bcrypt_queue", "16")];
    let (mut stand, token) = auth(&settings).await;
    let (pid, api) = (stand.service.process().pid(), stand.api());
    let good = async |recorder: Recorder| {
        let mut token = token.clone();
        loop {
            let renewed = recorder.time(api.with_token(&token).post("/refresh")).await;
            if renewed.status == 429 {
                // Ten refreshes a second exceed the limit of a single client, which is not tested here.
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            token = renewed.ok()["sessionToken"].as_str().unwrap().to_owned();
            tokio::time::sleep(PAUSE * 4).await;
        }
    };
    let log_in = async || {
        let begun = Instant::now();
        let body = json!({ "client": "good", "secret": SECRET });
        loop {
            let answer = stand.api().post_json("/login", &body).await;
            match answer.status {
                200 => return begun.elapsed(),
                429 | 503 => {
                    let wait = Duration::from_secs(answer.retry_after().unwrap_or(1));
                    tokio::time::sleep(wait.min(Duration::from_secs(1))).await;
                }
                _ => panic!("the correct secret is refused: {answer:?}"),
            }
            assert!(begun.elapsed() < PATIENCE, "the good client did not log in");
        }
    };
    let attack = async || {
        let (statuses, took) = tokio::join!(flood(&stand), log_in());
        println!("answers to the flood: {statuses:?}; a good login took {took:?}");
        let total: usize = statuses.values().sum();
        assert!(
            statuses.get("429").is_some_and(|throttled| *throttled > total / 2),
            "{statuses:?}"
        );
    };

    let siege = Siege::lay(pid, good, attack).await;

    siege.assert_borne("a flood of logins", 32);
    let gauge = stand.service.admin().get("/metrics").await.text;
    let in_hand = gauge.lines().find(|line| line.starts_with("spoke_auth_bcrypt_in_hand"));
    assert_eq!(in_hand, Some("spoke_auth_bcrypt_in_hand 0"), "logins are left in the queue");
}
