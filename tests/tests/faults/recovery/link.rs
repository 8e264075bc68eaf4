//! The link: lost acknowledgements, silence, slowness.

use std::time::{Duration, Instant};

use spoke_tests::{
    cloud::{Cloud, IN as CLOUD_IN},
    device::{Device, IN},
    wait::{PATIENCE, eventually, eventually_is},
};

use crate::recovery::{TRANSPORTS, add_down, add_up, assert_all_carried};

async fn device(cloud: &Cloud, transport: &str) -> Device {
    let device = Device::start_with(cloud, "dev1", &[("transport", transport)]).await;
    add_up(&device, "first", 10).await;
    add_down(cloud, &device, "first", 10).await;
    // Over HTTP a request waits for the response to the previous one: none may be in flight.
    device.acknowledged_both_ways(cloud).await;
    device
}

#[tokio::test]
async fn a_lost_acknowledgement_duplicates_no_entry() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = device(&cloud, transport).await;
        for round in 1..=5 {
            cloud.hub_proxy.lose_downstream();
            add_up(&device, "unacknowledged", 10).await;
            let arrived = 10 * (round + 1);
            eventually_is("the entries to arrive", arrived, async || {
                cloud.redis.length(CLOUD_IN).await
            })
            .await;
            cloud.hub_proxy.cut();
            cloud.hub_proxy.restore();
            // The next connection acknowledges them; they are not sent again.
            device.acknowledged_both_ways(&cloud).await;
        }
        add_up(&device, "last", 1).await;
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_lost_acknowledgement_from_the_device_duplicates_no_entry() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = device(&cloud, transport).await;
        for round in 1..=5 {
            add_down(&cloud, &device, "cut off", 10).await;
            // Cuts as soon as the first of them arrives; its acknowledgement may or may not be sent.
            eventually("an entry to arrive", PATIENCE, async || {
                let length = device.redis.length(IN).await;
                if length > 10 * round { Ok(()) } else { Err(length) }
            })
            .await;
            cloud.hub_proxy.cut();
            device.carried_both_ways(&cloud).await;
        }
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn an_agent_reconnects_to_a_hub_that_was_down_for_a_while() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = device(&cloud, transport).await;
        cloud.hub_proxy.refuse();
        cloud.hub_proxy.cut();
        add_up(&device, "while the hub is down", 100).await;
        add_down(&cloud, &device, "while the hub is down", 100).await;
        let tried = cloud.hub_proxy.connections();
        eventually("a few tries", PATIENCE, async || {
            let tries = cloud.hub_proxy.connections() - tried;
            if tries >= 3 { Ok(()) } else { Err(tries) }
        })
        .await;
        cloud.hub_proxy.restore();
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_slow_link_carries_everything() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = device(&cloud, transport).await;
        cloud.hub_proxy.delay(Duration::from_millis(40));
        add_up(&device, "slow", 1000).await;
        add_down(&cloud, &device, "slow", 1000).await;
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_link_that_carries_nothing_is_closed_and_replaced() {
    let cloud = Cloud::start().await;
    let device = device(&cloud, "ws").await;
    let before = cloud.hub_proxy.connections();
    cloud.hub_proxy.black_hole();
    add_up(&device, "lost on the link", 10).await;
    let begun = Instant::now();
    // The agent watches progress, not only its connection.
    eventually("another connection", Duration::from_secs(50), async || {
        let connections = cloud.hub_proxy.connections();
        if connections > before { Ok(()) } else { Err(connections) }
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(40), "it took {:?}", begun.elapsed());
    cloud.hub_proxy.restore();
    assert_all_carried(&cloud, &device).await;
}
