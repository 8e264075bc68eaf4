//! A primary is demoted behind its address while connections to it stay open: every client of it moves
//! to the new primary within five seconds, at either end.

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

/// The longest that a recovery may take.
const RECOVERY: Duration = Duration::from_secs(5);
/// Far below the interval of the sweep and of a poll: only a hint is as fast.
const LIVE: Duration = Duration::from_millis(400);
/// The default retry settings of a device.
const RETRIES: [(&str, &str); 2] = [("retry_first_ms", "500"), ("retry_longest_ms", "60000")];

async fn wait_for_length(
    what: &str,
    redis: &RedisServer,
    stream: &str,
    length: usize,
    within: Duration,
) {
    let awaited = format!("{what}: {length} entries in {stream}");
    eventually(&awaited, within, async || match redis.length(stream).await {
        found if found == length => Ok(()),
        found => Err(found),
    })
    .await;
}

async fn wait_for_ready(admin: &Api, what: &str) {
    eventually(&format!("{what} to be ready"), RECOVERY, async || {
        let answer = admin.get("/readyz").await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn the_hub_leaves_a_demoted_primary_within_five_seconds_at_each_failover() {
    for transport in TRANSPORTS {
        let mut pair = Pair::start().await;
        let url = pair.url();
        // `Cloud` needs a Redis; what it provisions there is not used.
        let settings = Settings { hub: &[("redis", &url)], auth: &[("redis", &url)] };
        let cloud = Cloud::start_with(settings).await;
        let own = [RETRIES[0], RETRIES[1], ("transport", transport)];
        let mut device = Device::without_agent(&cloud, "dev1", &own).await;
        provision(pair.primary(), "dev1", now_ms() + 3_600_000).await;
        device.start_agent();
        let down = out("dev1");
        device.redis.add(OUT, &fields([("n", "0")])).await;
        wait_for_length("before", pair.primary(), IN, 1, Duration::from_secs(30)).await;

        for round in 1..=2 {
            pair.fail_over().await;
            let what = format!("{transport}, fail-over {round}");

            let begun = Instant::now();
            device.redis.add(OUT, &fields([("n", "up")])).await;
            pair.primary().add(&down, &fields([("n", "down")])).await;
            wait_for_length(&what, pair.primary(), IN, 1 + round, RECOVERY).await;
            let left = RECOVERY.saturating_sub(begun.elapsed());
            wait_for_length(&what, &device.redis, DEVICE_IN, 3 * round - 2, left).await;
            wait_for_ready(&cloud.hub.admin(), "the hub").await;
            wait_for_ready(&cloud.auth.admin(), "auth").await;
            // Once no client is on the old primary, hints come from the new one.
            eventually("all clients to have left the old primary", RECOVERY, async || {
                match pair.clients_on_the_old_primary().await {
                    0 => Ok(()),
                    clients => Err(clients),
                }
            })
            .await;
            for n in 0..2 {
                pair.primary().add(&down, &fields([("n", "live")])).await;
                wait_for_length(&what, &device.redis, DEVICE_IN, 3 * round - 1 + n, LIVE).await;
            }
        }
    }
}

#[tokio::test]
async fn an_agent_leaves_a_demoted_primary_within_five_seconds_at_each_failover() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut pair = Pair::start().await;
        let url = pair.url();
        let own = [RETRIES[0], RETRIES[1], ("transport", transport), ("redis", &url)];
        let device = Device::start_with(&cloud, "dev1", &own).await;
        let down = out("dev1");
        pair.primary().add(OUT, &fields([("n", "0")])).await;
        wait_for_length("before", &cloud.redis, IN, 1, Duration::from_secs(30)).await;

        for round in 1..=2 {
            pair.fail_over().await;
            let what = format!("{transport}, fail-over {round}");

            let begun = Instant::now();
            pair.primary().add(OUT, &fields([("n", "up")])).await;
            cloud.redis.add(&down, &fields([("n", "down")])).await;
            wait_for_length(&what, &cloud.redis, IN, 3 * round - 1, RECOVERY).await;
            let left = RECOVERY.saturating_sub(begun.elapsed());
            wait_for_length(&what, pair.primary(), DEVICE_IN, round, left).await;
            eventually("all clients to have left the old primary", RECOVERY, async || {
                match pair.clients_on_the_old_primary().await {
                    0 => Ok(()),
                    clients => Err(clients),
                }
            })
            .await;
            for n in 0..2 {
                pair.primary().add(OUT, &fields([("n", "live")])).await;
                wait_for_length(&what, &cloud.redis, IN, 3 * round + n, LIVE).await;
            }
        }
        drop(device);
    }
}

#[tokio::test]
async fn idle_services_leave_a_demoted_primary_without_any_request() {
    let mut pair = Pair::start().await;
    let url = pair.url();
    let folder = tempfile::tempdir().unwrap();
    for (kind, settings) in
        [(Kind::Auth, &[][..]), (Kind::Hub, &[][..]), (Kind::Hub, &[("ack", "replicas:1")][..])]
    {
        let service = Service::start(kind, &url, settings, folder.path()).await;
        wait_for_ready(&service.admin(), "the service").await;
        pair.fail_over().await;
        let awaited = format!("the last client of {kind:?} {settings:?} to leave");
        eventually(&awaited, RECOVERY, async || match pair.clients_on_the_old_primary().await {
            0 => Ok(()),
            clients => Err(clients),
        })
        .await;
        wait_for_ready(&service.admin(), "the service").await;
    }
}

#[tokio::test]
async fn auth_registers_devices_within_five_seconds_of_a_failover() {
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
