//! Hints that are lost while the connection that they come on is well.

use std::time::Duration;

use spoke_protocol::{message::Frame, wire::frame::SUBPROTOCOL};
use spoke_store::limits::SWEEP_INTERVAL;
use spoke_tests::{
    cloud::{Cloud, IN, Settings, admit, out},
    device::{self, Device},
    entries::fields,
    muted_redis::Deaf,
    redis::RedisServer,
    wait::{eventually, eventually_true},
    websocket::{Heard, Offer, Socket, hello},
};

const IN_TIME: Duration = SWEEP_INTERVAL.saturating_add(Duration::from_secs(10));

async fn deaf_cloud() -> (Cloud, Deaf) {
    let redis = RedisServer::start().await;
    let deaf = Deaf::start(redis.port()).await;
    let hub = [("redis", &*deaf.url())];
    (Cloud::start_on(redis, Settings { hub: &hub, auth: &[] }).await, deaf)
}

#[tokio::test]
async fn an_entry_that_no_hint_told_of_is_late_and_not_lost() {
    let (cloud, deaf_hub) = deaf_cloud().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    let deaf_agent = Deaf::start(device.redis.port()).await;
    device.set("redis", &deaf_agent.url());
    device.start_agent();
    let first = fields([("n", "1")]);
    device.redis.add(device::OUT, &first).await;
    cloud.redis.add(&out("dev1"), &first).await;
    // What was there when the session began needs no hint.
    eventually_true("the first entries", async || lengths(&cloud, &device).await == (1, 1)).await;
    let before = (deaf_hub.swallowed(), deaf_agent.swallowed());

    let second = fields([("n", "2")]);
    device.redis.add(device::OUT, &second).await;
    cloud.redis.add(&out("dev1"), &second).await;

    eventually_true("the hints to be lost", async || {
        deaf_hub.swallowed() > before.0 && deaf_agent.swallowed() > before.1
    })
    .await;
    assert_eq!(lengths(&cloud, &device).await, (1, 1), "nobody has heard of the second ones");
    eventually("the second entries", IN_TIME, async || match lengths(&cloud, &device).await {
        (2, 2) => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn lengths(cloud: &Cloud, device: &Device) -> (usize, usize) {
    (cloud.redis.length(IN).await, device.redis.length(device::IN).await)
}

#[tokio::test]
async fn a_session_whose_end_no_hint_told_of_is_closed_by_the_sweep() {
    let (cloud, deaf) = deaf_cloud().await;
    let offer = Offer::of(&admit(&cloud.redis, "dev1").await, SUBPROTOCOL);
    let mut socket = Socket::connect(cloud.hub.address(), &offer).await.unwrap();
    socket.greet(hello()).await;
    let before = deaf.swallowed();

    cloud.redis.forget("spoke-auth:session:").await;

    eventually_true("the hint to be lost", async || deaf.swallowed() > before).await;
    let code = eventually("the session to be closed", IN_TIME, async || {
        socket.send_frame(&Frame::Ping).await;
        match socket.next().await {
            Heard::Closed(Some((code, _))) => Ok(code),
            other => Err(other),
        }
    });
    assert_eq!(code.await, 4401);
}
