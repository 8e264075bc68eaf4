//! The record of the partitions of a fleet: their number is fixed, and all have one identity. One Redis may have them all.

use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, Settings},
    device::{Device, OUT},
    entries::fields,
    process::{Start, run},
    redis::RedisServer,
    wait::{PATIENCE, eventually},
};

/// Number and hash tags of the partitions.
const RECORD: &str = "spoke-hub:partitions";

#[tokio::test]
async fn the_number_of_partitions_is_fixed_and_one_redis_may_have_them_all() {
    let redis = RedisServer::start().await;
    let hub = [("partitions", "4")];
    let cloud = Cloud::start_on(redis, Settings { hub: &hub, auth: &[] }).await;
    let device = Device::start(&cloud, "dev1").await;
    device.redis.add(OUT, &fields([("n", "0")])).await;
    let url = cloud.redis.url();
    let command = |partitions: &str, words: &[&str]| {
        Start::with(words)
            .variable("SPOKE_HUB_REDIS", &url)
            .variable("SPOKE_HUB_PARTITIONS", partitions)
            .variable("SPOKE_HUB_LISTEN", "127.0.0.1:0")
            .variable("SPOKE_HUB_ADMIN_LISTEN", "")
    };
    let hub = path_of("spoke-hub");
    let printed = run(&hub, &command("4", &["key", "dev1"])).await.done().stdout;
    let inbound = printed.lines().find_map(|line| line.strip_prefix("in ")).expect("the in stream");
    eventually("the entry to be in the stream of the partition", PATIENCE, async || {
        match cloud.redis.length(inbound.trim()).await {
            1 => Ok(()),
            length => Err(length),
        }
    })
    .await;
    let all = run(&hub, &command("4", &["key"])).await.done().stdout;
    assert_eq!(all.lines().count(), 4, "{all}");
    assert!(all.lines().any(|line| line == inbound.trim()), "{all}");
    let listed = run(&hub, &command("4", &["clients"])).await.done().stdout;
    assert!(listed.contains("1 client: 1 connected"), "{listed}");
    let tags: String = cloud.redis.command(&["HGET", RECORD, "tags"]).await;
    assert_eq!(tags, "0b 1d 2b 3d");

    for other in ["1", "8"] {
        let refused = run(&hub, &command(other, &["serve"])).await;
        assert_eq!(refused.code, Some(78), "{refused:?}");
        assert!(refused.stderr.contains("set it to 4"), "{refused:?}");
        let refused = run(&hub, &command(other, &["clients"])).await;
        assert!(refused.stderr.contains("the fleet has 4 partitions"), "{refused:?}");
    }
    // Also before it has had a session.
    let undivided = Cloud::start().await;
    let start = command("4", &["serve"]).variable("SPOKE_HUB_REDIS", undivided.redis.url());
    let refused = run(&hub, &start).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("set it to 1"), "{refused:?}");
}

#[tokio::test]
async fn all_partitions_of_a_new_fleet_get_one_identity_and_a_hub_that_died_meanwhile_is_no_harm() {
    let redis = RedisServer::start().await;
    // A hub has recorded it, and has died before it told each partition.
    let record = ["HSET", RECORD, "count", "4", "tags", "0b 1d 2b 3d", "identity", "a1b2"];
    redis.command::<u64>(&record).await;
    redis.command::<()>(&["SET", "spoke-hub:identity:{1d}", "a1b2"]).await;
    let hub = [("partitions", "4")];
    let mut cloud = Cloud::start_on(redis, Settings { hub: &hub, auth: &[] }).await;
    let keys = ["0b", "1d", "2b", "3d"].map(|tag| format!("spoke-hub:identity:{{{tag}}}"));
    for key in &keys {
        assert_eq!(cloud.redis.command::<String>(&["GET", key]).await, "a1b2", "{key}");
    }
    let recorded = cloud.redis.hash(RECORD).await;
    assert_eq!(recorded.into_keys().collect::<Vec<_>>(), ["count", "tags"]);

    // One that is emptied later is another hub to its devices.
    cloud.redis.command::<u64>(&["DEL", &keys[2]]).await;
    cloud.restart_hub().await;
    assert_eq!(cloud.redis.command::<u64>(&["EXISTS", &keys[2]]).await, 0);
}
