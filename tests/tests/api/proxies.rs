//! Behind nginx and HAProxy, with the configuration files of `deploy`: what is carried, and which client
//! address is trusted.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod front;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use spoke_protocol::limits::IDLE_TIMEOUT;
use spoke_tests::{
    api::Api,
    checker::{assert_same, expected},
    cloud::{Cloud, Settings, out},
    device::{Device, OUT},
    entries::numbered,
    redis::free_port,
    service::{self, Service},
    wait::{eventually, eventually_true},
};

use self::front::{Front, Kind, PROXY_ADDRESS};

async fn cloud(auth: &[(&str, &str)]) -> Cloud {
    let trusted = ("trusted_proxies", PROXY_ADDRESS);
    let auth: Vec<_> = auth.iter().copied().chain([trusted]).collect();
    Cloud::start_with(Settings { hub: &[trusted], auth: &auth }).await
}

async fn assert_entries_pass_both_ways(kind: Kind) {
    let cloud = cloud(&[]).await;
    let Some(front) = Front::start(kind, &cloud).await else { return };
    for transport in ["ws", "http"] {
        let client = format!("dev-{transport}");
        let settings = front.settings();
        let mut settings: Vec<_> =
            settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        settings.push(("transport", transport));
        let device = Device::start_with(&cloud, &client, &settings).await;
        let entries: Vec<_> = (0..2000).map(numbered).collect();
        let up = device.redis.add_all(OUT, &entries).await;
        let down = cloud.redis.add_all(&out(&client), &entries).await;

        device.carried_both_ways(&cloud).await;

        assert_same("up", &expected(&up, Some(1)), &cloud.carried(&client).await);
        assert_same("down", &expected(&down, None), &device.carried().await);
        let known = cloud.redis.hash(&format!("spoke-hub:client:{client}:h")).await;
        assert_eq!(
            known["address"], "127.0.0.1",
            "the client's address, not the proxy's: {known:?}"
        );
    }
    // The largest body that the hub accepts passes; it is not JSON, so the hub refuses it.
    let api = cloud.client("dev-ws").await;
    let request = front.client_at("127.0.0.1");
    let request = request.post(format!("https://127.0.0.1:{}/xadd", front.port));
    let request = request
        .bearer_auth(api.token().expect("the client has a token"))
        .header("content-type", "application/json");
    let answer = api.call(request.body(vec![b'x'; 4_000_000])).await;
    assert_eq!(answer.refusal().0, 400, "{answer:?}");
}

/// A client cannot choose its address, and is not throttled for what another client did.
async fn assert_throttling_uses_own_address(kind: Kind) {
    let auth = [("throttle.address_burst", "3"), ("throttle.address_per_minute", "1")];
    let cloud = cloud(&auth).await;
    let Some(front) = Front::start(kind, &cloud).await else { return };
    let api = Api::new(cloud.auth.address());
    let url = format!("https://localhost:{}/login", front.port);
    let body = json!({ "client": "dev1", "secret": "a-secret-of-32-bytes-as-devices-" });
    let log_in_with = async |from: &str, forged: &[u8]| {
        let request = front.client_at(from).post(&url).header("x-forwarded-for", forged);
        api.call(request.json(&body)).await.status
    };
    let log_in = async |from: &str, forged: &str| log_in_with(from, forged.as_bytes()).await;
    for n in 0..3 {
        assert_eq!(log_in("127.0.0.1", &format!("192.0.2.{n}")).await, 401);
    }

    assert_eq!(log_in("127.0.0.1", "192.0.2.99").await, 429, "with a forged address");
    assert_eq!(log_in("127.0.0.1", PROXY_ADDRESS).await, 429, "even with the proxy's address");
    for junk in [&b"\xff"[..], b"192.0.2.9\xff", b"\xc3\xa9, 192.0.2.9", b"192.0.2.9, \x80,", b",,"]
    {
        let status = log_in_with("127.0.0.1", junk).await;
        assert_eq!(status, 429, "with any forged bytes: {}", junk.escape_ascii());
    }
    assert_eq!(log_in("127.0.0.5", "127.0.0.1").await, 401, "another client is served");
    // A header from a caller that is not a trusted proxy is ignored, so this caller stays throttled.
    let direct =
        api.request(reqwest::Method::POST, "/login").header("x-forwarded-for", "192.0.2.9");
    assert_eq!(api.call(direct.json(&body)).await.status, 429);
}

/// The hub's metric that counts the posted requests.
const POSTS: &str = "spoke_hub_requests_total{route=\"xadd\"}";

/// Two hubs are restarted one after the other while a program posts one entry after the other.
async fn assert_restarts_fail_no_request(kind: Kind) {
    let addresses: Vec<_> = (0..4).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let settings = |at: usize| {
        let trusted = ("trusted_proxies", PROXY_ADDRESS);
        [("listen", addresses[at].as_str()), ("admin_listen", addresses[at + 1].as_str()), trusted]
    };
    let both = Settings { hub: &settings(0), auth: &[("trusted_proxies", PROXY_ADDRESS)] };
    let mut cloud = Cloud::start_with(both).await;
    let folder = tempfile::tempdir().unwrap();
    let url = cloud.redis.url();
    let mut other = Service::start(service::Kind::Hub, &url, &settings(2), folder.path()).await;
    let Some(front) = Front::start_before(kind, &cloud, &[&cloud.hub, &other]).await else {
        return;
    };
    let (posted, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let api = cloud.client("dev1").await;
    let posting = tokio::spawn({
        let (client, count, stop) = (front.client_at("127.0.0.1"), posted.clone(), stop.clone());
        let url = format!("https://127.0.0.1:{}/xadd", front.port);
        async move {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let n = count.load(Ordering::Relaxed) + 1;
                let entry = json!({ "seq": format!("{n}-0"), "fields": { "n": n.to_string() } });
                let token = api.token().expect("the client has a token");
                let request = client.post(&url).bearer_auth(token).json(&entry);
                let answer = api.call(request).await;
                match answer.status {
                    200 | 409 => count.store(n, Ordering::Relaxed),
                    _ => failed.push(answer),
                }
            }
            failed
        }
    });
    let wait_for_more = async || {
        let before = posted.load(Ordering::Relaxed);
        eventually_true("more entries to be posted", async || {
            posting.is_finished() || posted.load(Ordering::Relaxed) > before + 50
        })
        .await;
    };

    for _ in 0..2 {
        for hub in [&mut cloud.hub, &mut other] {
            wait_for_more().await;
            assert_eq!(hub.terminate().await.code(), Some(0));
            wait_for_more().await;
            hub.restart().await;
            let admin = hub.admin();
            // With its default settings nginx would not use the hub for ten seconds.
            let soon = Duration::from_secs(8);
            eventually("the proxy to use it again", soon, async || {
                let metrics = admin.get("/metrics").await.text;
                let is_used = |line: &str| line.starts_with(POSTS) && !line.ends_with(" 0");
                if metrics.lines().any(is_used) { Ok(()) } else { Err("no request arrived") }
            })
            .await;
        }
    }
    wait_for_more().await;
    stop.store(true, Ordering::Relaxed);
    // A request that meets the end of a connection is retried. At most one may fail because the proxy did not
    // pass it on to the other hub.
    let failed = posting.await.unwrap();
    assert!(failed.len() <= 1, "{failed:#?}");
    assert_eq!(cloud.carried("dev1").await.len(), posted.load(Ordering::Relaxed));
}

#[tokio::test]
async fn two_hubs_behind_nginx_are_restarted_in_turn_and_no_request_fails() {
    assert_restarts_fail_no_request(Kind::Nginx).await;
}

#[tokio::test]
async fn two_hubs_behind_haproxy_are_restarted_in_turn_and_no_request_fails() {
    assert_restarts_fail_no_request(Kind::Haproxy).await;
}

#[tokio::test]
async fn entries_pass_nginx_both_ways_and_the_hub_sees_the_clients_address() {
    assert_entries_pass_both_ways(Kind::Nginx).await;
}

#[tokio::test]
async fn entries_pass_haproxy_both_ways_and_the_hub_sees_the_clients_address() {
    assert_entries_pass_both_ways(Kind::Haproxy).await;
}

#[tokio::test]
async fn behind_nginx_throttling_uses_the_callers_own_address() {
    assert_throttling_uses_own_address(Kind::Nginx).await;
}

#[tokio::test]
async fn behind_haproxy_throttling_uses_the_callers_own_address() {
    assert_throttling_uses_own_address(Kind::Haproxy).await;
}

#[test]
fn no_proxy_times_out_a_silent_link_before_hub_and_agent_do() {
    for (kind, key) in [
        (Kind::Nginx, "proxy_read_timeout"),
        (Kind::Nginx, "proxy_send_timeout"),
        (Kind::Haproxy, "timeout client"),
        (Kind::Haproxy, "timeout server"),
        (Kind::Haproxy, "timeout tunnel"),
    ] {
        let text = kind.shipped();
        // The first one is the hub's.
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
        let seconds: u64 = line.trim().trim_end_matches([';', 's']).parse().unwrap();
        assert!(seconds > IDLE_TIMEOUT.as_secs(), "{key} of {kind:?} is {seconds} s");
    }
}
