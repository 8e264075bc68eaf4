//! Links that break every connection after some bytes, permanently, or under one transport only.

use std::time::Duration;

use rand::Rng;
use spoke_tests::{
    cloud::{Cloud, Settings, out},
    device::{Device, OUT},
    entries::{Fields, Stored},
    proxy::Narrowed,
    redis::free_port,
    wait::{PATIENCE, eventually, eventually_true},
};

use crate::recovery::{TRANSPORTS, add_up, assert_all_carried};

/// Long, since each session over such a link carries little, and a wait follows a session without progress.
const NARROW_PATIENCE: Duration = Duration::from_secs(100);

const STUCK: &str = "entry does not get through the link";
const FREED: &str = "entries get through the link again";

/// Incompressible entries of this size.
fn blobs(count: usize, bytes: usize) -> Vec<Fields> {
    let blob = || {
        let mut blob = vec![0; bytes];
        rand::rng().fill(&mut blob[..]);
        vec![(b"blob".to_vec(), blob)]
    };
    (0..count).map(|_| blob()).collect()
}

/// A device whose agent has carried something each way already, before its link becomes narrow.
async fn connected(cloud: &Cloud, settings: &[(&str, &str)]) -> Device {
    let device = Device::start_with(cloud, "dev1", settings).await;
    add_up(&device, "first", 1).await;
    cloud.redis.add_all(&out("dev1"), &blobs(1, 10)).await;
    device.carried_both_ways(cloud).await;
    device
}

fn narrow_link(cloud: &Cloud, bytes: u64) {
    cloud.hub_proxy.narrow(bytes, Narrowed::All);
    cloud.hub_proxy.cut();
}

async fn add_blobs_up(device: &Device, count: usize, bytes: usize) -> Vec<Stored> {
    device.redis.add_all(OUT, &blobs(count, bytes)).await
}

async fn add_blobs_down(cloud: &Cloud, count: usize, bytes: usize) -> Vec<Stored> {
    cloud.redis.add_all(&out("dev1"), &blobs(count, bytes)).await
}

/// Waits until both copies hold this many entries.
async fn wait_for_copies(cloud: &Cloud, device: &Device, up: usize, down: usize) {
    let sessions = cloud.hub_proxy.connections();
    eventually("everything to get through", NARROW_PATIENCE, async || {
        let seen = (cloud.carried("dev1").await.len(), device.carried().await.len());
        if seen == (up, down) { Ok(()) } else { Err((seen, cloud.hub_proxy.connections())) }
    })
    .await;
    eprintln!("{up} up, {down} down: {} connections", cloud.hub_proxy.connections() - sessions);
}

#[tokio::test]
async fn a_link_that_breaks_after_forty_kilobytes_carries_everything_up() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = connected(&cloud, &[("transport", transport)]).await;
        narrow_link(&cloud, 40_000);
        add_blobs_up(&device, 200, 4096).await;
        wait_for_copies(&cloud, &device, 201, 1).await;
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_link_that_breaks_after_forty_kilobytes_carries_everything_down() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = connected(&cloud, &[("transport", transport)]).await;
        narrow_link(&cloud, 40_000);
        add_blobs_down(&cloud, 200, 4096).await;
        wait_for_copies(&cloud, &device, 1, 201).await;
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_link_that_breaks_after_forty_kilobytes_carries_everything_both_ways() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = connected(&cloud, &[("transport", transport)]).await;
        narrow_link(&cloud, 40_000);
        add_blobs_up(&device, 60, 4096).await;
        add_blobs_down(&cloud, 60, 4096).await;
        wait_for_copies(&cloud, &device, 61, 61).await;
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_link_of_six_kilobytes_carries_an_entry_at_a_time() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = connected(&cloud, &[("transport", transport)]).await;
        narrow_link(&cloud, 6_000);
        add_blobs_up(&device, 20, 2048).await;
        add_blobs_down(&cloud, 20, 2048).await;
        wait_for_copies(&cloud, &device, 21, 21).await;
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_stuck_entry_is_reported_at_both_ends_until_it_gets_through() {
    let cloud = Cloud::start_with(Settings::default()).await;
    let admin = format!("127.0.0.1:{}", free_port());
    let settings = [("transport", "ws"), ("admin_listen", &*admin)];
    let device = connected(&cloud, &settings).await;
    narrow_link(&cloud, 40_000);
    let up = add_blobs_up(&device, 1, 60_000).await.remove(0).id;
    let down = add_blobs_down(&cloud, 1, 60_000).await.remove(0).id;
    let both_log = async |message: &str, down: &str| {
        let hub_log = cloud.hub.log();
        hub_log.lines().any(|line| line.contains(message) && line.contains(down))
            && device.log().contains(message)
    };
    eventually_true("both ends to log it", async || both_log(STUCK, &down).await).await;

    let status = device.command(&["status", "--json"]).await.done().json();
    assert_eq!(status["agent"]["stuck"]["seq"], up, "{status}");
    let bytes = status["agent"]["stuck"]["bytes"].as_u64();
    assert_eq!(bytes, Some(60_004), "{status}");
    let text = device.command(&["status"]).await.done().stdout;
    assert!(text.contains("stuck") && text.contains(&up), "{text}");
    let figures = async || {
        let (agent, hub) = (device.admin().get("/metrics").await, cloud.hub.admin());
        let hub = hub.get("/metrics").await;
        let has = |text: &str, line: &str| text.lines().any(|own| own == line);

        let (agent, hub) = (agent.text, hub.text);
        move |stuck: u8| {
            has(&agent, &format!("spoke_agent_stuck_entries {stuck}"))
                && has(&hub, &format!("spoke_hub_stuck_clients {stuck}"))
        }
    };
    assert!(figures().await(1), "the metrics do not count it");

    cloud.hub_proxy.widen();
    cloud.hub_proxy.cut();
    assert_all_carried(&cloud, &device).await;
    eventually_true("both ends to log its end", async || both_log(FREED, &down).await).await;
    assert!(figures().await(0), "the metrics still count it");
    let status = device.command(&["status", "--json"]).await.done().json();
    assert!(status["agent"]["stuck"].is_null(), "{status}");
    assert_eq!(device.log().matches(STUCK).count(), 1, "it is logged once");
}

#[tokio::test]
async fn a_stuck_entry_does_not_block_the_other_direction() {
    let cloud = Cloud::start().await;
    let device = connected(&cloud, &[("transport", "ws")]).await;
    narrow_link(&cloud, 40_000);
    add_blobs_up(&device, 1, 60_000).await;
    eventually_true("the entry to be stuck", async || device.log().contains(STUCK)).await;
    add_blobs_down(&cloud, 20, 4096).await;
    wait_for_copies(&cloud, &device, 1, 21).await;
    cloud.hub_proxy.widen();
    assert_all_carried(&cloud, &device).await;

    narrow_link(&cloud, 40_000);
    add_blobs_down(&cloud, 1, 60_000).await;
    eventually_true("the entry to be stuck", async || cloud.hub.log().contains(STUCK)).await;
    add_blobs_up(&device, 20, 4096).await;
    wait_for_copies(&cloud, &device, 22, 21).await;
    cloud.hub_proxy.widen();
    assert_all_carried(&cloud, &device).await;
}

#[tokio::test]
async fn an_agent_falls_back_to_http_when_websockets_break_after_the_handshake() {
    let cloud = Cloud::start().await;
    let device = connected(&cloud, &[("transport", "auto")]).await;
    // The handshake gets through, and an entry of 4 KiB does not.
    cloud.hub_proxy.narrow(3000, Narrowed::WebSockets);
    cloud.hub_proxy.cut();
    add_blobs_up(&device, 50, 4096).await;
    assert_all_carried(&cloud, &device).await;
    cloud.hub_proxy.cut();
    add_blobs_down(&cloud, 50, 4096).await;
    assert_all_carried(&cloud, &device).await;
}

#[tokio::test]
async fn a_link_that_was_down_does_not_shrink_the_batches() {
    let cloud = Cloud::start().await;
    let device = connected(&cloud, &[("transport", "ws")]).await;
    cloud.hub_proxy.refuse();
    cloud.hub_proxy.cut();
    add_blobs_up(&device, 100, 500).await;
    let tried = cloud.hub_proxy.connections();
    eventually("a few tries", PATIENCE, async || {
        let tries = cloud.hub_proxy.connections() - tried;
        if tries >= 6 { Ok(()) } else { Err(tries) }
    })
    .await;
    let batches = async || {
        let figures = cloud.hub.admin().get("/metrics").await;
        let text = figures.text;
        let name = "spoke_hub_batches_total{direction=\"up\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|count| count.parse::<u64>().ok()).expect("the hub counts batches")
    };
    let before = batches().await;
    cloud.hub_proxy.restore();
    assert_all_carried(&cloud, &device).await;
    assert_eq!(batches().await, before + 1, "the whole backlog must fit one batch");
}

#[tokio::test]
async fn a_new_device_behind_a_narrow_link_gets_everything_through() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut device = Device::without_agent(&cloud, "dev1", &[("transport", transport)]).await;
        add_blobs_up(&device, 200, 4096).await;
        cloud.hub_proxy.narrow(40_000, Narrowed::All);
        device.start_agent();
        wait_for_copies(&cloud, &device, 200, 0).await;
        assert_all_carried(&cloud, &device).await;
    }
}
