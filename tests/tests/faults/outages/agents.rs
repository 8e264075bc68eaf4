//! Agents while a Redis fails, the cloud's or their own: the agent waits, says why, and continues
//! automatically; nothing leaves the origin, nothing is lost and nothing is duplicated.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::cmd;
use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{Cloud, out},
    device::{Device, LOST, OUT},
    entries::{Stored, fields},
    redis::RedisServer,
    redis_fault::Fault,
    wait::{PATIENCE, eventually, eventually_true, throughout},
};

use crate::outages::{TRANSPORTS, add_down, add_up, part};

/// A device that trims acknowledged entries at once, so that a false acknowledgement would be noticed.
async fn trimming(cloud: &Cloud, transport: &str) -> Device {
    let settings = [("transport", transport), ("trim", "acked"), ("trim_slack_entries", "0")];
    let device = Device::start_with(cloud, "dev1", &settings).await;
    add_up(&device, "first", 1).await;
    add_down(cloud, &device, "first", 1).await;
    eventually_true("an acknowledged entry to be trimmed", async || {
        device.redis.length(OUT).await == 0
    })
    .await;
    device
}

/// The entries that were added, oldest first.
struct Added {
    up: Vec<Stored>,
    down: Vec<Stored>,
}

/// Waits for everything that was added after the first entry of each direction, and compares both copies.
async fn assert_carried(what: &str, cloud: &Cloud, device: &Device, added: &Added) {
    let awaited = format!("everything to be carried after {what}");
    eventually(&awaited, PATIENCE, async || {
        let seen = (cloud.carried("dev1").await.len(), device.carried().await.len());
        if seen == (1 + added.up.len(), 1 + added.down.len()) { Ok(()) } else { Err(seen) }
    })
    .await;
    let up = expected(&added.up, Some(1));
    let down = expected(&added.down, None);
    assert_same(&format!("up, {what}"), &up, &cloud.carried("dev1").await[1..]);
    assert_same(&format!("down, {what}"), &down, &device.carried().await[1..]);
    assert_eq!(device.redis.length(LOST).await, 0, "{what}");
}

/// Adds the entries that are in flight when the fault begins, as many as one pipeline.
async fn add_in_flight(redis: &RedisServer, stream: &str) -> Vec<Stored> {
    redis.add_all(stream, &part("in flight", 50)).await
}

#[tokio::test]
async fn agents_keep_everything_while_the_clouds_redis_fails_and_then_continue() {
    let rows = Fault::ALL.into_iter().zip(TRANSPORTS.into_iter().cycle());
    // Concurrently, since the agents mostly wait before they reconnect.
    join_all(rows.map(|(fault, transport)| cloud_redis_fails(fault, transport))).await;
}

async fn cloud_redis_fails(fault: Fault, transport: &str) {
    let what = format!("a cloud's redis that is {fault:?}, over {transport}");
    let mut cloud = Cloud::start().await;
    let mut device = trimming(&cloud, transport).await;
    let down = add_in_flight(&cloud.redis, &out("dev1")).await;
    fault.begin(&mut cloud.redis).await;
    let up = add_up(&device, "during the fault", 50).await;

    let begun = Instant::now();
    let tried = cloud.hub_proxy.connections();
    let awaited = format!("the agent to log the fault, {what}");
    eventually_true(&awaited, async || device.log().contains("unavailable")).await;
    let so_far = || (begun.elapsed(), cloud.hub_proxy.connections() - tried);
    // The hub asks for a wait of at least a second; over HTTP one try may be three connections.
    let each = if transport == "http" { 3 } else { 1 };
    throughout(&format!("few tries, {what}"), Duration::from_secs(2), true, async || {
        let (elapsed, tries) = so_far();
        tries <= each * (2 + elapsed.as_secs())
    })
    .await;

    assert_eq!(device.redis.entries(OUT).await, up, "unacknowledged entries must stay, {what}");
    fault.end(&mut cloud.redis).await;
    assert_carried(&what, &cloud, &device, &Added { up, down }).await;
    assert!(device.agent().exit().is_none(), "{what}");
}

#[tokio::test]
async fn a_device_redis_filled_by_its_backlog_is_emptied_by_its_agent() {
    let cloud = Cloud::start().await;
    let device = trimming(&cloud, "ws").await;
    cloud.hub_proxy.refuse();
    cloud.hub_proxy.cut();
    let payload = "x".repeat(4096);
    let entries: Vec<_> =
        (0..500).map(|n| fields([("n", n.to_string()), ("payload", payload.clone())])).collect();
    let mut up = device.redis.add_all(OUT, &entries).await;
    // Less than Redis uses now, and more than it will use without the entries.
    let used = device.redis.info("memory").await;
    let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let limit = used.parse::<usize>().unwrap() - 500_000;
    device.redis.command::<()>(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).await;
    let mut app = device.redis.connection();
    let refused = cmd("XADD").arg(OUT).arg("*").arg("a").arg("b").exec_async(&mut app).await;
    assert_eq!(refused.unwrap_err().code(), Some("OOM"));

    cloud.hub_proxy.restore();

    eventually("redis to accept writes", PATIENCE, async || {
        cmd("SET").arg("room").arg("there").exec_async(&mut app).await
    })
    .await;
    up.extend(add_up(&device, "afterwards", 1).await);
    assert_carried("a full redis", &cloud, &device, &Added { up, down: Vec::new() }).await;
}

#[tokio::test]
async fn an_agent_waits_and_says_so_while_its_own_redis_fails_and_then_continues() {
    for (fault, transport) in Fault::ALL.into_iter().zip(TRANSPORTS.into_iter().cycle()) {
        let what = format!("a device's redis that is {fault:?}, over {transport}");
        let cloud = Cloud::start().await;
        let mut device = trimming(&cloud, transport).await;
        let up = add_in_flight(&device.redis, OUT).await;
        fault.begin(&mut device.redis).await;
        let down = add_down(&cloud, &device, "during the fault", 50).await;

        let awaited = format!("the agent to log the fault, {what}");
        eventually_true(&awaited, async || device.log().contains("own-redis")).await;
        assert_eq!(cloud.redis.entries(&out("dev1")).await[1..], down, "{what}");
        fault.end(&mut device.redis).await;
        assert_carried(&what, &cloud, &device, &Added { up, down }).await;
        assert!(device.agent().exit().is_none(), "{what}");
    }
}
