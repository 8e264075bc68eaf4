//! 20,000 entries each way while the link is cut and agent and hub are killed repeatedly.

use std::time::Duration;

use rand::seq::SliceRandom;
use spoke_tests::{
    cloud::{Cloud, IN as CLOUD_IN, LOST as CLOUD_LOST, out},
    device::{DEAD, Device, IN, LOST, OUT},
    entries::{Fields, fields},
    redis::add_all,
    seed,
    wait::{PATIENCE, eventually},
};

use crate::carry::{added, assert_carried};

const ENTRIES: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    CutLink,
    KillAgent,
    KillHub,
    StopHub,
    BlackHole,
    LoseAcknowledgements,
}

const FAULTS: [Fault; 14] = [
    Fault::CutLink,
    Fault::CutLink,
    Fault::CutLink,
    Fault::KillAgent,
    Fault::KillAgent,
    Fault::KillAgent,
    Fault::KillHub,
    Fault::KillHub,
    Fault::KillHub,
    Fault::StopHub,
    Fault::BlackHole,
    Fault::BlackHole,
    Fault::LoseAcknowledgements,
    Fault::LoseAcknowledgements,
];

#[tokio::test]
async fn entries_over_ws_survive_cuts_and_kills_exactly_once_and_in_order() {
    assert_carried_despite_faults("ws").await;
}

#[tokio::test]
async fn entries_over_http_survive_cuts_and_kills_exactly_once_and_in_order() {
    assert_carried_despite_faults("http").await;
}

async fn assert_carried_despite_faults(transport: &str) {
    let mut random = seed::source(transport);
    let mut cloud = Cloud::start().await;
    // The out stream is compared at the end.
    let settings = [("transport", transport), ("trim", "keep")];
    let mut device = Device::start_with(&cloud, "dev1", &settings).await;
    let writers = [
        tokio::spawn(publish(device.redis.connection(), OUT.to_owned())),
        tokio::spawn(publish(cloud.redis.connection(), out("dev1"))),
    ];
    cloud.hub_proxy.cut_after(rand::SeedableRng::from_rng(&mut random), 200..40_000, 20);

    let mut faults = FAULTS;
    faults.shuffle(&mut random);
    for (n, fault) in (1..).zip(faults) {
        // Spread over the whole load: each fault follows a share of the entries.
        let least = 2 * ENTRIES * n / (FAULTS.len() + 2);
        wait_for_entries(&cloud, &device, least).await;
        inject(fault, &mut cloud, &mut device).await;
    }

    for writer in writers {
        writer.await.expect("redis accepts all entries");
    }
    let (up, down) = added(&cloud, &device).await;
    assert_eq!((up.len(), down.len()), (ENTRIES, ENTRIES));
    assert_carried(&cloud, &device, &up, &down).await;
    for (redis, key) in [(&device.redis, LOST), (&device.redis, DEAD), (&cloud.redis, CLOUD_LOST)] {
        assert_eq!(redis.length(key).await, 0, "{key}");
    }
    assert!(cloud.hub_proxy.cut_by_plan() >= 3, "the link was cut inside of frames");
}

async fn inject(fault: Fault, cloud: &mut Cloud, device: &mut Device) {
    match fault {
        Fault::CutLink => cloud.hub_proxy.cut(),
        Fault::KillAgent => device.start_agent(),
        Fault::KillHub => cloud.restart_hub().await,
        Fault::StopHub => {
            let status = cloud.hub.terminate().await;
            assert_eq!(status.code(), Some(0), "{status}");
            cloud.restart_hub().await;
        }
        Fault::BlackHole => cloud.hub_proxy.black_hole_for(Duration::from_millis(200)).await,
        Fault::LoseAcknowledgements => {
            cloud.hub_proxy.lose_downstream();
            let before = cloud.redis.length(CLOUD_IN).await;
            // Entries in flight arrive, and their acknowledgements are lost.
            let arrival = eventually("something to arrive", PATIENCE, async || {
                (cloud.redis.length(CLOUD_IN).await > before).then_some(()).ok_or(before)
            });
            let _ = tokio::time::timeout(Duration::from_millis(500), arrival).await;
            cloud.hub_proxy.cut();
            cloud.hub_proxy.restore();
        }
    }
}

/// Waits until both copies together hold this many.
async fn wait_for_entries(cloud: &Cloud, device: &Device, least: usize) {
    let awaited = format!("{least} entries to be carried");
    eventually(&awaited, PATIENCE, async || {
        let carried = (cloud.redis.length(CLOUD_IN).await, device.redis.length(IN).await);
        if carried.0 + carried.1 >= least { Ok(()) } else { Err(carried) }
    })
    .await;
}

/// Adds the entries in parts, as apps do, over a longer time than one batch takes.
async fn publish(connection: redis::aio::MultiplexedConnection, stream: String) {
    let entries: Vec<Fields> = (0..ENTRIES).map(entry).collect();
    for part in entries.chunks(200) {
        add_all(connection.clone(), &stream, part).await;
        tokio::task::yield_now().await;
    }
}

fn entry(n: usize) -> Fields {
    let payload =
        format!("{{\"n\":{n},\"noise\":\"{:x}\"}}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    fields([("topic", "load"), ("n", &n.to_string()), ("payload", &payload)])
}
