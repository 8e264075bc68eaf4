//! What an agent makes of a Redis in trouble, the cloud's or its own: it waits, says why, and goes on
//! by itself; nothing leaves the origin, nothing is lost and nothing comes twice.

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

/// A device that takes acknowledged entries out of its stream at once, so that a false
/// acknowledgement would show.
async fn trimming(cloud: &Cloud, transport: &str) -> Device {
    let settings = [("transport", transport), ("trim", "acked"), ("trim_slack_entries", "0")];
    let device = Device::start_with(cloud, "dev1", &settings).await;
    add_up(&device, "first", 1).await;
    add_down(cloud, &device, "first", 1).await;
    eventually_true("an acknowledged entry to be taken out", async || {
        device.redis.length(OUT).await == 0
    })
    .await;
    device
}

/// What was added, oldest first.
struct Added {
    up: Vec<Stored>,
    down: Vec<Stored>,
}

/// Waits for all that was added after the first entry of each, and holds both copies against it.
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

/// Entries under way when the fault comes, as many as one pipeline.
async fn under_way(redis: &RedisServer, stream: &str) -> Vec<Stored> {
    redis.add_all(stream, &part("under way", 50)).await
}

#[tokio::test]
async fn while_the_clouds_redis_is_in_trouble_agents_wait_and_keep_everything_and_then_go_on() {
    let rows = Fault::ALL.into_iter().zip(TRANSPORTS.into_iter().cycle());
    // Beside each other, since most of it is waiting to be let in again.
    join_all(rows.map(|(fault, transport)| cloud_in_trouble(fault, transport))).await;
}

async fn cloud_in_trouble(fault: Fault, transport: &str) {
    let what = format!("a cloud's redis that is {fault:?}, over {transport}");
    let mut cloud = Cloud::start().await;
    let mut device = trimming(&cloud, transport).await;
    let down = under_way(&cloud.redis, &out("dev1")).await;
    fault.begin(&mut cloud.redis).await;
    let up = add_up(&device, "meanwhile", 50).await;

    let begun = Instant::now();
    let tried = cloud.hub_proxy.connections();
    let said = format!("the agent to say what is wrong, {what}");
    eventually_true(&said, async || device.log().contains("unavailable")).await;
    let so_far = || (begun.elapsed(), cloud.hub_proxy.connections() - tried);
    // Sent away for a second at least; over HTTP one visit may be three connections.
    let each = if transport == "http" { 3 } else { 1 };
    throughout(&format!("few tries, {what}"), Duration::from_secs(2), true, async || {
        let (elapsed, tries) = so_far();
        tries <= each * (2 + elapsed.as_secs())
    })
    .await;

    assert_eq!(device.redis.entries(OUT).await, up, "what is not acknowledged stays, {what}");
    fault.end(&mut cloud.redis).await;
    assert_carried(&what, &cloud, &device, &Added { up, down }).await;
    assert!(device.agent().exit().is_none(), "{what}");
}

#[tokio::test]
async fn a_device_redis_that_is_full_of_what_waits_is_emptied_by_its_agent() {
    let cloud = Cloud::start().await;
    let device = trimming(&cloud, "ws").await;
    cloud.hub_proxy.refuse();
    cloud.hub_proxy.cut();
    let payload = "x".repeat(4096);
    let entries: Vec<_> =
        (0..500).map(|n| fields([("n", n.to_string()), ("payload", payload.clone())])).collect();
    let mut up = device.redis.add_all(OUT, &entries).await;
    // Less than it uses, and more than it will without the entries.
    let used = device.redis.info("memory").await;
    let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let limit = used.parse::<usize>().unwrap() - 500_000;
    device.redis.command::<()>(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).await;
    let mut app = device.redis.connection();
    let refused = cmd("XADD").arg(OUT).arg("*").arg("a").arg("b").exec_async(&mut app).await;
    assert_eq!(refused.unwrap_err().code(), Some("OOM"));

    cloud.hub_proxy.restore();

    eventually("room for another entry", PATIENCE, async || {
        cmd("SET").arg("room").arg("there").exec_async(&mut app).await
    })
    .await;
    up.extend(add_up(&device, "afterwards", 1).await);
    assert_carried("it was full", &cloud, &device, &Added { up, down: Vec::new() }).await;
}

#[tokio::test]
async fn while_a_devices_redis_is_in_trouble_its_agent_waits_says_so_and_then_goes_on() {
    for (fault, transport) in Fault::ALL.into_iter().zip(TRANSPORTS.into_iter().cycle()) {
        let what = format!("a device's redis that is {fault:?}, over {transport}");
        let cloud = Cloud::start().await;
        let mut device = trimming(&cloud, transport).await;
        let up = under_way(&device.redis, OUT).await;
        fault.begin(&mut device.redis).await;
        let down = add_down(&cloud, &device, "meanwhile", 50).await;

        let said = format!("the agent to say what is wrong, {what}");
        eventually_true(&said, async || device.log().contains("own-redis")).await;
        assert_eq!(cloud.redis.entries(&out("dev1")).await[1..], down, "{what}");
        fault.end(&mut device.redis).await;
        assert_carried(&what, &cloud, &device, &Added { up, down }).await;
        assert!(device.agent().exit().is_none(), "{what}");
    }
}
