//! A hub whose clients are in partitions on all primaries of a Redis Cluster: what one primary cannot do stops no client
//! of another, and slots and nodes come and go while entries are carried.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use spoke_tests::{
    cluster::{Cluster, NODE_TIMEOUT_MS},
    device::{IN as DEVICE_IN, OUT},
    entries::fields,
    partition_fleet::{CLIENTS, PartitionFleet as Fleet},
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
async fn only_the_clients_of_a_full_primary_are_rate_limited() {
    const MIB: usize = 1024 * 1024;
    let fleet = Fleet::start(Cluster::start().await).await;
    let full = fleet.owner("dev1", 0).await;
    let server = &fleet.cluster.nodes[full];
    server.command::<()>(&["CONFIG", "SET", "maxmemory", &(60 * MIB).to_string()]).await;
    // Pieces whose keys are all in the slot of a partition of this primary.
    let filler = fleet.key_of("dev1", "out").await.replace("dev1", "filler");
    let piece = "x".repeat(MIB);
    let mut fillers = Vec::new();
    while used(server).await < 56 * MIB {
        fillers.push(format!("{filler}:{}", fillers.len()));
        server.command::<()>(&["SET", &fillers[fillers.len() - 1], &piece]).await;
    }
    let value = "x".repeat(100_000);
    let begun = Instant::now();
    for n in 1..=40 {
        for device in fleet.devices.values() {
            let entry = [("n", n.to_string()), ("blob", value.clone())];
            device.redis.add(OUT, &fields(entry)).await;
        }
    }
    let (mut limited, mut others) = (Vec::new(), Vec::new());
    for client in CLIENTS {
        match fleet.owner(client, 0).await == full {
            true => limited.push(client),
            false => others.push(client),
        }
    }
    for client in &others {
        fleet.wait_for(client, 40, PATIENCE, "of a primary with room").await;
    }
    println!("{} clients with room took {:?}", others.len(), begun.elapsed());
    let log = fleet.cloud.hub.log();
    for client in &others {
        assert!(!log.contains(&throttled(client)), "{log}");
    }
    for client in &limited {
        let name = format!("{client} to be throttled");
        eventually(&name, PATIENCE, async || {
            match fleet.cloud.hub.log().contains(&throttled(client)) {
                true => Ok(()),
                false => Err("it is not"),
            }
        })
        .await;
    }
    for filler in fillers {
        server.command::<u64>(&["DEL", &filler]).await;
    }
    for client in limited {
        fleet.wait_for(client, 40, PATIENCE, "once there is room").await;
    }
}

async fn used(server: &RedisServer) -> usize {
    let info = server.info("memory").await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    used.and_then(|used| used.trim().parse().ok()).expect("redis reports its memory use")
}

fn throttled(client: &str) -> String {
    format!(r#""message":"client throttled; redis is nearly full","client":"{client}""#)
}
