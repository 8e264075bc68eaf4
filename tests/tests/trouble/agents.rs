//! What an agent makes of a Redis in trouble, the cloud's or its own: it waits, says why, and goes on
//! by itself; nothing leaves the origin, nothing is lost and nothing comes twice.

use std::time::{Duration, Instant};

use spoke_tests::{
    cloud::{Cloud, out},
    device::{Device, LOST, OUT},
    entries::Stored,
    oracle::{assert_same, expected},
    redis::RedisServer,
    trouble::Fault,
    wait::{PATIENCE, eventually, eventually_true},
};

use crate::{TRANSPORTS, add_down, add_up, part};

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
    for (fault, transport) in Fault::ALL.into_iter().zip(TRANSPORTS.into_iter().cycle()) {
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
        eventually("a few seconds of it", PATIENCE, async || {
            let lasted = begun.elapsed();
            if lasted >= Duration::from_secs(3) { Ok(()) } else { Err(lasted) }
        })
        .await;

        let tries = cloud.hub_proxy.connections() - tried;
        // Sent away for a second at least; over HTTP one visit may be three connections.
        assert!(tries <= 3 * (1 + begun.elapsed().as_secs()), "{tries} tries, {what}");
        assert_eq!(device.redis.entries(OUT).await, up, "what is not acknowledged stays, {what}");
        fault.end(&mut cloud.redis).await;
        assert_carried(&what, &cloud, &device, &Added { up, down }).await;
        assert!(device.agent().exit().is_none(), "{what}");
    }
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
