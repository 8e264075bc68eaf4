//! Behind nginx and HAProxy, with the files that users take: what is carried, and who is believed.

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

use self::front::{Front, Kind, SPEAKER};

async fn cloud(auth: &[(&str, &str)]) -> Cloud {
    let trusted = ("trusted_proxies", SPEAKER);
    let auth: Vec<_> = auth.iter().copied().chain([trusted]).collect();
    Cloud::start_with(Settings { hub: &[trusted], auth: &auth }).await
}

async fn entries_cross_both_ways(kind: Kind) {
    let cloud = cloud(&[]).await;
    let Some(front) = Front::start(kind, &cloud).await else { return };
    for transport in ["ws", "http"] {
        let client = format!("dev-{transport}");
        let way = front.settings();
        let mut settings: Vec<_> = way.iter().map(|(key, value)| (*key, value.as_str())).collect();
        settings.push(("transport", transport));
        let device = Device::start_with(&cloud, &client, &settings).await;
        let entries: Vec<_> = (0..2000).map(numbered).collect();
        let up = device.redis.add_all(OUT, &entries).await;
        let down = cloud.redis.add_all(&out(&client), &entries).await;

        device.carried_both_ways(&cloud).await;

        assert_same("up", &expected(&up, Some(1)), &cloud.carried(&client).await);
        assert_same("down", &expected(&down, None), &device.carried().await);
        let known = cloud.redis.hash(&format!("spoke-hub:client:{client}:h")).await;
        assert_eq!(known["address"], "127.0.0.1", "its own address, not the proxy's: {known:?}");
    }
    // As large as the hub takes it, and told by the hub itself that it is no JSON.
    let api = cloud.client("dev-ws").await;
    let request = front.client_at("127.0.0.1");
    let request = request.post(format!("https://127.0.0.1:{}/xadd", front.port));
    let request = request
        .bearer_auth(api.token().expect("it has a session"))
        .header("content-type", "application/json");
    let answer = api.call(request.body(vec![b'x'; 4_000_000])).await;
    assert_eq!(answer.refusal().0, 400, "{answer:?}");
}

/// An address is not the client's to choose, and what a neighbour did is not held against it.
async fn throttling_goes_by_the_callers_own_address(kind: Kind) {
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

    assert_eq!(log_in("127.0.0.1", "192.0.2.99").await, 429, "however it calls itself");
    assert_eq!(log_in("127.0.0.1", SPEAKER).await, 429, "even by the proxy's name");
    for junk in [&b"\xff"[..], b"192.0.2.9\xff", b"\xc3\xa9, 192.0.2.9", b"192.0.2.9, \x80,", b",,"]
    {
        let status = log_in_with("127.0.0.1", junk).await;
        assert_eq!(status, 429, "whatever bytes it writes: {}", junk.escape_ascii());
    }
    assert_eq!(log_in("127.0.0.5", "127.0.0.1").await, 401, "another is served");
    // Nobody believes those who are no proxy: this one is out of turns, whatever it says.
    let straight =
        api.request(reqwest::Method::POST, "/login").header("x-forwarded-for", "192.0.2.9");
    assert_eq!(api.call(straight.json(&body)).await.status, 429);
}

/// Of a hub's figures, the one that tells of requests such as these.
const USED: &str = "spoke_hub_requests_total{route=\"xadd\"}";

/// Two hubs are restarted one after the other while a program posts one entry after the other.
async fn restarts_cost_no_request(kind: Kind) {
    let places: Vec<_> = (0..4).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let settings = |at: usize| {
        let trusted = ("trusted_proxies", SPEAKER);
        [("listen", places[at].as_str()), ("admin_listen", places[at + 1].as_str()), trusted]
    };
    let both = Settings { hub: &settings(0), auth: &[("trusted_proxies", SPEAKER)] };
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
                let token = api.token().expect("it has a session");
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
    let more = async || {
        let before = posted.load(Ordering::Relaxed);
        eventually_true("more to be posted", async || {
            posting.is_finished() || posted.load(Ordering::Relaxed) > before + 50
        })
        .await;
    };

    for _ in 0..2 {
        for hub in [&mut cloud.hub, &mut other] {
            more().await;
            assert_eq!(hub.terminate().await.code(), Some(0));
            more().await;
            hub.restart().await;
            let admin = hub.admin();
            // nginx would pass it over for ten seconds, if it was let.
            let soon = Duration::from_secs(8);
            eventually("the proxy to use it again", soon, async || {
                let metrics = admin.get("/metrics").await.text;
                let is_used = |line: &str| line.starts_with(USED) && !line.ends_with(" 0");
                if metrics.lines().any(is_used) { Ok(()) } else { Err("it does not") }
            })
            .await;
        }
    }
    more().await;
    stop.store(true, Ordering::Relaxed);
    // One that meets the very end of a connection is asked again; one that is not passed on to the
    // other hub fails for as long as that takes.
    let failed = posting.await.unwrap();
    assert!(failed.len() <= 1, "{failed:#?}");
    assert_eq!(cloud.carried("dev1").await.len(), posted.load(Ordering::Relaxed));
}

#[tokio::test]
async fn two_hubs_behind_nginx_are_restarted_in_turn_and_no_request_fails() {
    restarts_cost_no_request(Kind::Nginx).await;
}

#[tokio::test]
async fn two_hubs_behind_haproxy_are_restarted_in_turn_and_no_request_fails() {
    restarts_cost_no_request(Kind::Haproxy).await;
}

#[tokio::test]
async fn entries_pass_nginx_both_ways_and_the_hub_sees_the_clients_address() {
    entries_cross_both_ways(Kind::Nginx).await;
}

#[tokio::test]
async fn entries_pass_haproxy_both_ways_and_the_hub_sees_the_clients_address() {
    entries_cross_both_ways(Kind::Haproxy).await;
}

#[tokio::test]
async fn behind_nginx_throttling_uses_the_callers_own_address() {
    throttling_goes_by_the_callers_own_address(Kind::Nginx).await;
}

#[tokio::test]
async fn behind_haproxy_throttling_uses_the_callers_own_address() {
    throttling_goes_by_the_callers_own_address(Kind::Haproxy).await;
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
