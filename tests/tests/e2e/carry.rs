//! Entries from an app's `XADD` to the copy at the other end.

mod contract;
mod load;
mod network;
mod streams;

use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{Cloud, out},
    device::{Device, OUT},
    entries::Stored,
};

/// Waits until everything is carried, compares both copies with what was added, and waits for the
/// acknowledgements at both origins.
async fn assert_carried(cloud: &Cloud, device: &Device, up: &[Stored], down: &[Stored]) {
    device.carried_both_ways(cloud).await;
    let client = &device.client;
    let found = cloud.carried(client).await;
    assert_same(&format!("{client} up"), &expected(up, Some(1)), &found);
    assert_same(&format!("{client} down"), &expected(down, None), &device.carried().await);
    device.acknowledged_both_ways(cloud).await;
}

/// All entries of both origins.
async fn added(cloud: &Cloud, device: &Device) -> (Vec<Stored>, Vec<Stored>) {
    (device.redis.entries(OUT).await, cloud.redis.entries(&out(&device.client)).await)
}
