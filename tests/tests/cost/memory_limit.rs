//! The agent on a small device: under a memory limit that the kernel enforces.

use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{Cloud, out},
    device::{Device, OUT},
    entries::{Fields, fields, numbered},
    memory_limit::MemoryLimit,
    process_usage::resident_bytes_max,
};

/// What docs/install.md says that the agent needs.
const LIMIT_BYTES: u64 = 16 << 20;

/// A backlog of small entries with some large ones, and the largest that is carried.
fn backlog() -> Vec<Fields> {
    let of = |size: usize| fields([("value", "x".repeat(size))]);
    let small = (0..20_000).map(numbered);
    small.chain((0..300).map(|_| of(64 << 10))).chain((0..5).map(|_| of(1000 << 10))).collect()
}

#[tokio::test]
async fn an_agent_limited_to_16_mib_drains_both_ways_and_is_not_killed() {
    let limit = match MemoryLimit::new(LIMIT_BYTES) {
        Ok(limit) => limit,
        Err(error) => {
            println!("SKIPPED: this system does not let the test limit memory: {error}");
            return;
        }
    };
    let cloud = Cloud::start().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    let words = limit.start_through();
    device.start_through(&words.each_ref().map(String::as_str));
    let up = device.redis.add_all(OUT, &backlog()).await;
    let down = cloud.redis.add_all(&out("dev1"), &backlog()).await;

    device.start_agent();
    device.carried_both_ways(&cloud).await;

    assert_same("up", &expected(&up, Some(1)), &cloud.carried("dev1").await);
    assert_same("down", &expected(&down, None), &device.carried().await);
    let peak_mib = resident_bytes_max(device.agent().pid()) >> 20;
    assert_eq!(limit.kills(), 0, "the kernel killed the agent at {peak_mib} MiB");
    println!("peak: {peak_mib} MiB resident, pages of the program with it");
    // Its process must have ended before the group can be removed.
    drop(device);
}
