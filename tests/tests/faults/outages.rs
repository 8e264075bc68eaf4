//! Faults without a crash: a Redis that refuses, links that carry nothing, full disks, damaged files,
//! clocks that jump.

mod access;
mod agents;
mod clocks;
mod cluster;
mod disk;
mod exhausted;
mod failover;
mod health;
mod moving;
mod numbers;
mod partition_record;
mod partitions;
mod progress;
mod sentinel;
mod servers;
mod services;
mod state;

use spoke_tests::{
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
