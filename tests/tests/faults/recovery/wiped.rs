//! A Redis that comes back with nothing, at either end.

use std::fs;

use spoke_protocol::Seq;
use spoke_tests::{
    checker::{Carried, assert_same, expected},
    cloud::{Cloud, IN as CLOUD_IN, out},
    device::{Device, IN, OUT, STATE},
    entries::{Stored, numbered},
    wait::eventually_is,
};

use crate::recovery::{TRANSPORTS, add_down, add_up, in_step};

/// Entries of each way before the fault.
const BEFORE: usize = 50;

async fn assert_copies(cloud: &Cloud, device: &Device, up: Vec<Carried>, down: Vec<Carried>) {
    eventually_is("the hub's copy to be whole", up.len(), async || {
        cloud.carried("dev1").await.len()
    })
    .await;
    eventually_is("the device's copy to be whole", down.len(), async || {
        device.carried().await.len()
    })
    .await;
    assert_same("up", &up, &cloud.carried("dev1").await);
    assert_same("down", &down, &device.carried().await);
}

/// The file is gone and the server too.
async fn lose_database(device: &mut Device) {
    device.redis.kill9();
    fs::remove_dir_all(device.redis.directory().join("appendonlydir")).expect("its file is there");
    device.redis.restart().await;
    assert_eq!(device.redis.length(OUT).await, 0, "it came back with something");
}

#[tokio::test]
async fn a_device_redis_wiped_while_the_agent_is_off_begins_a_new_epoch() {
    for transport in TRANSPORTS {
        let (cloud, mut device, before, down) = in_step(transport, BEFORE).await;
        device.stop_agent().await;
        lose_database(&mut device).await;
        let after = add_up(&device, "after", 50).await;
        device.start_agent();

        let up = [expected(&before, Some(1)), expected(&after, Some(2))].concat();
        assert_copies(&cloud, &device, up, expected(&down, None)).await;
    }
}

#[tokio::test]
async fn a_device_redis_wiped_under_a_running_agent_begins_a_new_epoch() {
    for transport in TRANSPORTS {
        let (cloud, mut device, before, down) = in_step(transport, BEFORE).await;
        lose_database(&mut device).await;
        let after = add_up(&device, "after", 50).await;
        let later = add_down(&cloud, &device, "later", 10).await;

        let up = [expected(&before, Some(1)), expected(&after, Some(2))].concat();
        let down = expected(&[down, later].concat(), None);
        assert_copies(&cloud, &device, up, down).await;
    }
}

#[tokio::test]
async fn a_device_redis_flushed_under_a_running_agent_loses_no_entry_added_afterwards() {
    for transport in TRANSPORTS {
        let (cloud, device, before, _) = in_step(transport, BEFORE).await;
        device.redis.flushall().await;
        let after = add_up(&device, "after", 50).await;
        let up = before.len() + after.len();
        eventually_is("the hub's copy to be whole", up, async || cloud.carried("dev1").await.len())
            .await;
        let found = cloud.carried("dev1").await;
        let epoch = found.last().unwrap().epoch;
        let up = [expected(&before, Some(1)), expected(&after, epoch)].concat();
        assert_same("up", &up, &found);
    }
}

#[tokio::test]
async fn ids_below_the_cursor_after_a_wipe_are_no_duplicates() {
    let (cloud, mut device, before, _) = in_step("ws", BEFORE).await;
    device.stop_agent().await;
    lose_database(&mut device).await;
    // A clock that came back in 1970, and the very ID at which the hub's cursor stands.
    let mut after = Vec::new();
    for id in ["1-1", "1-2", "5-0", before[49].id.as_str()] {
        let fields = numbered(after.len());
        device.redis.add_as(OUT, id, &fields).await;
        after.push(Stored { id: id.to_owned(), fields });
    }
    device.start_agent();
    let up = [expected(&before, Some(1)), expected(&after, Some(2))].concat();
    eventually_is("the hub's copy to be whole", up.len(), async || {
        cloud.carried("dev1").await.len()
    })
    .await;
    assert_same("up", &up, &cloud.carried("dev1").await);
    device.redis.add(OUT, &numbered(99)).await;
    eventually_is("the next one too", up.len() + 1, async || cloud.carried("dev1").await.len())
        .await;
}

#[tokio::test]
async fn after_a_wipe_the_streams_own_ids_go_on_past_the_hubs_cursor() {
    let (cloud, mut device, before, _) = in_step("ws", BEFORE).await;
    device.stop_agent().await;
    lose_database(&mut device).await;
    device.redis.add_as(OUT, "1-1", &numbered(1)).await;
    device.start_agent();
    eventually_is("the entry to be carried", 51, async || cloud.carried("dev1").await.len()).await;
    let cursor: Seq = before[49].id.parse().unwrap();
    let below = Seq::new(cursor.ms, cursor.n.saturating_sub(1)).to_string();
    let refused = device.redis.cli(&["XADD", OUT, &below, "n", "2"]).await;
    assert!(refused.stdout.contains("ID specified in XADD is equal or smaller"), "{refused:?}");
}

#[tokio::test]
async fn a_device_that_is_wiped_again_and_again_counts_its_epochs() {
    let (cloud, mut device, before, down) = in_step("ws", BEFORE).await;
    let mut up = expected(&before, Some(1));
    for epoch in 2..=4 {
        device.stop_agent().await;
        lose_database(&mut device).await;
        let added = add_up(&device, "again", 20).await;
        up.extend(expected(&added, Some(epoch)));
        device.start_agent();
        assert_copies(&cloud, &device, up.clone(), expected(&down, None)).await;
    }
}

#[tokio::test]
async fn an_agent_whose_memory_alone_is_gone_repeats_nothing() {
    for transport in TRANSPORTS {
        let (cloud, mut device, before, _) = in_step(transport, BEFORE).await;
        device.stop_agent().await;
        let cursor: String = device.redis.command(&["HGET", STATE, "in_seq"]).await;
        device.redis.command::<()>(&["DEL", STATE]).await;
        let after = add_up(&device, "after", 20).await;
        device.start_agent();
        let up = expected(&[before, after].concat(), Some(1));
        eventually_is("the hub's copy to be whole", up.len(), async || {
            cloud.carried("dev1").await.len()
        })
        .await;
        assert_same("up", &up, &cloud.carried("dev1").await);
        let down = add_down(&cloud, &device, "after", 1).await;
        assert!(cursor < down[0].id, "{cursor}");
        eventually_is("the cursor down to be back", Some(down[0].id.clone()), async || {
            device.redis.command(&["HGET", STATE, "in_seq"]).await
        })
        .await;
        assert_eq!(device.redis.length(IN).await, 51, "{transport}");
    }
}

#[tokio::test]
async fn a_hub_redis_wiped_is_given_again_what_the_device_still_has() {
    for transport in TRANSPORTS {
        let (cloud, device, before, down) = in_step(transport, BEFORE).await;
        cloud.redis.forget("spoke-hub:").await;
        let after = add_up(&device, "after", 50).await;
        let later = add_down(&cloud, &device, "later", 10).await;

        eventually_is("the hub's copy to be whole", 100, async || {
            cloud.redis.length(CLOUD_IN).await
        })
        .await;
        let found = cloud.carried("dev1").await;
        let epochs: Vec<_> = found.iter().filter_map(|entry| entry.epoch).collect();
        assert!(epochs.is_sorted(), "epochs only rise: {epochs:?}");
        let mut up = expected(&[before, after].concat(), None);
        for (entry, found) in up.iter_mut().zip(&found) {
            entry.epoch = found.epoch;
        }
        assert_same("up", &up, &found);
        // What the device had before it keeps; what was added since comes.
        let down = expected(&[down, later].concat(), None);
        eventually_is("the device's copy to be whole", down.len(), async || {
            device.redis.length(IN).await
        })
        .await;
        assert_same("down", &down, &device.carried().await);
    }
}

#[tokio::test]
async fn a_hub_redis_wiped_while_the_agent_is_off_delivers_ids_below_the_cursor_too() {
    let (cloud, mut device, _, down) = in_step("ws", BEFORE).await;
    device.stop_agent().await;
    cloud.redis.forget("spoke-hub:").await;
    let mut later = Vec::new();
    for id in ["1-1", "7-0"] {
        let fields = numbered(later.len());
        cloud.redis.add_as(&out("dev1"), id, &fields).await;
        later.push(Stored { id: id.to_owned(), fields });
    }
    device.start_agent();
    let down = expected(&[down, later].concat(), None);
    eventually_is("the device's copy to be whole", down.len(), async || {
        device.redis.length(IN).await
    })
    .await;
    assert_same("down", &down, &device.carried().await);
}
