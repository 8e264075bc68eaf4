//! The device's disk is full: the agent keeps what it has, says so, and continues when there is space.

use std::time::{Duration, Instant};

use redis::cmd;
use serde_json::Value;
use spoke_tests::{
    checker::{assert_same, expected},
    cloud::Cloud,
    device::{Device, LOST, OUT},
    disk::SmallDisk,
    redis::{RedisServer, ShippedConf, free_port},
    wait::{PATIENCE, eventually, eventually_true},
};

use crate::outages::{add_down, add_up};

async fn agent(device: &Device) -> Value {
    device.command(&["status", "--json"]).await.json()["agent"].clone()
}

#[tokio::test]
async fn an_agent_waits_while_its_redis_has_a_full_disk_and_then_continues() {
    let Some(disk) = SmallDisk::mount(4096) else { return };
    let cloud = Cloud::start().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    device.redis = RedisServer::start_in(ShippedConf::Device, disk.path()).await;
    device.set("redis", &device.redis.url());
    device.start_agent();
    add_up(&device, "before", 20).await;
    let mut down = add_down(&cloud, &device, "before", 20).await;
    device.acknowledged_both_ways(&cloud).await;

    disk.fill();
    let mut app = device.redis.connection();
    eventually("redis to refuse writes", PATIENCE, async || {
        let mut add = cmd("XADD");
        let added = add.arg(OUT).arg("*").arg("a").arg("b").query_async::<String>(&mut app).await;
        match added {
            Err(error) if error.code() == Some("MISCONF") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    down.extend(add_down(&cloud, &device, "while it is full", 20).await);
    eventually_true("the agent to log it", async || device.log().contains("MISCONF")).await;
    assert!(device.agent().exit().is_none(), "the agent ended instead of waiting");

    disk.free();
    eventually("redis to accept writes", PATIENCE, async || {
        cmd("SET").arg("room").arg("there").exec_async(&mut app).await
    })
    .await;
    add_up(&device, "afterwards", 20).await;
    device.carried_both_ways(&cloud).await;
    // Redis may have taken some of the last entries before it refused.
    let up = device.redis.entries(OUT).await;
    assert_same("up", &expected(&up, Some(1)), &cloud.carried("dev1").await);
    assert_same("down", &expected(&down, None), &device.carried().await);
    assert_eq!(device.redis.length(LOST).await, 0);
}

#[tokio::test]
async fn a_full_disk_under_the_state_directory_stops_nothing_and_state_is_saved_later() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let cloud = Cloud::start().await;
    let admin = format!("127.0.0.1:{}", free_port());
    let state = disk.path().join("state");
    let settings = [("admin_listen", &*admin), ("state_dir", state.to_str().unwrap())];
    let mut device = Device::start_with(&cloud, "dev1", &settings).await;
    add_up(&device, "before", 10).await;
    device.carried_both_ways(&cloud).await;
    let secret = std::fs::read(state.join("secret")).unwrap();
    device.stop_agent().await;
    std::fs::remove_file(state.join("session")).unwrap();
    disk.fill();

    device.start_agent();

    add_up(&device, "while it is full", 10).await;
    device.carried_both_ways(&cloud).await;
    let status = agent(&device).await;
    let why = status["unsavedState"].as_str().unwrap_or_default();
    assert!(why.contains("session") && why.contains("free space"), "{status}");
    let text = device.command(&["status"]).await.done().stdout;
    assert!(text.contains("unsaved state"), "{text}");
    assert!(device.log().contains("failed to save session to state_dir"), "{}", device.log());
    disk.free();
    eventually_true("the session to be saved at last", async || state.join("session").exists())
        .await;
    eventually_true("status to report no unsaved state", async || {
        agent(&device).await["unsavedState"].is_null()
    })
    .await;
    assert_eq!(std::fs::read(state.join("secret")).unwrap(), secret);
    device.stop_agent().await;
    let connections = cloud.auth_proxy.connections();
    device.start_agent();
    add_up(&device, "afterwards", 10).await;
    device.carried_both_ways(&cloud).await;
    assert_eq!(cloud.auth_proxy.connections(), connections, "the saved token is valid");
}

#[tokio::test]
async fn a_new_device_with_a_full_or_read_only_disk_says_so_and_registers_afterwards() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let cloud = Cloud::start().await;
    let state = disk.path().join("state");
    let mut device =
        Device::without_agent(&cloud, "dev1", &[("state_dir", state.to_str().unwrap())]).await;
    disk.fill();
    device.start_agent();
    let logs = async |words: &str| {
        eventually_true("the log to give the reason", async || device.log().contains(words)).await;
    };
    logs("No space left on device").await;
    disk.make_read_only();
    logs("Read-only file system").await;
    let begun = Instant::now();
    disk.make_writable();
    disk.free();
    add_up(&device, "afterwards", 10).await;
    device.carried_both_ways(&cloud).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(device.log().contains("state directory became usable"), "{}", device.log());
}

#[tokio::test]
async fn a_state_directory_on_a_disk_that_became_read_only_stops_nothing() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let cloud = Cloud::start().await;
    let state = disk.path().join("state");
    let settings = [("state_dir", state.to_str().unwrap())];
    let mut device = Device::start_with(&cloud, "dev1", &settings).await;
    add_up(&device, "before", 10).await;
    device.carried_both_ways(&cloud).await;
    device.stop_agent().await;
    disk.make_read_only();
    // The saved token is no longer valid, and no other can be saved.
    cloud.redis.forget("spoke-auth:session:").await;

    device.start_agent();

    add_up(&device, "afterwards", 10).await;
    device.carried_both_ways(&cloud).await;
    assert!(device.log().contains("failed to save session to state_dir"), "{}", device.log());
    let second = device.command(&["run"]).await;
    assert_eq!(
        second.code,
        Some(1),
        "the directory is still locked by the first agent: {second:?}"
    );
}
