//! Row 6 of the table of faults: entries are trimmed before they are carried.

use serde_json::json;
use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{self, Cloud},
    device::{self, Device, OUT},
    process::{Start, run},
    wait::{eventually_is, eventually_true},
};

use super::{TRANSPORTS, add_at, lines, wait_for_copy};

const TRIMMED: &str = "1009-1 1069-18446744073709551615 60 trimmed";

#[tokio::test]
async fn entries_trimmed_while_offline_are_in_both_ledgers_with_range_and_count() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let mut all = add_at(&device.redis, OUT, "before", 1000..1010).await;
        device.acknowledged_both_ways(&cloud).await;
        device.stop_agent().await;
        let waiting = add_at(&device.redis, OUT, "waiting", 1010..1110).await;
        device.redis.command::<u64>(&["XTRIM", OUT, "MAXLEN", "=", "40"]).await;
        device.start_agent();

        all.extend_from_slice(&waiting[60..]);
        wait_for_copy(&cloud, all.len()).await;
        device.acknowledged_both_ways(&cloud).await;
        assert_same("up", &expected(&all, Some(1)), &cloud.carried("dev1").await);
        let line = format!("up {TRIMMED}");
        assert_eq!(lines(&cloud.redis, cloud::LOST).await, std::slice::from_ref(&line));
        assert_eq!(lines(&device.redis, device::LOST).await, [line]);
        assert_reported(&cloud, &device).await;
    }
}

/// Asserts that status, the list of clients and the log report the loss.
async fn assert_reported(cloud: &Cloud, device: &Device) {
    let status = device.command(&["status"]).await;
    assert!(status.stdout.contains("60 entries up, 0 down"), "{status:?}");
    let status: serde_json::Value =
        serde_json::from_str(&device.command(&["status", "--json"]).await.stdout).unwrap();
    assert_eq!(status["redis"]["losses"], json!({ "up": 60, "down": 0, "lines": 1 }));
    assert!(device.log().contains("entries were lost"), "the agent's log does not report the loss");
    let start = Start::with(&["clients", "--json"]).variable("SPOKE_HUB_REDIS", cloud.redis.url());
    let clients = run(&spoke_tests::binaries::path_of("spoke-hub"), &start).await;
    let clients: serde_json::Value = serde_json::from_str(&clients.stdout).unwrap();
    assert_eq!(clients[0]["in"]["lost"], 60, "{clients}");
}

#[tokio::test]
async fn entries_trimmed_on_the_way_down_are_in_both_ledgers_with_range_and_count() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let stream = cloud::out("dev1");
        let mut all = add_at(&cloud.redis, &stream, "before", 1000..1010).await;
        device.acknowledged_both_ways(&cloud).await;
        device.stop_agent().await;
        let waiting = add_at(&cloud.redis, &stream, "waiting", 1010..1110).await;
        cloud.redis.command::<u64>(&["XTRIM", &stream, "MAXLEN", "=", "40"]).await;
        device.start_agent();

        all.extend_from_slice(&waiting[60..]);
        eventually_is("the device's copy to be complete", all.len(), async || {
            device.carried().await.len()
        })
        .await;
        assert_same("down", &expected(&all, None), &device.carried().await);
        let line = format!("down {TRIMMED}");
        assert_eq!(lines(&cloud.redis, cloud::LOST).await, std::slice::from_ref(&line));
        assert_eq!(lines(&device.redis, device::LOST).await, [line]);
    }
}

#[tokio::test]
async fn the_hub_learns_of_the_loss_even_if_every_entry_was_trimmed() {
    let cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    add_at(&device.redis, OUT, "before", 1000..1010).await;
    device.acknowledged_both_ways(&cloud).await;
    device.stop_agent().await;
    add_at(&device.redis, OUT, "waiting", 1010..1030).await;
    device.redis.command::<u64>(&["XTRIM", OUT, "MAXLEN", "=", "0"]).await;
    device.start_agent();

    eventually_true("the hub's ledger to have a line", async || {
        cloud.redis.length(cloud::LOST).await == 1
    })
    .await;
    assert_eq!(lines(&cloud.redis, cloud::LOST).await, ["up 1009-1 1029-0 20 trimmed"]);
}

#[tokio::test]
async fn an_agent_killed_between_both_ledger_writes_records_each_loss_once() {
    let cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    add_at(&device.redis, OUT, "before", 1000..1010).await;
    device.acknowledged_both_ways(&cloud).await;
    device.stop_agent().await;
    add_at(&device.redis, OUT, "waiting", 1010..1050).await;
    device.redis.command::<u64>(&["XTRIM", OUT, "MAXLEN", "=", "30"]).await;
    // The hub refuses the batch, since its ledger has the wrong type.
    cloud.redis.command::<()>(&["SET", cloud::LOST, "in the way"]).await;
    for _ in 0..3 {
        device.start_agent();
        eventually_true("the device's ledger to have a line", async || {
            device.redis.length(device::LOST).await == 1
        })
        .await;
        device.kill_agent();
    }
    // More entries are trimmed: only those are a new loss.
    device.redis.command::<u64>(&["XTRIM", OUT, "MAXLEN", "=", "25"]).await;
    cloud.redis.command::<()>(&["DEL", cloud::LOST]).await;
    device.start_agent();

    wait_for_copy(&cloud, 35).await;
    let whole = "up 1009-1 1024-18446744073709551615 15 trimmed";
    assert_eq!(lines(&cloud.redis, cloud::LOST).await, [whole]);
    let first = "up 1009-1 1019-18446744073709551615 10 trimmed";
    let second = "up 1020-0 1024-18446744073709551615 5 trimmed";
    assert_eq!(lines(&device.redis, device::LOST).await, [first, second]);
}

#[tokio::test]
async fn entries_that_an_app_deletes_are_not_recorded_as_lost() {
    let cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    let mut all = add_at(&device.redis, OUT, "before", 1000..1010).await;
    device.acknowledged_both_ways(&cloud).await;
    device.stop_agent().await;
    all.extend(add_at(&device.redis, OUT, "waiting", 1010..1030).await);
    for id in ["1002-0", "1015-0", "1029-0"] {
        device.redis.command::<u64>(&["XDEL", OUT, id]).await;
    }
    device.start_agent();
    all.retain(|entry| entry.id != "1015-0" && entry.id != "1029-0");
    wait_for_copy(&cloud, all.len()).await;
    assert_same("up", &expected(&all, Some(1)), &cloud.carried("dev1").await);
    assert_eq!(lines(&cloud.redis, cloud::LOST).await, [""; 0]);
}
