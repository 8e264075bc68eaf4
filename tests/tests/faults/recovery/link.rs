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
    // Over HTTP one request waits for the answer of the one before: none may be under way.
    device.acknowledged_both_ways(cloud).await;
    device
}

#[tokio::test]
async fn an_acknowledgement_that_is_lost_makes_no_entry_twice() {
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
            // Made good by the next connection, not by sending again.
            device.acknowledged_both_ways(&cloud).await;
        }
        add_up(&device, "last", 1).await;
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn an_acknowledgement_of_the_device_that_is_lost_makes_no_entry_twice() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = device(&cloud, transport).await;
        for round in 1..=5 {
            add_down(&cloud, &device, "cut off", 10).await;
            // As soon as the first of them is there; whether its acknowledgement has left is chance.
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
async fn a_hub_that_comes_back_after_a_while_is_found_again() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = device(&cloud, transport).await;
        cloud.hub_proxy.refuse();
        cloud.hub_proxy.cut();
        add_up(&device, "meanwhile", 100).await;
        add_down(&cloud, &device, "meanwhile", 100).await;
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
async fn a_link_that_carries_nothing_is_given_up_and_the_next_one_used() {
    let cloud = Cloud::start().await;
    let device = device(&cloud, "ws").await;
    let before = cloud.hub_proxy.connections();
    cloud.hub_proxy.black_hole();
    add_up(&device, "into nothing", 10).await;
    let begun = Instant::now();
    // The agent looks at progress, and not at whether it is connected.
    eventually("another connection", Duration::from_secs(50), async || {
        let connections = cloud.hub_proxy.connections();
        if connections > before { Ok(()) } else { Err(connections) }
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(40), "it took {:?}", begun.elapsed());
    cloud.hub_proxy.restore();
    assert_all_carried(&cloud, &device).await;
}
