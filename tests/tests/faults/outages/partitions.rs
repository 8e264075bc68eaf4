//! A hub whose clients are in partitions on all primaries of a Redis Cluster: what one primary cannot do stops no client
//! of another, and slots and nodes come and go while entries are carried.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, Settings},
    cluster::{Cluster, NODE_TIMEOUT_MS},
    device::{Device, IN as DEVICE_IN, OUT},
    entries::fields,
    partition_fleet::{CLIENTS, PartitionFleet as Fleet},
    process::{Start, run},
    redis::RedisServer,
    wait::{PATIENCE, eventually},
};

/// The time from one entry of a device to the next.
const EVERY: Duration = Duration::from_millis(20);
/// How long the clients of a primary wait after it is gone, and how long an agent waits before it comes back.
const BACK: Duration = Duration::from_millis(NODE_TIMEOUT_MS + 4000);
const AGENT_WAIT: Duration = Duration::from_secs(5);
/// The pause of a failover that an operator requests, and of a slot that is moved.
const PAUSE: Duration = Duration::from_secs(1);
/// Number and hash tags of the partitions.
const RECORD: &str = "spoke-hub:partitions";
/// The p99 while a replica hangs.
const UNNOTICED: Duration = Duration::from_millis(50);
/// The p99 of the clients of other primaries.
const OTHERS: Duration = Duration::from_millis(100);

/// Adds entries to all devices for this long while `during` runs. Returns the last number.
async fn feed(fleet: &Fleet, time: Duration, during: impl Future<Output = ()>) -> usize {
    feed_from(fleet, 0, time, during).await
}

/// The same with numbers after `last`. Returns how many.
async fn feed_from(
    fleet: &Fleet,
    last: usize,
    time: Duration,
    during: impl Future<Output = ()>,
) -> usize {
    let count = (time.as_millis() / EVERY.as_millis()) as usize;
    let feeding = async {
        let mut ticks = tokio::time::interval(EVERY);
        for n in 1..=count {
            ticks.tick().await;
            for device in fleet.devices.values() {
                device.redis.add(OUT, &fields([("n", (last + n).to_string())])).await;
            }
        }
    };
    tokio::join!(feeding, during);
    count
}

/// Checks that an entry down is delivered by its hint, and that no ledger has a loss.
async fn check_after(fleet: &Fleet, what: &str) {
    for client in CLIENTS {
        let key = fleet.key_of(client, "out").await;
        let owner = fleet.cluster.live_owner(&key).await.expect("the slot has an owner");
        let device = &fleet.devices[client].redis;
        let before = device.length(DEVICE_IN).await;
        fleet.cluster.nodes[owner].add(&key, &fields([("n", "0")])).await;
        eventually(&format!("{what}: down to {client}"), Duration::from_secs(1), async || {
            match device.length(DEVICE_IN).await > before {
                true => Ok(()),
                false => Err("it is not there"),
            }
        })
        .await;
        let ledger = fleet.key_of(client, "lost").await;
        assert_eq!(fleet.cluster.nodes[owner].length(&ledger).await, 0, "{what}: {client}");
        let lost = fleet.devices[client].redis.length("spoke-agent:lost:x").await;
        assert_eq!(lost, 0, "{what}: {client}");
    }
}

/// Checks what an operator sees while some partitions are down: all that is there, within two seconds.
async fn check_views(fleet: &Fleet, fault: Fault) {
    let what = format!("{fault:?}");
    let begun = Instant::now();
    let listed = fleet.hub_command(&["clients"]).await;
    assert!(listed.stdout.contains("not answer"), "{what}: {listed:?}");
    let took = [("clients", begun.elapsed())];
    let begun = Instant::now();
    let admin = fleet.cloud.hub.admin();
    let page = admin.get("/").await;
    assert_eq!(page.status, 200, "{what}: {page:?}");
    let took = [took[0], ("page", begun.elapsed())];
    for (view, took) in took {
        assert!(took < Duration::from_secs(2), "{what}: {view} took {took:?}");
    }
    // One that hangs is known to be down a little later.
    if fault == Fault::Killed {
        let metrics = admin.get("/metrics").await.text;
        let down = metrics.lines().find(|line| line.starts_with("spoke_hub_partitions_down "));
        assert!(down.is_some_and(|line| !line.ends_with(" 0")), "{what}: {down:?}");
    }
    assert_eq!(admin.get("/readyz").await.status, 200, "{what}: other clients are served");
}

fn p99(latencies: &[Duration]) -> Duration {
    let mut sorted = latencies.to_vec();
    sorted.sort();
    sorted[sorted.len() * 99 / 100]
}

fn longest(latencies: &[Duration]) -> Duration {
    latencies.iter().copied().max().unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Hung,
    FailedOver,
}

#[tokio::test]
async fn clients_of_other_primaries_do_not_notice_when_one_is_lost_and_its_own_lose_nothing() {
    for fault in [Fault::FailedOver, Fault::Killed, Fault::Hung] {
        let mut fleet = Fleet::start(Cluster::start().await).await;
        let old = fleet.owner("dev1", 0).await;
        let mut struck = Vec::new();
        for client in CLIENTS {
            if fleet.owner(client, 0).await == old {
                struck.push(client);
            }
        }
        assert!(struck.len() < CLIENTS.len(), "the clients are on several primaries");
        let replica = fleet.cluster.replica_of(old).await;
        let what = format!("{fault:?}");

        if fault == Fault::Killed {
            fleet.cluster.nodes[old].kill9();
        }
        let last = feed(&fleet, Duration::from_secs(8), async {
            match fault {
                Fault::Killed => {}
                Fault::Hung => fleet.cluster.nodes[old].pause(),
                Fault::FailedOver => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    fleet.cluster.fail_over(replica).await;
                }
            }
            if fault != Fault::FailedOver {
                tokio::time::sleep(Duration::from_millis(1200)).await;
                check_views(&fleet, fault).await;
            }
        })
        .await;

        for client in CLIENTS {
            let took = fleet.wait_for(client, last, BACK + AGENT_WAIT, &what).await;
            let (p99, longest) = (p99(&took), longest(&took));
            let is_struck = struck.contains(&client);
            println!("{what}: {client}: struck {is_struck}, p99 {p99:?}, longest {longest:?}");
            match (is_struck, fault) {
                (false, _) => assert!(p99 <= OTHERS, "{what}: {client}: {p99:?}"),
                (true, Fault::FailedOver) => {
                    assert!(longest <= PAUSE, "{what}: {client}: {longest:?}")
                }
                (true, _) => assert!(longest <= BACK + AGENT_WAIT, "{what}: {client}: {longest:?}"),
            }
        }
        check_after(&fleet, &what).await;
    }
}

#[tokio::test]
async fn nobody_waits_for_a_replica_that_hangs() {
    let fleet = Fleet::start(Cluster::start().await).await;
    let replica = fleet.cluster.replica_of(fleet.owner("dev1", 0).await).await;
    let last = feed(&fleet, Duration::from_secs(4), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fleet.cluster.nodes[replica].pause();
    })
    .await;
    for client in CLIENTS {
        let took = fleet.wait_for(client, last, AGENT_WAIT, "a hung replica").await;
        let (p99, longest) = (p99(&took), longest(&took));
        println!("{client}: p99 {p99:?}, longest {longest:?}");
        assert!(p99 <= UNNOTICED, "{client}: {p99:?}");
    }
}

#[tokio::test]
async fn at_the_level_of_all_replicas_no_acknowledged_entry_is_forgotten() {
    let mut fleet = Fleet::start_at(Cluster::start_with_replicas(2).await, "replicas:2").await;
    let old = fleet.owner("dev1", 0).await;
    let before = feed(&fleet, Duration::from_secs(2), async {}).await;
    // What is acknowledged now has the same ID after the failover: it was not sent again.
    let mut acknowledged = BTreeMap::new();
    for client in CLIENTS {
        let state = fleet.devices[client].redis.hash("spoke-agent:state:h").await;
        let acked = state.get("out_acked").cloned().unwrap_or_default();
        let acked = acked.split(' ').next().unwrap_or_default().to_owned();
        let entries = fleet.cluster.read(&fleet.inbound[client]).await.expect("it answers");
        let of_client =
            entries.into_iter().filter(|it| it.text("client").as_deref() == Some(client));
        let until =
            of_client.take_while(|it| id(&it.text("seq").unwrap_or_default()) <= id(&acked));
        acknowledged.insert(client, until.map(|it| it.id).collect::<Vec<_>>());
    }
    let count: usize = acknowledged.values().map(Vec::len).sum();
    assert!(count > CLIENTS.len() * before / 2, "{count} of {before} each are acknowledged");
    fleet.cluster.nodes[old].kill9();
    let last = before + feed_from(&fleet, before, Duration::from_secs(6), async {}).await;
    // The promoted one has one replica left, so its clients wait for the other.
    fleet.cluster.nodes[old].restart().await;
    for client in CLIENTS {
        let took = fleet.wait_for(client, last, BACK + AGENT_WAIT, "replicas:2").await;
        println!("{client}: p99 {:?}, longest {:?}", p99(&took), longest(&took));
        let entries = fleet.cluster.read(&fleet.inbound[client]).await.expect("it answers");
        let ids: Vec<_> = entries.into_iter().map(|entry| entry.id).collect();
        let forgotten: Vec<_> =
            acknowledged[client].iter().filter(|id| !ids.contains(id)).collect();
        assert!(forgotten.is_empty(), "{client}: {forgotten:?}");
    }
    check_after(&fleet, "replicas:2").await;
}

/// The parts of an ID.
fn id(text: &str) -> (u64, u64) {
    let (ms, n) = text.split_once('-').unwrap_or(("0", "0"));
    (ms.parse().unwrap_or(0), n.parse().unwrap_or(0))
}

#[tokio::test]
async fn nodes_join_and_leave_while_entries_are_carried() {
    let mut fleet = Fleet::start(Cluster::start().await).await;
    let added = fleet.cluster.add_node().await;
    let last = feed(&fleet, Duration::from_secs(20), fleet.cluster.rebalance()).await;
    let mut moved = 0;
    for client in CLIENTS {
        let took = fleet.wait_for(client, last, AGENT_WAIT, "joined").await;
        moved += usize::from(fleet.owner(client, 0).await == added);
        println!("joined: {client}: p99 {:?}, longest {:?}", p99(&took), longest(&took));
        assert!(longest(&took) <= PAUSE, "{client}: {:?}", longest(&took));
    }
    println!("{moved} clients moved to the new node");
    check_after(&fleet, "joined").await;
}

#[tokio::test]
async fn without_a_majority_of_primaries_writes_stop_visibly_and_go_on_by_themselves() {
    let mut fleet = Fleet::start(Cluster::start().await).await;
    let gone: Vec<usize> = (0..2).collect();
    gone.iter().for_each(|at| fleet.cluster.nodes[*at].kill9());
    let admin = fleet.cloud.hub.admin();
    eventually("the hub to say so", BACK, async || {
        let answer = admin.get("/readyz").await;
        if answer.status == 503 { Ok(()) } else { Err(answer) }
    })
    .await;
    let checked = fleet.hub_command(&["check"]).await;
    assert!(checked.stdout.contains("fail  redis: "), "{checked:?}");
    let last = feed(&fleet, Duration::from_secs(1), async {}).await;
    for at in gone {
        fleet.cluster.nodes[at].restart().await;
    }
    for client in CLIENTS {
        fleet.wait_for(client, last, PATIENCE, "after a majority is back").await;
    }
    check_after(&fleet, "after a majority is back").await;
}

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
