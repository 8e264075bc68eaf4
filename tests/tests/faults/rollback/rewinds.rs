//! Rows 4 and 5 of the table of faults: either Redis comes back with an older state.

use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{self, Cloud},
    device::{self, Device, OUT},
    wait::eventually_is,
};

use super::{State, TRANSPORTS, add_at, lines, wait_for_copy};

#[tokio::test]
async fn a_truncated_device_redis_with_its_clock_set_back_loses_and_duplicates_nothing() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let mut first = add_at(&device.redis, OUT, "kept", 1000..1030).await;
        device.acknowledged_both_ways(&cloud).await;
        let state = State::of(&device.redis);
        first.extend(add_at(&device.redis, OUT, "forgotten", 1030..1050).await);
        device.acknowledged_both_ways(&cloud).await;

        state.restore(&mut device.redis).await;
        assert_eq!(device.redis.length(OUT).await, 30, "the file was not truncated");
        // Below the cursor, at its ID and above it, all with other bytes.
        let second = add_at(&device.redis, OUT, "new", 1035..1060).await;
        device.redis.restart().await;

        wait_for_copy(&cloud, 75).await;
        let all = [expected(&first, Some(1)), expected(&second, Some(2))].concat();
        assert_same("up", &all, &cloud.carried("dev1").await);
        let line = "up 1029-1 1049-0 unknown origin-rewound".to_owned();
        assert_eq!(lines(&cloud.redis, cloud::LOST).await, std::slice::from_ref(&line));
        assert_eq!(lines(&device.redis, device::LOST).await, [line]);
    }
}

/// The copy holds entries that the origin's Redis no longer knows it has sent.
#[tokio::test]
async fn a_device_redis_that_lost_its_last_writes_continues_after_the_copy() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut device = Device::without_agent(&cloud, "dev1", &[("transport", transport)]).await;
        let mut all = add_at(&device.redis, OUT, "backlog", 1000..3500).await;
        device.start_agent();
        device.acknowledged_both_ways(&cloud).await;
        device.stop_agent().await;
        let cuts = State::of(&device.redis).cuts();
        assert!(cuts.len() > 2, "only {} reads", cuts.len());
        for cut in &cuts {
            cut.restore(&mut device.redis).await;
            device.redis.restart().await;
            device.start_agent();
            device.acknowledged_both_ways(&cloud).await;
            device.stop_agent().await;
            assert!(!device.log().contains("panicked"), "{}", device.log());
        }
        device.start_agent();
        all.extend(add_at(&device.redis, OUT, "later", 4000..4005).await);
        wait_for_copy(&cloud, all.len()).await;
        assert_same("up", &expected(&all, Some(1)), &cloud.carried("dev1").await);
        assert_eq!(lines(&cloud.redis, cloud::LOST).await, [""; 0]);
    }
}

/// The same at the hub, whose Redis holds the entries for the device.
#[tokio::test]
async fn a_hub_redis_that_lost_its_last_writes_continues_after_the_devices_copy() {
    for transport in TRANSPORTS {
        let mut cloud = Cloud::start().await;
        let mut device = Device::without_agent(&cloud, "dev1", &[("transport", transport)]).await;
        let stream = cloud::out("dev1");
        let mut all = add_at(&cloud.redis, &stream, "backlog", 1000..3500).await;
        device.start_agent();
        device.acknowledged_both_ways(&cloud).await;
        device.stop_agent().await;
        let cuts = State::of(&cloud.redis).cuts();
        assert!(cuts.len() > 2, "only {} reads", cuts.len());
        for cut in &cuts {
            cut.restore(&mut cloud.redis).await;
            cloud.redis.restart().await;
            device.start_agent();
            device.acknowledged_both_ways(&cloud).await;
            device.stop_agent().await;
            assert!(!cloud.hub.log().contains("panicked"), "{}", cloud.hub.log());
        }
        device.start_agent();
        all.extend(add_at(&cloud.redis, &stream, "later", 4000..4005).await);
        eventually_is("all entries to arrive", all.len(), async || device.carried().await.len())
            .await;
        assert_same("down", &expected(&all, None), &device.carried().await);
        assert_eq!(lines(&device.redis, device::LOST).await, [""; 0]);
    }
}

#[tokio::test]
async fn entries_carried_before_a_backup_was_restored_are_not_carried_again() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let mut first = add_at(&device.redis, OUT, "early", 1000..1010).await;
        device.acknowledged_both_ways(&cloud).await;
        device.stop_agent().await;
        // The backup has unsent entries that the agent has not read yet.
        first.extend(add_at(&device.redis, OUT, "waiting", 1010..1030).await);
        let backup = State::of(&device.redis);
        device.start_agent();
        device.acknowledged_both_ways(&cloud).await;
        first.extend(add_at(&device.redis, OUT, "late", 1030..1040).await);
        device.acknowledged_both_ways(&cloud).await;
        device.stop_agent().await;

        backup.restore(&mut device.redis).await;
        let second = add_at(&device.redis, OUT, "new", 1032..1036).await;
        device.redis.restart().await;
        device.start_agent();

        wait_for_copy(&cloud, 44).await;
        let all = [expected(&first, Some(1)), expected(&second, Some(2))].concat();
        assert_same("up", &all, &cloud.carried("dev1").await);
    }
}

#[tokio::test]
async fn a_rewound_out_stream_of_the_hub_begins_a_new_epoch_for_the_device() {
    for transport in TRANSPORTS {
        let mut cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let stream = cloud::out("dev1");
        let mut first = add_at(&cloud.redis, &stream, "kept", 1000..1010).await;
        device.acknowledged_both_ways(&cloud).await;
        let state = State::of(&cloud.redis);
        first.extend(add_at(&cloud.redis, &stream, "forgotten", 1010..1020).await);
        device.acknowledged_both_ways(&cloud).await;

        state.restore(&mut cloud.redis).await;
        let second = add_at(&cloud.redis, &stream, "new", 1015..1025).await;
        cloud.redis.restart().await;

        eventually_is("the device's copy to be complete", 30, async || {
            device.carried().await.len()
        })
        .await;
        let all = [expected(&first, None), expected(&second, None)].concat();
        assert_same("down", &all, &device.carried().await);
        let line = "down 1009-1 1019-0 unknown origin-rewound".to_owned();
        assert_eq!(lines(&device.redis, device::LOST).await, [line]);
    }
}

#[tokio::test]
async fn a_device_wiped_in_a_later_epoch_of_its_out_stream_gets_everything_still_in_it() {
    for transport in TRANSPORTS {
        let mut cloud = Cloud::start().await;
        let mut device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let stream = cloud::out("dev1");
        add_at(&cloud.redis, &stream, "trimmed", 990..1000).await;
        let mut all = add_at(&cloud.redis, &stream, "kept", 1000..1010).await;
        device.acknowledged_both_ways(&cloud).await;
        let state = State::of(&cloud.redis);
        add_at(&cloud.redis, &stream, "forgotten", 1010..1020).await;
        device.acknowledged_both_ways(&cloud).await;
        state.restore(&mut cloud.redis).await;
        all.extend(add_at(&cloud.redis, &stream, "new", 1015..1025).await);
        cloud.redis.restart().await;
        eventually_is("the entries of the second epoch", 40, async || device.carried().await.len())
            .await;
        cloud.redis.command::<u64>(&["XTRIM", &stream, "MAXLEN", "20"]).await;

        device.redis.flushall().await;
        device.start_agent();

        eventually_is("everything that is left", 20, async || device.carried().await.len()).await;
        assert_same("down", &expected(&all, None), &device.carried().await);
        // Entries that were in the copy and are gone are recorded as lost.
        let lines = lines(&device.redis, device::LOST).await;
        assert_eq!(lines, ["down 0-1 999-18446744073709551615 10 rewound"], "{transport}");
    }
}

#[tokio::test]
async fn an_out_stream_that_is_rewound_twice_is_carried_completely_each_time() {
    let mut cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    let stream = cloud::out("dev1");
    let mut all = add_at(&cloud.redis, &stream, "first", 1000..1005).await;
    device.acknowledged_both_ways(&cloud).await;
    for (word, numbers, last) in [("once", 1010..1020, 1025), ("twice", 1030..1040, 1045)] {
        cloud.hub_proxy.refuse();
        cloud.hub_proxy.cut();
        // The hub has not read these yet: no mark covers them.
        all.extend(add_at(&cloud.redis, &stream, word, numbers).await);
        let backup = State::of(&cloud.redis);
        cloud.hub_proxy.restore();
        eventually_is("them to arrive", all.len(), async || device.carried().await.len()).await;
        backup.restore(&mut cloud.redis).await;
        cloud.redis.restart().await;
        all.extend(add_at(&cloud.redis, &stream, "last", last..last + 1).await);
        eventually_is("the last entry to arrive", all.len(), async || device.carried().await.len())
            .await;
    }
    assert_same("down", &expected(&all, None), &device.carried().await);
}

#[tokio::test]
async fn a_hub_redis_that_failed_over_without_its_last_writes_gets_them_from_the_device() {
    for transport in TRANSPORTS {
        let mut cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let mut all = add_at(&device.redis, OUT, "kept", 1000..1030).await;
        device.acknowledged_both_ways(&cloud).await;
        let state = State::of(&cloud.redis);
        all.extend(add_at(&device.redis, OUT, "tail", 1030..1050).await);
        device.acknowledged_both_ways(&cloud).await;

        state.restore(&mut cloud.redis).await;
        assert_eq!(cloud.carried("dev1").await.len(), 30, "the hub's Redis lost no entries");
        cloud.redis.restart().await;
        all.extend(add_at(&device.redis, OUT, "after", 1050..1055).await);

        wait_for_copy(&cloud, 55).await;
        assert_same("up", &expected(&all, Some(1)), &cloud.carried("dev1").await);
        assert_eq!(lines(&cloud.redis, cloud::LOST).await, [""; 0]);
    }
}

#[tokio::test]
async fn entries_that_neither_end_still_has_are_counted_exactly_in_both_ledgers() {
    for transport in TRANSPORTS {
        let mut cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let mut all = add_at(&device.redis, OUT, "kept", 1000..1030).await;
        device.acknowledged_both_ways(&cloud).await;
        let state = State::of(&cloud.redis);
        let tail = add_at(&device.redis, OUT, "tail", 1030..1050).await;
        device.acknowledged_both_ways(&cloud).await;
        device.redis.command::<u64>(&["XTRIM", OUT, "MAXLEN", "=", "5"]).await;

        state.restore(&mut cloud.redis).await;
        cloud.redis.restart().await;
        all.extend_from_slice(&tail[15..]);
        all.extend(add_at(&device.redis, OUT, "after", 1050..1055).await);

        wait_for_copy(&cloud, 40).await;
        assert_same("up", &expected(&all, Some(1)), &cloud.carried("dev1").await);
        let line = "up 1029-1 1044-18446744073709551615 15 rewound".to_owned();
        assert_eq!(lines(&cloud.redis, cloud::LOST).await, std::slice::from_ref(&line));
        assert_eq!(lines(&device.redis, device::LOST).await, [line]);
    }
}
