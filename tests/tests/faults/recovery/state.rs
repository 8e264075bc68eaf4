//! State that is missing, belongs to another device, or describes another stream.

use std::time::Duration;

use redis::pipe;
use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{self, Cloud, IN as CLOUD_IN, out},
    device::{self, Device, IN, OUT, STATE},
    entries::{fields, numbered},
    process_usage::resident_bytes_max,
    redis::RedisServer,
    wait::{eventually_is, eventually_true, throughout},
};

use crate::recovery::{TRANSPORTS, add_down, add_up};

const HASH: &str = "spoke-hub:client:dev1:h";
/// How long a duplicate could take to appear.
const DUPLICATES_WITHIN: Duration = Duration::from_millis(500);

/// Both ends hold 100 entries each way, and the agent has stored that they do.
async fn in_step(transport: &str) -> (Cloud, Device) {
    let (cloud, device, ..) = crate::recovery::in_step(transport, 100).await;
    device.acknowledged_both_ways(&cloud).await;
    (cloud, device)
}

/// Asserts that both copies hold this many entries, that no more arrive, and that no ledger has a line.
async fn assert_holds(cloud: &Cloud, device: &Device, up: usize, down: usize, what: &str) {
    let lengths = async || (cloud.redis.length(CLOUD_IN).await, device.redis.length(IN).await);
    eventually_is(what, (up, down), lengths).await;
    throughout(what, DUPLICATES_WITHIN, (up, down), lengths).await;
    for (redis, ledger) in [(&cloud.redis, cloud::LOST), (&device.redis, device::LOST)] {
        let lines = redis.entries(ledger).await;
        assert!(lines.is_empty(), "{what}: {ledger} has {lines:?}");
    }
}

#[tokio::test]
async fn a_hub_that_lost_a_clients_state_causes_no_duplicate_and_reports_no_loss() {
    for transport in TRANSPORTS {
        for trim in ["keep", "acked"] {
            for is_live in [true, false] {
                let (cloud, mut device) = in_step(transport).await;
                device.stop_agent().await;
                device.set("trim", trim);
                if is_live {
                    device.start_agent();
                    add_up(&device, "trimmed", 5).await;
                    device.acknowledged_both_ways(&cloud).await;
                }
                cloud.redis.command::<()>(&["DEL", HASH]).await;
                let before = cloud.redis.length(CLOUD_IN).await;
                add_up(&device, "after", 20).await;
                add_down(&cloud, &device, "after", 20).await;
                if !is_live {
                    device.start_agent();
                }
                let what = format!("{transport}, {trim}, live: {is_live}");
                assert_holds(&cloud, &device, before + 20, 120, &what).await;
            }
        }
    }
}

#[tokio::test]
async fn a_device_that_lost_its_state_causes_no_duplicate_and_reports_no_loss() {
    for transport in TRANSPORTS {
        for is_live in [true, false] {
            let (cloud, mut device) = in_step(transport).await;
            if !is_live {
                device.stop_agent().await;
            }
            device.redis.command::<()>(&["DEL", STATE]).await;
            add_up(&device, "after", 20).await;
            add_down(&cloud, &device, "after", 20).await;
            if !is_live {
                device.start_agent();
            }
            let what = format!("{transport}, live: {is_live}");
            assert_holds(&cloud, &device, 120, 120, &what).await;
        }
    }
}

#[tokio::test]
async fn a_device_moved_to_another_hub_carries_its_backlog_once_and_reports_no_loss() {
    for transport in TRANSPORTS {
        let (cloud, mut device) = in_step(transport).await;
        device.stop_agent().await;
        let other = Cloud::start().await;
        other.provision("dev1").await;
        let waiting = add_up(&device, "waiting", 20).await;
        let new = add_down(&other, &device, "new", 10).await;
        device.set("auth", &cloud::url(other.auth_proxy.address()));
        device.set("hub", &cloud::url(other.hub_proxy.address()));
        std::fs::remove_dir_all(device.folder().join("state")).expect("it was registered");
        device.start_agent();
        eventually_is("the backlog", expected(&waiting, Some(2)), async || {
            other.carried("dev1").await
        })
        .await;
        assert_holds(&other, &device, 20, 110, transport).await;
        let down = device.carried().await;
        assert_same("down", &expected(&new, None), &down[100..]);
        assert_eq!(cloud.redis.length(CLOUD_IN).await, 100, "the first hub's copy changed");
    }
}

#[tokio::test]
async fn a_renamed_device_carries_its_backlog_once_and_reports_no_loss() {
    let (cloud, mut device) = in_step("ws").await;
    device.stop_agent().await;
    cloud.provision("dev2").await;
    let waiting = add_up(&device, "waiting", 20).await;
    device.set("client", "dev2");
    device.client = "dev2".to_owned();
    add_down(&cloud, &device, "new", 10).await;
    std::fs::remove_dir_all(device.folder().join("state")).expect("it was registered");
    device.start_agent();
    eventually_is("the backlog", expected(&waiting, Some(2)), async || cloud.carried("dev2").await)
        .await;
    assert_holds(&cloud, &device, 120, 110, "under another name").await;
}

/// Adds entries with these IDs in one transaction; deletes the stream first if the range begins at 1.
async fn add_atomically(device: &Device, ids: std::ops::RangeInclusive<u64>, word: &str) {
    let mut adding = pipe();
    adding.atomic();
    if *ids.start() == 1 {
        adding.cmd("DEL").arg(OUT).ignore();
    }
    for n in ids {
        adding.cmd("XADD").arg(OUT).arg(format!("{n}-0")).arg("word").arg(format!("{word} {n}"));
    }
    adding.query_async::<()>(&mut device.redis.connection()).await.expect("redis takes them");
}

#[tokio::test]
async fn a_stream_deleted_and_refilled_atomically_is_carried_completely_for_any_ids() {
    for (transport, trim) in [("ws", "keep"), ("ws", "acked"), ("http", "keep"), ("http", "acked")]
    {
        let cloud = Cloud::start().await;
        let settings = [("transport", transport), ("trim", trim)];
        let device = Device::start_with(&cloud, "dev1", &settings).await;
        add_atomically(&device, 1..=100, "first").await;
        device.acknowledged_both_ways(&cloud).await;
        for (round, last) in [(2, 200), (3, 100), (4, 300), (5, 50)] {
            add_atomically(&device, 1..=last, &format!("round {round}")).await;
            let last = format!("round {round} {last}");
            eventually_true(&format!("{transport}: round {round}"), async || {
                let copy = cloud.redis.entries(CLOUD_IN).await;
                copy.last().and_then(|entry| entry.text("word")) == Some(last.clone())
            })
            .await;
        }
        let copy = cloud.redis.entries(CLOUD_IN).await;
        let words = |word: &str| {
            copy.iter().filter(|entry| entry.text("word").unwrap().starts_with(word)).count()
        };
        let found = ["first", "round 2", "round 3", "round 4", "round 5"].map(words);
        assert_eq!(found, [100, 200, 100, 300, 50], "{transport}");
    }
}

#[tokio::test]
async fn removing_a_stream_after_everything_was_carried_is_no_loss() {
    for removal in ["DEL", "RENAME", "PEXPIRE", "FLUSHALL"] {
        let (cloud, device) = in_step("ws").await;
        match removal {
            "DEL" => device.redis.command::<()>(&["DEL", OUT]).await,
            "RENAME" => device.redis.command::<()>(&["RENAME", OUT, "elsewhere"]).await,
            "PEXPIRE" => {
                device.redis.command::<()>(&["PEXPIRE", OUT, "1"]).await;
                // An entry added before it expires would be deleted with it.
                eventually_is("the stream to expire", 0, async || device.redis.length(OUT).await)
                    .await;
            }
            _ => device.redis.flushall().await,
        }
        add_up(&device, "after", 20).await;
        assert_holds(&cloud, &device, 120, 100, removal).await;
    }
}

#[tokio::test]
async fn a_stream_renamed_away_while_offline_is_not_counted_as_a_loss_of_its_replacement() {
    let (cloud, mut device) = in_step("ws").await;
    device.stop_agent().await;
    add_up(&device, "unsent", 100).await;
    device.redis.command::<()>(&["RENAME", OUT, "elsewhere"]).await;
    add_up(&device, "new", 3000).await;
    device.redis.command::<()>(&["XTRIM", OUT, "MAXLEN", "500"]).await;
    device.start_agent();
    eventually_is("the remaining entries", 600, async || cloud.redis.length(CLOUD_IN).await).await;
    for (redis, ledger) in [(&cloud.redis, cloud::LOST), (&device.redis, device::LOST)] {
        let lines = redis.entries(ledger).await;
        let counts: Vec<_> = lines.iter().filter_map(|line| line.text("count")).collect();
        assert_eq!(counts, ["2500"], "{ledger}: {lines:?}");
    }
}

#[tokio::test]
async fn the_consumer_groups_lag_is_the_number_of_entries_not_sent_yet() {
    let (cloud, mut device) = in_step("ws").await;
    device.stop_agent().await;
    add_up(&device, "waiting", 30).await;
    let lag = async || {
        let groups: Vec<std::collections::HashMap<String, redis::Value>> =
            device.redis.command(&["XINFO", "GROUPS", OUT]).await;
        format!("{:?}", groups[0]["lag"])
    };
    assert_eq!(lag().await, "int(30)");
    device.start_agent();
    device.carried_both_ways(&cloud).await;
    let groups: Vec<std::collections::HashMap<String, redis::Value>> =
        device.redis.command(&["XINFO", "GROUPS", OUT]).await;
    assert_eq!(format!("{:?}", groups[0]["lag"]), "int(0)");
}

#[tokio::test]
async fn a_poison_entry_at_the_head_of_a_full_redis_is_dead_lettered_and_the_rest_carried() {
    for fields in [1, 5000] {
        let cloud = Cloud::start().await;
        let mut device = Device::without_agent(&cloud, "dev1", &[("trim", "acked")]).await;
        let mut poison = redis::cmd("XADD");
        poison.arg(OUT).arg("*").arg("seq").arg("mine");
        for n in 0..fields {
            poison.arg(format!("f{n}")).arg("x");
        }
        device.redis.query::<String>(&poison).await;
        device.redis.add_all(OUT, &vec![numbered(1); 300]).await;
        for (name, value) in [("maxmemory-policy", "noeviction"), ("maxmemory", "1mb")] {
            device.redis.command::<()>(&["CONFIG", "SET", name, value]).await;
        }
        device.start_agent();
        eventually_is("the rest", 300, async || cloud.redis.length(CLOUD_IN).await).await;
        let dead = device.redis.entries("spoke-agent:dead:x").await;
        assert_eq!(dead.len(), if fields == 1 { 1 } else { 2 }, "{fields} fields");
        let total: usize = dead.iter().map(|letter| letter.fields.len()).sum();
        // Each has seq and reason in front, and part if there are several.
        assert_eq!(total, fields + 1 + if fields == 1 { 2 } else { 6 });
    }
}

/// The memory limit of agent and hub in MiB. A release build of the agent stays below 32.
const CARRIER_MIB_MAX: u64 = 48;

/// Adds many small entries, then large ones, then some that are far too large, and small ones again.
async fn add_all_sizes(redis: &RedisServer, stream: &str) {
    let of = |bytes: usize| fields([("v", "x".repeat(bytes))]);
    redis.add_all(stream, &vec![numbered(1); 5000]).await;
    redis.add_all(stream, &vec![of(1 << 20); 60]).await;
    redis.add_all(stream, &vec![of(60 << 20); 3]).await;
    redis.add_all(stream, &vec![numbered(2); 10]).await;
}

async fn wait_for_all_sizes(copy: (&RedisServer, &str), dead: (&RedisServer, &str)) {
    eventually_is("all but the huge ones", 5070, async || copy.0.length(copy.1).await).await;
    eventually_is("the huge ones to be dead-lettered", 3, async || dead.0.length(dead.1).await)
        .await;
}

#[tokio::test]
async fn large_and_huge_entries_use_little_memory_on_the_way_up() {
    let cloud = Cloud::start().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    // They are larger than what a device keeps as shipped.
    device.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1gb"]).await;
    add_all_sizes(&device.redis, OUT).await;
    device.start_agent();
    let dead = (&device.redis, "spoke-agent:dead:x");
    wait_for_all_sizes((&cloud.redis, CLOUD_IN), dead).await;
    let agent = resident_bytes_max(device.agent().pid()) >> 20;
    assert!(agent <= CARRIER_MIB_MAX, "the agent had {agent} MiB");
}

#[tokio::test]
async fn large_and_huge_entries_use_little_memory_on_the_way_down() {
    let mut cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    let before = resident_bytes_max(cloud.hub.process().pid()) >> 20;
    add_all_sizes(&cloud.redis, &out("dev1")).await;
    let dead = (&cloud.redis, "spoke-hub:dead:x");
    wait_for_all_sizes((&device.redis, IN), dead).await;
    let hub = resident_bytes_max(cloud.hub.process().pid()) >> 20;
    let agent = resident_bytes_max(device.agent().pid()) >> 20;
    assert!(hub <= before + CARRIER_MIB_MAX, "the hub had {before} MiB, and then {hub}");
    assert!(agent <= CARRIER_MIB_MAX, "the agent had {agent} MiB");
    println!("{before} {hub} {agent}");
}
