//! The agent watches progress, not only its connection, and notifies systemd's watchdog accordingly.

use std::time::Duration;

use serde_json::Value;
use spoke_tests::{
    checker::{assert_same, expected},
    cloud::Cloud,
    device::Device,
    redis::free_port,
    redis_fault::Fault,
    systemd::{EVERY, Systemd},
    wait::{PATIENCE, eventually, eventually_true, throughout},
};

use crate::outages::{TRANSPORTS, add_up};

/// An agent with a watchdog and a short progress timeout, which has carried something already.
async fn watched(cloud: &Cloud, transport: &str) -> (Device, Systemd) {
    let admin = format!("127.0.0.1:{}", free_port());
    let settings =
        [("transport", transport), ("admin_listen", &admin), ("progress_timeout_ms", "1000")];
    let mut device = Device::without_agent(cloud, "dev1", &settings).await;
    let systemd = Systemd::listen(device.folder());
    for (name, value) in systemd.variables() {
        device.set_variable(name, &value);
    }
    device.start_through(&Systemd::THROUGH);
    device.start_agent();
    add_up(&device, "first", 1).await;
    device.carried_both_ways(cloud).await;
    (device, systemd)
}

async fn agent(device: &Device) -> Value {
    device.command(&["status", "--json"]).await.json()["agent"].clone()
}

/// Asserts that the watchdog is notified throughout this time.
async fn assert_notified(what: &str, systemd: &Systemd, span: Duration) {
    systemd.heard();
    let begun = std::time::Instant::now();
    while begun.elapsed() < span {
        let awaited = format!("the watchdog to be notified, {what}");
        eventually_true(&awaited, async || systemd.watchdog_notifications() > 0).await;
    }
}

#[tokio::test]
async fn an_idle_agent_and_one_whose_redis_hangs_notify_the_watchdog() {
    let cloud = Cloud::start().await;
    let (mut device, systemd) = watched(&cloud, "ws").await;
    assert!(systemd.heard().contains(&"READY=1".to_owned()));
    assert_notified("idle", &systemd, 30 * EVERY).await;
    // A restarted agent would find the same Redis, so a restart would not help.
    Fault::Hung.begin(&mut device.redis).await;
    // A new session has to read its streams.
    cloud.hub_proxy.cut();
    eventually_true("the agent to log it", async || device.log().contains("own-redis")).await;
    assert_notified("with a Redis that hangs", &systemd, 30 * EVERY).await;
    assert!(!device.log().contains("watchdog"), "{}", device.log());
    Fault::Hung.end(&mut device.redis).await;
    add_up(&device, "after", 10).await;
    device.carried_both_ways(&cloud).await;
}

#[tokio::test]
async fn an_unacknowledged_link_is_reconnected_and_at_last_the_watchdog_is_not_notified() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let (device, systemd) = watched(&cloud, transport).await;
        cloud.hub_proxy.lose_batches();
        cloud.hub_proxy.cut();
        let first = device.redis.entries(spoke_tests::device::OUT).await;
        let up = [first, add_up(&device, "unacknowledged", 10).await].concat();

        let awaited = format!("status to count a stalled session, {transport}");
        eventually(&awaited, PATIENCE, async || {
            let status = agent(&device).await;
            if status["stalledSessions"].as_u64() >= Some(1) { Ok(()) } else { Err(status) }
        })
        .await;
        assert!(
            device.log().contains("\"stalled\""),
            "the log does not report the stall, {transport}"
        );
        let text = device.command(&["status"]).await.done().stdout;
        let words: Vec<_> = text.split_whitespace().collect();
        assert!(words.join(" ").contains("because the hub acknowledged nothing"), "{text}");
        assert_notified("after the first stall", &systemd, 2 * EVERY).await;

        let awaited = format!("the watchdog to be no longer notified, {transport}");
        eventually_true(&awaited, async || {
            device.log().contains("stopped notifying the systemd watchdog")
        })
        .await;
        let status = agent(&device).await;
        assert!(status["stalledSessions"].as_u64() >= Some(5), "{status}");
        assert!(
            status["counts"]["sessions"].as_u64() >= Some(6),
            "each stalled session is replaced: {status}"
        );
        let health = device.command(&["health"]).await;
        assert_eq!(health.code, Some(1), "{health:?}");
        assert!(health.stderr.contains("nothing was acknowledged"), "{health:?}");
        systemd.heard();
        throughout("no watchdog notification", 10 * EVERY, 0, async || {
            systemd.watchdog_notifications()
        })
        .await;

        // systemd has not restarted the agent yet, and the link carries everything again.
        cloud.hub_proxy.restore();
        cloud.hub_proxy.cut();
        device.carried_both_ways(&cloud).await;
        assert_same("up", &expected(&up, Some(1)), &cloud.carried("dev1").await);
        assert_notified("carrying again", &systemd, 2 * EVERY).await;
        assert_eq!(agent(&device).await["stalledSessions"], 0);
        assert_eq!(device.command(&["health"]).await.done().stdout, "ok\n");
    }
}
