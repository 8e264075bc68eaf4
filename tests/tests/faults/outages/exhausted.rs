//! Somebody adds the highest ID that there is to an in stream: nothing can be added behind it, and both ends
//! say which stream that is and what mends it.

use spoke_protocol::Seq;
use spoke_tests::{
    cloud::Cloud,
    device::{Device, IN},
    redis::RedisServer,
    wait::eventually_true,
};

use crate::outages::{add_down, add_up};

const MENDED: &str = "XDEL its entry 18446744073709551615-18446744073709551615, then XSETID";

async fn exhaust(redis: &RedisServer, key: &str) {
    redis.command::<String>(&["XADD", key, &Seq::MAX.to_string(), "field", "value"]).await;
}

/// What the error and the guide tell to type.
async fn mend(redis: &RedisServer, key: &str) {
    assert_eq!(redis.command::<i64>(&["XDEL", key, &Seq::MAX.to_string()]).await, 1);
    let left = redis.entries(key).await;
    let last = left.last().expect("what was carried before").id.clone();
    redis.command::<()>(&["XSETID", key, &last]).await;
}

fn is_told(log: &str, key: &str) -> bool {
    let words = format!("{key} has generated the highest possible ID");
    log.lines().any(|line| line.contains(&words) && line.contains(MENDED))
}

#[tokio::test]
async fn an_in_stream_that_has_given_out_the_highest_id_is_named_with_its_mend_at_the_device() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    add_down(&cloud, &device, "before", 3).await;
    device.carried_both_ways(&cloud).await;
    exhaust(&device.redis, IN).await;
    add_down(&cloud, &device, "behind", 3).await;
    eventually_true("the agent to name the stream", async || is_told(&device.log(), IN)).await;

    mend(&device.redis, IN).await;
    device.carried_both_ways(&cloud).await;
}

#[tokio::test]
async fn an_in_stream_that_has_given_out_the_highest_id_is_named_with_its_mend_at_the_hub() {
    const IN: &str = "spoke-hub:in:x";
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    add_up(&device, "before", 3).await;
    device.carried_both_ways(&cloud).await;
    exhaust(&cloud.redis, IN).await;
    add_up(&device, "behind", 3).await;
    eventually_true("the hub to name the stream", async || is_told(&cloud.hub.log(), IN)).await;

    mend(&cloud.redis, IN).await;
    device.carried_both_ways(&cloud).await;
}
