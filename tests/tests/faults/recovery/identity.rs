//! Two agents with one identity: one wins, the other learns why, and nothing is interleaved.

use std::collections::BTreeMap;

use spoke_tests::{
    checker::Carried,
    cloud::Cloud,
    device::{Device, OUT},
    wait::{PATIENCE, eventually, eventually_true},
};

use crate::recovery::{TRANSPORTS, add_up, assert_all_carried, part};

fn words(entry: &Carried) -> (String, usize) {
    let text = |i: usize| String::from_utf8_lossy(&entry.fields[i].1).into_owned();
    (text(0), text(1).parse().expect("each entry has a number"))
}

#[tokio::test]
async fn a_device_or_its_clone_learns_why_it_was_superseded_and_nothing_is_interleaved() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let settings = [("transport", transport)];
        let original = Device::start_with(&cloud, "dev1", &settings).await;
        add_up(&original, "original", 20).await;
        original.carried_both_ways(&cloud).await;
        let mut clone = Device::clone_of(&cloud, &original, &settings).await;
        clone.redis.add_all(OUT, &part("clone", 20)).await;
        clone.start_agent();
        for _ in 0..10 {
            add_up(&original, "original", 20).await;
            add_up(&clone, "clone", 20).await;
        }

        let awaited = format!("one of them to be superseded, over {transport}");
        eventually_true(&awaited, async || {
            original.log().contains("superseded") || clone.log().contains("superseded")
        })
        .await;
        eventually("entries of the clone", PATIENCE, async || {
            let carried = cloud.carried("dev1").await;
            let of_clone = carried.iter().filter(|entry| words(entry).0 == "clone").count();
            if of_clone > 0 { Ok(()) } else { Err(carried.len()) }
        })
        .await;
        drop(clone);
        drop(original);
        assert_not_interleaved(&cloud.carried("dev1").await);
    }
}

/// Asserts that all entries of an epoch are of one device, and that seqs rise.
fn assert_not_interleaved(carried: &[Carried]) {
    let mut epochs: BTreeMap<u64, Vec<&Carried>> = BTreeMap::new();
    for entry in carried {
        epochs.entry(entry.epoch.expect("the hub says the epoch")).or_default().push(entry);
    }
    for (epoch, entries) in epochs {
        let (owner, _) = words(entries[0]);
        for entry in &entries {
            assert_eq!(words(entry).0, owner, "epoch {epoch} has entries of both devices");
        }
        let seqs: Vec<spoke_protocol::Seq> =
            entries.iter().map(|entry| entry.seq.parse().expect("a seq")).collect();
        assert!(seqs.is_sorted_by(|a, b| a < b), "epoch {epoch} is out of order: {seqs:?}");
    }
}

#[tokio::test]
async fn a_second_agent_on_one_state_directory_is_refused_before_it_connects() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    add_up(&device, "first", 1).await;
    device.carried_both_ways(&cloud).await;
    let second = device.command(&["run"]).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    let words = second.stdout + &second.stderr;
    assert!(words.contains("state"), "the error does not name the state directory: {words}");
    add_up(&device, "second", 1).await;
    assert_all_carried(&cloud, &device).await;
}

#[tokio::test]
async fn a_device_takes_over_from_a_stale_session_in_the_hubs_redis() {
    // A killed hub leaves its session in Redis; the next session replaces it.
    let mut cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    for _ in 0..3 {
        add_up(&device, "some", 10).await;
        device.carried_both_ways(&cloud).await;
        cloud.restart_hub().await;
    }
    add_up(&device, "last", 10).await;
    assert_all_carried(&cloud, &device).await;
}
