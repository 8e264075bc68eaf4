//! State that is gone, is somebody else's, or is of another stream than the one that is there.

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
/// How long what would come twice may take.
const ECHO: Duration = Duration::from_millis(500);

/// Both ends hold 100 of each way, and the agent has written down that they do.
async fn in_step(transport: &str) -> (Cloud, Device) {
    let (cloud, device, ..) = crate::recovery::in_step(transport, 100).await;
    device.acknowledged_both_ways(&cloud).await;
    (cloud, device)
}

/// So many entries are in both copies, no more come, and no ledger tells of a loss.
async fn assert_holds(cloud: &Cloud, device: &Device, up: usize, down: usize, what: &str) {
    let lengths = async || (cloud.redis.length(CLOUD_IN).await, device.redis.length(IN).await);
    eventually_is(what, (up, down), lengths).await;
    throughout(what, ECHO, (up, down), lengths).await;
    for (redis, ledger) in [(&cloud.redis, cloud::LOST), (&device.redis, device::LOST)] {
        let lines = redis.entries(ledger).await;
        assert!(lines.is_empty(), "{what}: {ledger} tells of {lines:?}");
    }
}

#[tokio::test]
async fn what_the_hub_forgot_of_a_client_comes_neither_again_nor_is_it_told_as_lost() {
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
async fn what_a_device_forgot_comes_neither_again_nor_is_it_told_as_lost() {
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
async fn at_another_hub_what_waits_is_carried_once_and_nothing_is_told_as_lost() {
    for transport in TRANSPORTS {
        let (cloud, mut device) = in_step(transport).await;
        device.stop_agent().await;
        let other = Cloud::start().await;
        other.provision("dev1").await;
        let waiting = add_up(&device, "waiting", 20).await;
        let there = add_down(&other, &device, "there", 10).await;
        device.set("auth", &cloud::url(other.auth_proxy.address()));
        device.set("hub", &cloud::url(other.hub_proxy.address()));
        std::fs::remove_dir_all(device.folder().join("state")).expect("it was registered");
        device.start_agent();
        eventually_is("what waited", expected(&waiting, Some(2)), async || {
            other.carried("dev1").await
        })
        .await;
        assert_holds(&other, &device, 20, 110, transport).await;
        let down = device.carried().await;
        assert_same("down", &expected(&there, None), &down[100..]);
        assert_eq!(cloud.redis.length(CLOUD_IN).await, 100, "the first hub has what it had");
    }
}

#[tokio::test]
async fn under_another_name_what_waits_is_carried_once_and_nothing_is_told_as_lost() {
    let (cloud, mut device) = in_step("ws").await;
    device.stop_agent().await;
    cloud.provision("dev2").await;
    let waiting = add_up(&device, "waiting", 20).await;
    device.set("client", "dev2");
    device.client = "dev2".to_owned();
    add_down(&cloud, &device, "there", 10).await;
    std::fs::remove_dir_all(device.folder().join("state")).expect("it was registered");
    device.start_agent();
    eventually_is("what waited", expected(&waiting, Some(2)), async || cloud.carried("dev2").await)
        .await;
    assert_holds(&cloud, &device, 120, 110, "under another name").await;
}

/// The IDs that 1-0 to this one were given, with what they hold.
async fn give(device: &Device, ids: std::ops::RangeInclusive<u64>, word: &str) {
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
async fn a_stream_that_is_deleted_and_filled_again_in_one_step_is_carried_whole_whatever_its_ids() {
    for (transport, trim) in [("ws", "keep"), ("ws", "acked"), ("http", "keep"), ("http", "acked")]
    {
        let cloud = Cloud::start().await;
        let settings = [("transport", transport), ("trim", trim)];
        let device = Device::start_with(&cloud, "dev1", &settings).await;
        give(&device, 1..=100, "first").await;
        device.acknowledged_both_ways(&cloud).await;
        for (round, last) in [(2, 200), (3, 100), (4, 300), (5, 50)] {
            give(&device, 1..=last, &format!("round {round}")).await;
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
async fn a_stream_that_was_taken_away_after_all_was_carried_is_no_loss() {
    for take_away in ["DEL", "RENAME", "PEXPIRE", "FLUSHALL"] {
        let (cloud, device) = in_step("ws").await;
        match take_away {
            "DEL" => device.redis.command::<()>(&["DEL", OUT]).await,
            "RENAME" => device.redis.command::<()>(&["RENAME", OUT, "elsewhere"]).await,
            "PEXPIRE" => {
                device.redis.command::<()>(&["PEXPIRE", OUT, "1"]).await;
                // What is added before would go with it.
                eventually_is("it to be gone", 0, async || device.redis.length(OUT).await).await;
            }
            _ => device.redis.flushall().await,
        }
        add_up(&device, "after", 20).await;
        assert_holds(&cloud, &device, 120, 100, take_away).await;
    }
}

#[tokio::test]
async fn a_stream_that_was_renamed_away_while_offline_is_not_counted_for_the_one_in_its_place() {
    let (cloud, mut device) = in_step("ws").await;
    device.stop_agent().await;
    add_up(&device, "unsent", 100).await;
    device.redis.command::<()>(&["RENAME", OUT, "elsewhere"]).await;
    add_up(&device, "new", 3000).await;
    device.redis.command::<()>(&["XTRIM", OUT, "MAXLEN", "500"]).await;
    device.start_agent();
    eventually_is("what is there", 600, async || cloud.redis.length(CLOUD_IN).await).await;
    for (redis, ledger) in [(&cloud.redis, cloud::LOST), (&device.redis, device::LOST)] {
        let lines = redis.entries(ledger).await;
        let counts: Vec<_> = lines.iter().filter_map(|line| line.text("count")).collect();
        assert_eq!(counts, ["2500"], "{ledger}: {lines:?}");
    }
}

#[tokio::test]
async fn the_groups_lag_shows_every_redis_tool_what_was_not_given_out_yet() {
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
async fn poison_in_front_of_a_full_redis_goes_to_the_dead_letters_and_the_rest_is_carried() {
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
        // seq and reason in front of each, and part where there are several.
        assert_eq!(total, fields + 1 + if fields == 1 { 2 } else { 6 });
    }
}

/// What carries them may have in memory, in MiB. An agent of a release build stays below 32.
const CARRIER_MIB_MAX: u64 = 48;

/// Many small entries, then large ones, then some that are too large by far, and small ones again.
async fn add_all_sizes(redis: &RedisServer, stream: &str) {
    let of = |bytes: usize| fields([("v", "x".repeat(bytes))]);
    redis.add_all(stream, &vec![numbered(1); 5000]).await;
    redis.add_all(stream, &vec![of(1 << 20); 60]).await;
    redis.add_all(stream, &vec![of(60 << 20); 3]).await;
    redis.add_all(stream, &vec![numbered(2); 10]).await;
}

async fn all_sizes_are_carried(copy: (&RedisServer, &str), dead: (&RedisServer, &str)) {
    eventually_is("all but the huge ones", 5070, async || copy.0.length(copy.1).await).await;
    eventually_is("the huge ones to be set aside", 3, async || dead.0.length(dead.1).await).await;
}

#[tokio::test]
async fn neither_large_entries_behind_small_ones_nor_huge_ones_cost_much_memory_on_their_way_up() {
    let cloud = Cloud::start().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    add_all_sizes(&device.redis, OUT).await;
    device.start_agent();
    let dead = (&device.redis, "spoke-agent:dead:x");
    all_sizes_are_carried((&cloud.redis, CLOUD_IN), dead).await;
    let agent = resident_bytes_max(device.agent().pid()) >> 20;
    assert!(agent <= CARRIER_MIB_MAX, "the agent had {agent} MiB");
}

#[tokio::test]
async fn neither_large_entries_behind_small_ones_nor_huge_ones_cost_much_memory_on_their_way_down()
{
    let mut cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    let before = resident_bytes_max(cloud.hub.process().pid()) >> 20;
    add_all_sizes(&cloud.redis, &out("dev1")).await;
    let dead = (&cloud.redis, "spoke-hub:dead:x");
    all_sizes_are_carried((&device.redis, IN), dead).await;
    let hub = resident_bytes_max(cloud.hub.process().pid()) >> 20;
    let agent = resident_bytes_max(device.agent().pid()) >> 20;
    assert!(hub <= before + CARRIER_MIB_MAX, "the hub had {before} MiB, and then {hub}");
    assert!(agent <= CARRIER_MIB_MAX, "the agent had {agent} MiB");
    println!("{before} {hub} {agent}");
}
