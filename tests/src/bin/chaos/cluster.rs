//! `--cluster`: numbered entries both ways through a Redis Cluster of six nodes, whose faults are drawn from the seed.
//!
//! Up, the oracle is exact: each number is in the client's partition once and in order, whatever the promoted nodes had
//! forgotten, and no ledger has a line. Down, an entry that its app added may be forgotten with its primary; what is still in
//! the out stream at the end has been delivered, and nothing was delivered twice or out of order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use redis::cmd;
use spoke_tests::{
    chaos::node_fault::{NodeFault, NodeFaultKind, node_faults},
    cluster::{Cluster, connect},
    device::{Device, IN, OUT},
    entries::fields,
    partition_fleet::{CLIENTS, PartitionFleet, number},
};
use tokio_util::sync::CancellationToken;

/// How long the cluster has to become whole after a fault.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How long everything takes to be carried at the end.
const SETTLING: Duration = Duration::from_secs(90);
/// The bounds of the entries of a burst, and of the pause behind it.
const BURST: (usize, usize) = (1, 40);
const PAUSE_MS: (u64, u64) = (20, 800);
/// An app that adds down waits this long for a node.
const RETRY: Duration = Duration::from_millis(100);
const FULL: &str = "1mb";

/// What a run has found.
#[derive(Default)]
pub(crate) struct ClusterOutcome {
    /// The number of faults by name.
    pub(crate) made: BTreeMap<&'static str, usize>,
    /// The entries of all devices, and those in the out streams at the end.
    pub(crate) up: usize,
    pub(crate) down: usize,
    /// What is wrong.
    pub(crate) problems: Vec<String>,
}

/// Runs load and faults of a seed for this long, and judges.
pub(crate) async fn run(seed: u64, time: Duration) -> ClusterOutcome {
    let mut fleet = PartitionFleet::start(Cluster::start().await).await;
    let mut outbound = Vec::new();
    for client in CLIENTS {
        outbound.push(fleet.key_of(client, "out").await);
    }
    let over = CancellationToken::new();
    let mut outcome = ClusterOutcome::default();
    let (lasts, ports) = {
        let ports: Vec<u16> = fleet.cluster.nodes.iter().map(|node| node.port()).collect();
        // The load needs the devices only; the faults need all of the cloud.
        let PartitionFleet { cluster, cloud, devices, inbound } = &mut fleet;
        let up = CLIENTS
            .iter()
            .enumerate()
            .map(|(at, client)| add_up(&devices[client], seed * 100 + at as u64, &over));
        let down = outbound
            .iter()
            .enumerate()
            .map(|(at, stream)| add_down(&ports, stream, seed * 100 + 50 + at as u64, &over));
        let faults = async {
            let begun = Instant::now();
            for fault in node_faults(seed, CLIENTS.len()) {
                if begun.elapsed() + Duration::from_millis(fault.pause_ms) > time {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(fault.pause_ms)).await;
                *outcome.made.entry(fault.kind.word()).or_default() += 1;
                let stream = &inbound[CLIENTS[fault.client]];
                if fault.kind == NodeFaultKind::KillHub {
                    cloud.restart_hub().await;
                    continue;
                }
                println!("  {:>5.1} s  {fault:?}", begun.elapsed().as_secs_f64());
                strike(cluster, &fault, stream).await;
                cluster.wait_until_whole(WHOLE_WITHIN).await;
            }
            over.cancel();
        };
        let (lasts, _, ()) = tokio::join!(join_all(up), join_all(down), faults);
        (lasts, ports)
    };
    for (client, last) in CLIENTS.into_iter().zip(lasts) {
        outcome.up += last + 1;
        // It panics with the numbers if one is missing, doubled or out of order.
        fleet.wait_for(client, last, SETTLING, "all entries up").await;
        let ledger = fleet.key_of(client, "lost").await;
        // What the cluster forgot of an out stream is in the ledger, too.
        for line in fleet.cluster.read(&ledger).await.unwrap_or_default() {
            let text = |name| line.text(name).unwrap_or_default();
            if text("client") == client && text("direction") == "up" {
                let (cause, count) = (text("cause"), text("count"));
                outcome.problems.push(format!("{client}: {count} lost up: {cause}"));
            }
        }
    }
    for (client, stream) in CLIENTS.into_iter().zip(&outbound) {
        let held = add_last_down(&fleet, &ports, stream).await;
        outcome.down += held.len();
        outcome.problems.extend(judge_down(&fleet.devices[client], client, &held).await);
    }
    outcome
}

/// Adds entries on a device until the load is over, and returns the last number.
async fn add_up(device: &Device, seed: u64, over: &CancellationToken) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut last = 0;
    while !over.is_cancelled() {
        for _ in 0..random.random_range(BURST.0..=BURST.1) {
            last += 1;
            device.redis.add(OUT, &fields([("n", last.to_string())])).await;
        }
        wait(&mut random, over).await;
    }
    last
}

/// Adds entries for a client until the load is over. An answer that is lost is not asked for again.
async fn add_down(ports: &[u16], stream: &str, seed: u64, over: &CancellationToken) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut n = 0;
    while !over.is_cancelled() {
        for _ in 0..random.random_range(BURST.0..=BURST.1) {
            n += 1;
            if !add_at_any(ports, stream, n).await {
                break;
            }
        }
        wait(&mut random, over).await;
    }
}

async fn wait(random: &mut StdRng, over: &CancellationToken) {
    let pause = Duration::from_millis(random.random_range(PAUSE_MS.0..=PAUSE_MS.1));
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = over.cancelled() => {}
    }
}

/// Adds an entry at the node that takes it. Returns false if none does now.
async fn add_at_any(ports: &[u16], stream: &str, n: usize) -> bool {
    for port in ports {
        let Some(mut connection) = connect(*port).await else { continue };
        let mut add = cmd("XADD");
        add.arg(stream).arg("*").arg("n").arg(n);
        match add.query_async::<String>(&mut connection).await {
            Ok(_) => return true,
            // It may have been added.
            Err(error) if error.is_io_error() => return false,
            Err(_) => {}
        }
    }
    false
}

/// Adds the last entry, with a number above all others, and returns the numbers in the stream.
async fn add_last_down(fleet: &PartitionFleet, ports: &[u16], stream: &str) -> BTreeSet<usize> {
    let begun = Instant::now();
    while !add_at_any(ports, stream, usize::MAX / 2).await {
        assert!(begun.elapsed() < SETTLING, "{stream}: no node takes the last entry");
        tokio::time::sleep(RETRY).await;
    }
    let entries = fleet.cluster.read(stream).await.expect("the cluster is whole");
    entries.iter().map(number).collect()
}

/// Waits until a device has what its out stream holds, and returns what is wrong.
async fn judge_down(device: &Device, client: &str, held: &BTreeSet<usize>) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let delivered: Vec<_> = device.redis.entries(IN).await.iter().map(number).collect();
        let missing: Vec<_> = held.iter().filter(|n| !delivered.contains(n)).collect();
        if missing.is_empty() || begun.elapsed() > SETTLING {
            let mut problems = Vec::new();
            if !missing.is_empty() {
                problems.push(format!("{client}: not delivered: {missing:?}"));
            }
            let wrong = delivered.windows(2).filter(|pair| pair[0] >= pair[1]);
            problems.extend(wrong.map(|pair| format!("{client}: {} behind {}", pair[1], pair[0])));
            return problems;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Makes a fault of the primary that has a stream, and ends it.
async fn strike(cluster: &mut Cluster, fault: &NodeFault, stream: &str) {
    let lasts = Duration::from_millis(fault.lasts_ms);
    let Some(owner) = cluster.live_owner(stream).await else { return };
    match fault.kind {
        NodeFaultKind::Kill => {
            cluster.nodes[owner].kill9();
            tokio::time::sleep(lasts).await;
            cluster.nodes[owner].restart().await;
        }
        NodeFaultKind::Hang => {
            cluster.nodes[owner].pause();
            tokio::time::sleep(lasts).await;
            cluster.nodes[owner].resume();
        }
        NodeFaultKind::HangReplica => {
            let replica = cluster.replica_of(owner).await;
            cluster.nodes[replica].pause();
            tokio::time::sleep(lasts).await;
            cluster.nodes[replica].resume();
        }
        NodeFaultKind::FailOver => {
            let replica = cluster.replica_of(owner).await;
            cluster.fail_over(replica).await;
        }
        NodeFaultKind::Lag => {
            let replica = cluster.replica_of(owner).await;
            cluster.nodes[replica].pause();
            tokio::time::sleep(lasts).await;
            cluster.nodes[owner].kill9();
            cluster.nodes[replica].resume();
            // Its file has what the replica lacks, and it becomes a replica itself.
            tokio::time::sleep(WHOLE_WITHIN / 10).await;
            cluster.nodes[owner].restart().await;
        }
        NodeFaultKind::MoveSlot => {
            let mut others = Vec::new();
            for (at, node) in cluster.nodes.iter().enumerate() {
                if at != owner && node.info("replication").await.contains("role:master") {
                    others.push(at);
                }
            }
            let to = others[fault.client % others.len()];
            let slot = cluster.slot(stream, owner).await;
            let moving = cluster.begin_move(slot, owner, to).await;
            while cluster.move_keys(&moving, 1, lasts / 10).await == 1 {}
            cluster.end_move(moving).await;
        }
        NodeFaultKind::Full => {
            let set = async |value: &str| {
                let words = ["CONFIG", "SET", "maxmemory", value];
                cluster.nodes[owner].command::<()>(&words).await;
            };
            set(FULL).await;
            tokio::time::sleep(lasts).await;
            set("0").await;
        }
        NodeFaultKind::KillHub => {}
    }
}
