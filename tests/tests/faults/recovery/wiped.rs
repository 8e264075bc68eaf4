//! A Redis that comes back empty, at either end.

use std::fs;

use spoke_protocol::Seq;
use spoke_tests::{
    checker::{Carried, assert_same, expected},
    cloud::{Cloud, IN as CLOUD_IN, out},
    copy_state::cursor,
    device::{Device, IN, OUT, STATE},
    entries::{Stored, numbered},
    wait::eventually_is,
};

use crate::recovery::{TRANSPORTS, add_down, add_up, in_step};

/// Entries each way before the fault.
const BEFORE: usize = 50;

async fn assert_copies(cloud: &Cloud, device: &Device, up: Vec<Carried>, down: Vec<Carried>) {
    eventually_is("the hub's copy to be complete", up.len(), async || {
        cloud.carried("dev1").await.len()
    })
    .await;
    eventually_is("the device's copy to be complete", down.len(), async || {
        device.carried().await.len()
    })
    .await;
    assert_same("up", &up, &cloud.carried("dev1").await);
    assert_same("down", &down, &device.carried().await);
}

/// Kills the device's Redis, deletes its file and starts it again.
async fn wipe_redis(device: &mut Device) {
    device.redis.kill9();
    fs::remove_dir_all(device.redis.directory().join("appendonlydir")).expect("its file exists");
    device.redis.restart().await;
    assert_eq!(device.redis.length(OUT).await, 0, "redis came back with entries");
}

#[tokio::test]
async fn a_device_redis_wiped_while_the_agent_is_off_begins_a_new_epoch() {
    for transport in TRANSPORTS {
        let (cloud, mut device, before, down) = in_step(transport, BEFORE).await;
        device.stop_agent().await;
        wipe_redis(&mut device).await;
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
        wipe_redis(&mut device).await;
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
        eventually_is("the hub's copy to be complete", up, async || {
            cloud.carried("dev1").await.len()
        })
        .await;
        let found = cloud.carried("dev1").await;
        let epoch = found.last().unwrap().epoch;
        let up = [expected(&before, Some(1)), expected(&after, epoch)].concat();
        assert_same("up", &up, &found);
    }
}

#[tokio::test]
async fn ids_below_the_cursor_after_a_wipe_are_not_taken_for_duplicates() {
    let (cloud, mut device, before, _) = in_step("ws", BEFORE).await;
    device.stop_agent().await;
    wipe_redis(&mut device).await;
    // IDs of a clock that restarts in 1970, and exactly the ID of the hub's cursor.
    let mut after = Vec::new();
    for id in ["1-1", "1-2", "5-0", before[49].id.as_str()] {
        let fields = numbered(after.len());
        device.redis.add_as(OUT, id, &fields).await;
        after.push(Stored { id: id.to_owned(), fields });
    }
    device.start_agent();
    let up = [expected(&before, Some(1)), expected(&after, Some(2))].concat();
    eventually_is("the hub's copy to be complete", up.len(), async || {
        cloud.carried("dev1").await.len()
    })
    .await;
    assert_same("up", &up, &cloud.carried("dev1").await);
    device.redis.add(OUT, &numbered(99)).await;
    eventually_is("the next entry", up.len() + 1, async || cloud.carried("dev1").await.len()).await;
}

#[tokio::test]
async fn after_a_wipe_redis_generates_ids_above_the_hubs_cursor() {
    let (cloud, mut device, before, _) = in_step("ws", BEFORE).await;
    device.stop_agent().await;
    wipe_redis(&mut device).await;
    device.redis.add_as(OUT, "1-1", &numbered(1)).await;
    device.start_agent();
    eventually_is("the entry to be carried", 51, async || cloud.carried("dev1").await.len()).await;
    let cursor: Seq = before[49].id.parse().unwrap();
    let below = Seq::new(cursor.ms, cursor.n.saturating_sub(1)).to_string();
    let refused = device.redis.cli(&["XADD", OUT, &below, "n", "2"]).await;
    assert!(refused.stdout.contains("ID specified in XADD is equal or smaller"), "{refused:?}");
}

#[tokio::test]
async fn each_wipe_of_a_device_begins_one_new_epoch() {
    let (cloud, mut device, before, down) = in_step("ws", BEFORE).await;
    let mut up = expected(&before, Some(1));
    for epoch in 2..=4 {
        device.stop_agent().await;
        wipe_redis(&mut device).await;
        let added = add_up(&device, "again", 20).await;
        up.extend(expected(&added, Some(epoch)));
        device.start_agent();
        assert_copies(&cloud, &device, up.clone(), expected(&down, None)).await;
    }
}

#[tokio::test]
async fn an_agent_that_lost_only_its_state_hash_duplicates_nothing() {
    for transport in TRANSPORTS {
        let (cloud, mut device, before, _) = in_step(transport, BEFORE).await;
        device.stop_agent().await;
        let (_, before_down) = cursor(&device.redis, STATE).await.expect("entries have arrived");
        device.redis.command::<()>(&["DEL", STATE]).await;
        let after = add_up(&device, "after", 20).await;
        device.start_agent();
        let up = expected(&[before, after].concat(), Some(1));
        eventually_is("the hub's copy to be complete", up.len(), async || {
            cloud.carried("dev1").await.len()
        })
        .await;
        assert_same("up", &up, &cloud.carried("dev1").await);
        let down = add_down(&cloud, &device, "after", 1).await;
        assert!(before_down < down[0].id, "{before_down}");
        eventually_is("the cursor down to be restored", Some(down[0].id.clone()), async || {
            cursor(&device.redis, STATE).await.map(|(_, seq)| seq)
        })
        .await;
        assert_eq!(device.redis.length(IN).await, 51, "{transport}");
    }
}

#[tokio::test]
async fn a_wiped_hub_redis_receives_again_what_the_device_still_has() {
    for transport in TRANSPORTS {
        let (cloud, device, before, down) = in_step(transport, BEFORE).await;
        cloud.redis.forget("spoke-hub:").await;
        let after = add_up(&device, "after", 50).await;
        let later = add_down(&cloud, &device, "later", 10).await;

        eventually_is("the hub's copy to be complete", 100, async || {
            cloud.redis.length(CLOUD_IN).await
        })
        .await;
        let found = cloud.carried("dev1").await;
        let epochs: Vec<_> = found.iter().filter_map(|entry| entry.epoch).collect();
        assert!(epochs.is_sorted(), "an epoch is lower than the one before: {epochs:?}");
        let mut up = expected(&[before, after].concat(), None);
        for (entry, found) in up.iter_mut().zip(&found) {
            entry.epoch = found.epoch;
        }
        assert_same("up", &up, &found);
        // The device keeps what it had; what was added since arrives.
        let down = expected(&[down, later].concat(), None);
        eventually_is("the device's copy to be complete", down.len(), async || {
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
    eventually_is("the device's copy to be complete", down.len(), async || {
        device.redis.length(IN).await
    })
    .await;
    assert_same("down", &down, &device.carried().await);
}
