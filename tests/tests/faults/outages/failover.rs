//! A primary is demoted behind its address while connections to it stay open: whoever has one goes over to
//! the new primary within five seconds, at either end.

use std::time::{Duration, Instant};

use serde_json::json;
use spoke_tests::{
    api::Api,
    cloud::{Cloud, IN, Settings, now_ms, one_time_code, out, provision},
    device::{Device, IN as DEVICE_IN, OUT},
    entries::fields,
    redis::RedisServer,
    redis_pair::Pair,
    service::{Kind, Service},
    wait::eventually,
};

use super::TRANSPORTS;

/// What every recovery has to keep to.
const RECOVERY: Duration = Duration::from_secs(5);
/// Far below the sweep, and below a poll: only a hint is as fast.
const LIVE: Duration = Duration::from_millis(400);
/// As on a device in the field.
const RETRIES: [(&str, &str); 2] = [("retry_first_ms", "500"), ("retry_longest_ms", "60000")];

async fn grows(what: &str, redis: &RedisServer, stream: &str, length: usize, within: Duration) {
    let awaited = format!("{what}: {length} entries in {stream}");
    eventually(&awaited, within, async || match redis.length(stream).await {
        found if found == length => Ok(()),
        found => Err(found),
    })
    .await;
}

async fn is_ready(admin: &Api, what: &str) {
    eventually(&format!("{what} to be ready"), RECOVERY, async || {
        let answer = admin.get("/readyz").await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn a_demoted_primary_of_the_hub_is_left_within_five_seconds_both_ways_and_again() {
    for transport in TRANSPORTS {
        let mut pair = Pair::start().await;
        let url = pair.url();
        // `Cloud` wants a Redis; what it provisions there is not used.
        let settings = Settings { hub: &[("redis", &url)], auth: &[("redis", &url)] };
        let cloud = Cloud::start_with(settings).await;
        let own = [RETRIES[0], RETRIES[1], ("transport", transport)];
        let mut device = Device::without_agent(&cloud, "dev1", &own).await;
        provision(pair.primary(), "dev1", now_ms() + 3_600_000).await;
        device.start_agent();
        let down = out("dev1");
        device.redis.add(OUT, &fields([("n", "0")])).await;
        grows("before", pair.primary(), IN, 1, Duration::from_secs(30)).await;

        for round in 1..=2 {
            pair.fail_over().await;
            let what = format!("{transport}, fail-over {round}");

            let begun = Instant::now();
            device.redis.add(OUT, &fields([("n", "up")])).await;
            pair.primary().add(&down, &fields([("n", "down")])).await;
            grows(&what, pair.primary(), IN, 1 + round, RECOVERY).await;
            let left = RECOVERY.saturating_sub(begun.elapsed());
            grows(&what, &device.redis, DEVICE_IN, 3 * round - 2, left).await;
            is_ready(&cloud.hub.admin(), "the hub").await;
            is_ready(&cloud.auth.admin(), "auth").await;
            // Nobody is left behind; so what follows is heard where it happens.
            eventually("all to have left", RECOVERY, async || match pair.left_behind().await {
                0 => Ok(()),
                clients => Err(clients),
            })
            .await;
            for n in 0..2 {
                pair.primary().add(&down, &fields([("n", "live")])).await;
                grows(&what, &device.redis, DEVICE_IN, 3 * round - 1 + n, LIVE).await;
            }
        }
    }
}

#[tokio::test]
async fn a_demoted_primary_of_a_device_is_left_within_five_seconds_both_ways() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut pair = Pair::start().await;
        let url = pair.url();
        let own = [RETRIES[0], RETRIES[1], ("transport", transport), ("redis", &url)];
        let device = Device::start_with(&cloud, "dev1", &own).await;
        let down = out("dev1");
        pair.primary().add(OUT, &fields([("n", "0")])).await;
        grows("before", &cloud.redis, IN, 1, Duration::from_secs(30)).await;

        for round in 1..=2 {
            pair.fail_over().await;
            let what = format!("{transport}, fail-over {round}");

            let begun = Instant::now();
            pair.primary().add(OUT, &fields([("n", "up")])).await;
            cloud.redis.add(&down, &fields([("n", "down")])).await;
            grows(&what, &cloud.redis, IN, 3 * round - 1, RECOVERY).await;
            let left = RECOVERY.saturating_sub(begun.elapsed());
            grows(&what, pair.primary(), DEVICE_IN, round, left).await;
            eventually("all to have left", RECOVERY, async || match pair.left_behind().await {
                0 => Ok(()),
                clients => Err(clients),
            })
            .await;
            for n in 0..2 {
                pair.primary().add(OUT, &fields([("n", "live")])).await;
                grows(&what, &cloud.redis, IN, 3 * round + n, LIVE).await;
            }
        }
        drop(device);
    }
}

#[tokio::test]
async fn idle_services_leave_a_demoted_primary_although_nobody_asks_them_for_anything() {
    let mut pair = Pair::start().await;
    let url = pair.url();
    let folder = tempfile::tempdir().unwrap();
    for (kind, settings) in
        [(Kind::Auth, &[][..]), (Kind::Hub, &[][..]), (Kind::Hub, &[("ack", "replicas:1")][..])]
    {
        let service = Service::start(kind, &url, settings, folder.path()).await;
        is_ready(&service.admin(), "the service").await;
        pair.fail_over().await;
        let awaited = format!("the last client of {kind:?} {settings:?} to leave");
        eventually(&awaited, RECOVERY, async || match pair.left_behind().await {
            0 => Ok(()),
            clients => Err(clients),
        })
        .await;
        is_ready(&service.admin(), "the service").await;
    }
}

#[tokio::test]
async fn auth_whose_primary_was_demoted_lets_devices_in_within_five_seconds() {
    let mut pair = Pair::start().await;
    let folder = tempfile::tempdir().unwrap();
    let auth = Service::start(Kind::Auth, &pair.url(), &[], folder.path()).await;
    for client in ["dev1", "dev2"] {
        provision(pair.primary(), client, now_ms() + 3_600_000).await;
    }
    let register = async |client: &str| {
        let secret = "a-secret-of-more-than-24-bytes";
        let body = json!({ "client": client, "secret": secret, "otp": one_time_code(0) });
        auth.api().post_json("/register", &body).await
    };
    register("dev1").await.ok();
    pair.fail_over().await;
    eventually("dev2 to be registered", RECOVERY, async || {
        let answer = register("dev2").await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
}
