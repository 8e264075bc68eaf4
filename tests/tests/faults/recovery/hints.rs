//! Hints that are lost while their connection stays open.

use std::time::Duration;

use spoke_protocol::{message::Frame, wire::frame::SUBPROTOCOL};
use spoke_store::limits::SWEEP_INTERVAL;
use spoke_tests::{
    cloud::{Cloud, IN, Settings, admit, out},
    device::{self, Device},
    entries::fields,
    muted_redis::MutedRedis,
    redis::RedisServer,
    wait::{eventually, eventually_true},
    websocket::{Heard, Offer, Socket, hello},
};

const SWEPT_WITHIN: Duration = SWEEP_INTERVAL.saturating_add(Duration::from_secs(10));

async fn muted_cloud() -> (Cloud, MutedRedis) {
    let redis = RedisServer::start().await;
    let muted = MutedRedis::start(redis.port()).await;
    let hub = [("redis", &*muted.url())];
    (Cloud::start_on(redis, Settings { hub: &hub, auth: &[] }).await, muted)
}

#[tokio::test]
async fn an_entry_whose_hint_was_lost_is_late_but_not_lost() {
    let (cloud, muted_hub) = muted_cloud().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    let muted_agent = MutedRedis::start(device.redis.port()).await;
    device.set("redis", &muted_agent.url());
    device.start_agent();
    let first = fields([("n", "1")]);
    device.redis.add(device::OUT, &first).await;
    cloud.redis.add(&out("dev1"), &first).await;
    // Entries from before the session need no hint.
    eventually_true("the first entries", async || lengths(&cloud, &device).await == (1, 1)).await;
    let before = (muted_hub.dropped_hints(), muted_agent.dropped_hints());

    let second = fields([("n", "2")]);
    device.redis.add(device::OUT, &second).await;
    cloud.redis.add(&out("dev1"), &second).await;

    eventually_true("the hints to be lost", async || {
        muted_hub.dropped_hints() > before.0 && muted_agent.dropped_hints() > before.1
    })
    .await;
    assert_eq!(lengths(&cloud, &device).await, (1, 1), "the second entries arrived without a hint");
    eventually("the second entries", SWEPT_WITHIN, async || match lengths(&cloud, &device).await {
        (2, 2) => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn lengths(cloud: &Cloud, device: &Device) -> (usize, usize) {
    (cloud.redis.length(IN).await, device.redis.length(device::IN).await)
}

#[tokio::test]
async fn a_session_whose_end_hint_was_lost_is_closed_by_the_sweep() {
    let (cloud, muted) = muted_cloud().await;
    let offer = Offer::of(&admit(&cloud.redis, "dev1").await, SUBPROTOCOL);
    let mut socket = Socket::connect(cloud.hub.address(), &offer).await.unwrap();
    socket.greet(hello()).await;
    let before = muted.dropped_hints();

    cloud.redis.forget("spoke-auth:session:").await;

    eventually_true("the hint to be lost", async || muted.dropped_hints() > before).await;
    let code = eventually("the session to be closed", SWEPT_WITHIN, async || {
        socket.send_frame(&Frame::Ping).await;
        match socket.next().await {
            Heard::Closed(Some((code, _))) => Ok(code),
            other => Err(other),
        }
    });
    assert_eq!(code.await, 4401);
}
