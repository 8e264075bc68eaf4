//! Processes that die, and Redis servers that refuse.

use spoke_tests::{
    cloud::{Cloud, out},
    device::{Device, OUT},
    proxy::Direction,
    service::{Kind, Service},
    wait::{PATIENCE, eventually, eventually_true},
};
use tempfile::TempDir;

use crate::recovery::{TRANSPORTS, add_down, add_up, assert_all_carried, part};

/// A device whose agent has carried something each way already.
async fn connected(transport: &str) -> (Cloud, Device) {
    let cloud = Cloud::start().await;
    // The out stream is compared at the end.
    let settings = [("transport", transport), ("trim", "keep")];
    let device = Device::start_with(&cloud, "dev1", &settings).await;
    add_up(&device, "first", 1).await;
    add_down(&cloud, &device, "first", 1).await;
    device.acknowledged_both_ways(&cloud).await;
    (cloud, device)
}

#[tokio::test]
async fn a_device_redis_that_is_killed_but_keeps_its_file_loses_nothing() {
    for transport in TRANSPORTS {
        let (cloud, mut device) = connected(transport).await;
        for _ in 0..3 {
            add_up(&device, "in flight", 300).await;
            add_down(&cloud, &device, "in flight", 300).await;
            device.redis.kill9();
            device.redis.restart().await;
            device.carried_both_ways(&cloud).await;
        }
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_hub_redis_that_is_killed_but_keeps_its_file_loses_nothing() {
    for transport in TRANSPORTS {
        let (mut cloud, device) = connected(transport).await;
        for _ in 0..2 {
            add_up(&device, "in flight", 300).await;
            add_down(&cloud, &device, "in flight", 300).await;
            cloud.redis.kill9();
            cloud.redis.restart().await;
            device.carried_both_ways(&cloud).await;
        }
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn an_agent_may_start_before_its_redis_and_before_the_cloud() {
    let mut cloud = Cloud::start().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    add_up(&device, "early", 10).await;
    device.redis.kill9();
    cloud.auth.kill9();
    cloud.hub.kill9();
    device.start_agent();
    eventually_true("the agent to log a warning", async || device.log().contains("WARN")).await;
    device.redis.restart().await;
    cloud.restart_auth().await;
    cloud.restart_hub().await;
    assert_all_carried(&cloud, &device).await;
    assert!(device.agent().exit().is_none(), "the agent ended because the others were down");
}

#[tokio::test]
async fn an_agent_waits_for_a_full_hub_redis_and_keeps_its_entries() {
    for transport in TRANSPORTS {
        let settings = [("transport", transport), ("trim", "acked"), ("trim_slack_entries", "0")];
        let cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &settings).await;
        add_up(&device, "first", 1).await;
        device.carried_both_ways(&cloud).await;
        cloud.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let up = add_up(&device, "refused", 50).await;
        eventually("the agent to have tried again", PATIENCE, async || {
            let tries = device.log().matches("connection to hub failed").count();
            if tries >= 3 { Ok(()) } else { Err(tries) }
        })
        .await;
        let kept = device.redis.entries(OUT).await;
        assert!(kept.ends_with(&up), "an unacknowledged entry left the origin");
        cloud.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
        device.carried_both_ways(&cloud).await;
        assert_eq!(cloud.carried("dev1").await.len(), 51);
    }
}

#[tokio::test]
async fn an_agent_waits_for_its_full_redis_and_then_carries_everything() {
    let (cloud, device) = connected("ws").await;
    device.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    add_down(&cloud, &device, "refused", 50).await;
    eventually_true("the agent to log a warning", async || device.log().contains("WARN")).await;
    device.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_all_carried(&cloud, &device).await;
}

#[tokio::test]
async fn a_second_hub_takes_over_when_the_first_is_stopped() {
    for transport in TRANSPORTS {
        let (mut cloud, device) = connected(transport).await;
        for round in 0..3 {
            let writing = tokio::spawn({
                let (up, down) = (device.redis.connection(), cloud.redis.connection());
                async move {
                    let entries = part(&format!("round {round}"), 1000);
                    spoke_tests::redis::add_all(up, OUT, &entries).await;
                    spoke_tests::redis::add_all(down, &out("dev1"), &entries).await;
                }
            });
            let (_folder, next) = start_hub(&cloud).await;
            cloud.hub_proxy.retarget(next.address());
            let mut first = std::mem::replace(&mut cloud.hub, next);
            let status = first.terminate().await;
            assert_eq!(status.code(), Some(0), "{status}");
            writing.await.unwrap();
            assert_all_carried(&cloud, &device).await;
        }
    }
}

#[tokio::test]
async fn a_device_moves_from_a_hung_hub_to_another_and_the_hung_session_is_superseded() {
    let (mut cloud, device) = connected("ws").await;
    let mut hung = start_hub(&cloud).await;
    std::mem::swap(&mut hung.1, &mut cloud.hub);
    let (folder, mut hung) = hung;
    hung.process().pause();
    let carried = cloud.hub_proxy.bytes(Direction::Up);
    add_up(&device, "while it hangs", 10).await;
    eventually_true("the entries to be on their way to the hung hub", async || {
        cloud.hub_proxy.bytes(Direction::Up) > carried + 100
    })
    .await;

    // The hung hub does not learn that its agent has moved.
    cloud.hub_proxy.retarget(cloud.hub.address());
    cloud.hub_proxy.strand();
    device.carried_both_ways(&cloud).await;
    hung.process().resume();

    eventually_true("the hung hub to find out", async || hung.log().contains("superseded")).await;
    add_up(&device, "after", 10).await;
    assert_all_carried(&cloud, &device).await;
    drop(folder);
}

/// One more hub on the same Redis.
async fn start_hub(cloud: &Cloud) -> (TempDir, Service) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let hub = Service::start(Kind::Hub, &cloud.redis.url(), &[], folder.path()).await;
    (folder, hub)
}
