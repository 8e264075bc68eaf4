//! An app adds the highest possible ID to an in stream: Redis can generate no further ID, and both ends
//! report which stream it is and what to do.

use spoke_protocol::Seq;
use spoke_tests::{
    cloud::Cloud,
    device::{Device, IN},
    redis::RedisServer,
    wait::eventually_true,
};

use crate::outages::{add_down, add_up};

const WHAT_TO_DO: &str = "XDEL its entry 18446744073709551615-18446744073709551615, then XSETID";

async fn exhaust(redis: &RedisServer, key: &str) {
    redis.command::<String>(&["XADD", key, &Seq::MAX.to_string(), "field", "value"]).await;
}

/// Runs the commands that the error and docs/troubleshooting.md give.
async fn restore_last_id(redis: &RedisServer, key: &str) {
    assert_eq!(redis.command::<i64>(&["XDEL", key, &Seq::MAX.to_string()]).await, 1);
    let left = redis.entries(key).await;
    let last = left.last().expect("the entries that were carried before").id.clone();
    redis.command::<()>(&["XSETID", key, &last]).await;
}

fn is_reported(log: &str, key: &str) -> bool {
    let words = format!("{key} has generated the highest possible ID");
    log.lines().any(|line| line.contains(&words) && line.contains(WHAT_TO_DO))
}

#[tokio::test]
async fn an_in_stream_without_ids_left_is_reported_with_what_to_do_at_the_device() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    add_down(&cloud, &device, "before", 3).await;
    device.carried_both_ways(&cloud).await;
    exhaust(&device.redis, IN).await;
    add_down(&cloud, &device, "afterwards", 3).await;
    eventually_true("the agent to name the stream", async || is_reported(&device.log(), IN)).await;

    restore_last_id(&device.redis, IN).await;
    device.carried_both_ways(&cloud).await;
}

#[tokio::test]
async fn an_in_stream_without_ids_left_is_reported_with_what_to_do_at_the_hub() {
    const IN: &str = "spoke-hub:in:x";
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    add_up(&device, "before", 3).await;
    device.carried_both_ways(&cloud).await;
    exhaust(&cloud.redis, IN).await;
    add_up(&device, "afterwards", 3).await;
    eventually_true("the hub to name the stream", async || is_reported(&cloud.hub.log(), IN)).await;

    restore_last_id(&cloud.redis, IN).await;
    device.carried_both_ways(&cloud).await;
}
