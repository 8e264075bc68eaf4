//! Faults from the table in ARCHITECTURE.md, each caused on real processes.

mod access;
mod hints;
mod identity;
mod link;
mod narrow;
mod refresh;
mod servers;
mod state;
mod unusable;
mod wiped;

use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{Cloud, out},
    device::{Device, OUT},
    entries::{Fields, Stored, fields},
};

const TRANSPORTS: [&str; 2] = ["ws", "http"];

/// Numbered entries that name the part of the test that they belong to.
fn part(name: &str, count: usize) -> Vec<Fields> {
    (0..count).map(|n| fields([("part", name.to_owned()), ("n", n.to_string())])).collect()
}

async fn add_up(device: &Device, name: &str, count: usize) -> Vec<Stored> {
    device.redis.add_all(OUT, &part(name, count)).await
}

async fn add_down(cloud: &Cloud, device: &Device, name: &str, count: usize) -> Vec<Stored> {
    cloud.redis.add_all(&out(&device.client), &part(name, count)).await
}

/// A cloud and a device that hold this many entries each way.
async fn in_step(transport: &str, count: usize) -> (Cloud, Device, Vec<Stored>, Vec<Stored>) {
    let cloud = Cloud::start().await;
    let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
    let up = add_up(&device, "before", count).await;
    let down = add_down(&cloud, &device, "before", count).await;
    device.carried_both_ways(&cloud).await;
    (cloud, device, up, down)
}

/// Waits until everything is carried, and compares both copies with both origins.
async fn assert_all_carried(cloud: &Cloud, device: &Device) {
    device.carried_both_ways(cloud).await;
    let up = expected(&device.redis.entries(OUT).await, Some(1));
    let down = expected(&cloud.redis.entries(&out(&device.client)).await, None);
    assert_same("up", &up, &cloud.carried(&device.client).await);
    assert_same("down", &down, &device.carried().await);
}
