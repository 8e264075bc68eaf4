//! What arrives over both transports: bytes, order, backlogs, many devices.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::Rng;
use spoke_diagnostics::unix_ms;
use spoke_tests::{
    cloud::{Cloud, out},
    device::{Device, OUT},
    entries::{awkward, fields, numbered},
    seed,
    wait::{PATIENCE, eventually},
};

use crate::carry::{added, assert_carried};

const TRANSPORTS: [&str; 2] = ["ws", "http"];

#[tokio::test]
async fn awkward_entries_arrive_bit_for_bit_over_either_transport_compressed_or_not() {
    for (transport, compression) in [("ws", "true"), ("ws", "false"), ("http", "true")] {
        let cloud = Cloud::start().await;
        let settings = [("transport", transport), ("compression", compression)];
        let device = Device::start_with(&cloud, "dev1", &settings).await;
        let entries: Vec<_> = awkward().into_iter().map(|(_, fields)| fields).collect();
        let up = device.redis.add_all(OUT, &entries).await;
        let down = cloud.redis.add_all(&out("dev1"), &entries).await;
        assert_carried(&cloud, &device, &up, &down).await;
    }
}

#[tokio::test]
async fn a_backlog_from_before_the_agent_ran_is_carried_in_order() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut device = Device::without_agent(&cloud, "dev1", &[("transport", transport)]).await;
        let backlog: Vec<_> = (0..5000).map(numbered).collect();
        let up = device.redis.add_all(OUT, &backlog).await;
        let down = cloud.redis.add_all(&out("dev1"), &backlog).await;
        device.start_agent();
        assert_carried(&cloud, &device, &up, &down).await;
    }
}

/// Entries of 300 KB are a batch each, and several batches are in flight at a time.
#[tokio::test]
async fn large_entries_in_a_row_are_carried_in_one_session_each_way() {
    let cloud = Cloud::start().await;
    let device = Device::start_with(&cloud, "dev1", &[]).await;
    let mut random = seed::source("large entries");
    let mut large = |n: usize| {
        let mut noise = vec![0; 300_000];
        random.fill(&mut noise[..]);
        fields([("n", n.to_string().as_bytes()), ("noise", &noise)])
    };
    let mut some = || (0..150).map(&mut large).collect::<Vec<_>>();
    let (up, down) = (some(), some());
    let up = device.redis.add_all(OUT, &up).await;
    let down = cloud.redis.add_all(&out("dev1"), &down).await;
    assert_carried(&cloud, &device, &up, &down).await;
    let log = cloud.hub.log();
    assert_eq!(log.matches("session started").count(), 1, "{log}");
}

#[tokio::test]
async fn an_entry_crosses_an_idle_link_at_once() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        device.redis.add(OUT, &numbered(0)).await;
        cloud.redis.add(&out("dev1"), &numbered(0)).await;
        device.carried_both_ways(&cloud).await;
        let mut times = Vec::new();
        for n in 1..=10 {
            let begun = Instant::now();
            device.redis.add(OUT, &numbered(n)).await;
            device.carried_both_ways(&cloud).await;
            cloud.redis.add(&out("dev1"), &numbered(n)).await;
            device.carried_both_ways(&cloud).await;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        // The median of a round trip; a poll or a sweep would take seconds.
        assert!(times[5] < Duration::from_millis(1000), "{transport}: {times:?}");
    }
}

#[tokio::test]
async fn five_concurrent_devices_each_get_their_own_entries_in_order() {
    let cloud = Cloud::start().await;
    let names: Vec<_> = (0..5).map(|i| format!("dev-{i}.x_y")).collect();
    let devices = names.iter().enumerate().map(|(i, name)| {
        let transport = TRANSPORTS[i % 2];
        let cloud = &cloud;
        async move { Device::start_with(cloud, name, &[("transport", transport)]).await }
    });
    let devices = join_all(devices).await;
    let loads = devices.iter().enumerate().map(|(i, device)| {
        let cloud = &cloud;
        async move {
            let own_entry = |n: usize| fields([("device", i.to_string()), ("n", n.to_string())]);
            let entries: Vec<_> = (0..500).map(own_entry).collect();
            let up = device.redis.add_all(OUT, &entries).await;
            (up, cloud.redis.add_all(&out(&device.client), &entries).await)
        }
    });
    let loads = join_all(loads).await;
    for (device, (up, down)) in devices.iter().zip(&loads) {
        assert_carried(&cloud, device, up, down).await;
    }
    assert_eq!(cloud.inbound().await.len(), 2500);
}

#[tokio::test]
async fn an_id_that_an_app_chose_is_kept() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    let hour = unix_ms() + 60 * 60 * 1000;
    let own =
        ["1-1".to_owned(), "1-2".to_owned(), "5-9007199254740993".to_owned(), format!("{hour}-1")];
    for id in own {
        device.redis.add_as(OUT, &id, &numbered(1)).await;
        cloud.redis.add_as(&out("dev1"), &id, &numbered(1)).await;
    }
    // Downwards no clock limits the IDs, since they are those of the cloud's own Redis.
    cloud.redis.add_as(&out("dev1"), "9007199254740993-1", &numbered(1)).await;
    let (up, down) = added(&cloud, &device).await;
    assert_carried(&cloud, &device, &up, &down).await;
}

#[tokio::test]
async fn a_restarted_agent_repeats_nothing() {
    let cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    for round in 0..4 {
        let entries: Vec<_> = (0..50).map(|n| numbered(round * 50 + n)).collect();
        device.redis.add_all(OUT, &entries).await;
        cloud.redis.add_all(&out("dev1"), &entries).await;
        if round == 2 {
            // One restart with nothing in flight; the others happen with entries in flight.
            device.carried_both_ways(&cloud).await;
        }
        let status = device.stop_agent().await;
        assert_eq!(status.code(), Some(0), "{status}");
        device.start_agent();
    }
    let (up, down) = added(&cloud, &device).await;
    assert_carried(&cloud, &device, &up, &down).await;
}

#[tokio::test]
async fn with_trim_acked_the_origin_keeps_its_slack_and_nothing_is_lost() {
    let settings = [("trim", "acked"), ("trim_slack_entries", "100")];
    let cloud = Cloud::start().await;
    let device = Device::start_with(&cloud, "dev1", &settings).await;
    let entries: Vec<_> = (0..3000).map(numbered).collect();
    let up = device.redis.add_all(OUT, &entries).await;
    let down = cloud.redis.add_all(&out("dev1"), &entries).await;
    assert_carried(&cloud, &device, &up, &down).await;
    // The origin is trimmed by whole batches, and by whole stream nodes of a hundred entries.
    eventually("the origin to be trimmed", PATIENCE, async || {
        let length = device.redis.length(OUT).await;
        if (100..=1200).contains(&length) { Ok(()) } else { Err(length) }
    })
    .await;
    assert_eq!(cloud.redis.length(&out("dev1")).await, 3000, "the hub does not trim");
}

#[tokio::test]
async fn with_trim_keep_the_origin_stays_as_it_is() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    let entries: Vec<_> = (0..1000).map(numbered).collect();
    device.redis.add_all(OUT, &entries).await;
    device.carried_both_ways(&cloud).await;
    assert_eq!(device.redis.length(OUT).await, 1000);
}
