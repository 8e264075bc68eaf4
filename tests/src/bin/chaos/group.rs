//! `--cluster` and `--sentinel`: numbered entries both ways through a group of Redis servers whose replicas take over, with
//! faults drawn from the seed.
//!
//! Up, the oracle is exact: each number is in the client's in stream once and in order, whatever the promoted servers had
//! forgotten, and no ledger has a line. Down, an entry that its app added may be forgotten with its primary; what is still in
//! the out stream at the end has been delivered, and nothing was delivered twice or out of order.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};
use rand::{Rng, SeedableRng, rngs::StdRng};
use spoke_tests::{
    chaos::node_fault::{NodeFault, NodeFaultKind, node_faults},
    cloud::Cloud,
    device::{Device, IN, OUT},
    entries::fields,
    partition_fleet::{CLIENTS, PartitionFleet, number},
    redis_group::{AppRoute, RedisGroup},
};
use tokio_util::sync::CancellationToken;

use crate::{
    group_fault::{WHOLE_WITHIN, strike},
    journal::Journal,
    kept::keep,
};

/// How long everything takes to be carried at the end.
const SETTLING: Duration = Duration::from_secs(90);
/// The bounds of the entries of a burst, and of the pause behind it.
const BURST: (usize, usize) = (1, 40);
const PAUSE_MS: (u64, u64) = (20, 800);
/// An app that adds down waits this long for a server.
const RETRY: Duration = Duration::from_millis(100);

/// What a run has found, or several together.
#[derive(Default)]
pub(crate) struct GroupOutcome {
    /// The number of faults by name.
    pub(crate) made: BTreeMap<&'static str, usize>,
    /// The entries of all devices, and those in the out streams at the end.
    pub(crate) up: usize,
    pub(crate) down: usize,
    /// From the end of load and faults until everything was carried.
    pub(crate) settled: Duration,
    /// What is wrong.
    pub(crate) problems: Vec<String>,
}

/// A run: its seed, how long load and faults last, and the folder for its files.
#[derive(Clone, Copy)]
pub(crate) struct GroupRun<'a> {
    pub(crate) seed: u64,
    pub(crate) time: Duration,
    pub(crate) folder: &'a Path,
}

impl GroupOutcome {
    /// Adds those of a further run.
    pub(crate) fn add(&mut self, other: &Self) {
        for (name, count) in &other.made {
            *self.made.entry(name).or_default() += count;
        }
        self.up += other.up;
        self.down += other.down;
        self.settled += other.settled;
        self.problems.extend(other.problems.iter().cloned());
    }

    /// The number of faults of each kind.
    pub(crate) fn faults(&self) -> String {
        let made = self.made.iter().map(|(name, count)| format!("{name} {count}"));
        made.collect::<Vec<_>>().join(", ")
    }
}

/// Runs load and faults, and judges; `None` after a panic. If something is wrong, the folder has the files of all processes.
pub(crate) async fn run<G: RedisGroup>(group: G, run: GroupRun<'_>) -> Option<GroupOutcome> {
    let mut fleet = PartitionFleet::start(group).await;
    // The fleet outlives a panic.
    let outcome = AssertUnwindSafe(load_and_judge(&mut fleet, run)).catch_unwind().await;
    if !outcome.as_ref().is_ok_and(|outcome| outcome.problems.is_empty()) {
        keep(&fleet, run.folder).await;
    }
    outcome.ok()
}

async fn load_and_judge<G: RedisGroup>(
    fleet: &mut PartitionFleet<G>,
    run: GroupRun<'_>,
) -> GroupOutcome {
    let mut outbound = Vec::new();
    for client in CLIENTS {
        outbound.push(fleet.key_of(client, "out").await);
    }
    let route = fleet.cluster.app_route();
    let mut outcome = GroupOutcome::default();
    let lasts = load_and_strike(fleet, run, (&route, &outbound), &mut outcome.made).await;
    let begun = Instant::now();
    for (client, last) in CLIENTS.into_iter().zip(lasts) {
        outcome.up += last + 1;
        // It panics with the numbers if one is missing, doubled or out of order.
        fleet.wait_for(client, last, SETTLING, "all entries up").await;
        outcome.problems.extend(lost_up(fleet, client).await);
    }
    for (client, stream) in CLIENTS.into_iter().zip(&outbound) {
        let held = add_last_down(fleet, &route, stream).await;
        outcome.down += held.len();
        outcome.problems.extend(judge_down(&fleet.devices[client], client, &held).await);
    }
    outcome.settled = begun.elapsed();
    outcome
}

/// Adds entries and strikes until the time is over. Returns the last number of each device.
async fn load_and_strike<G: RedisGroup>(
    fleet: &mut PartitionFleet<G>,
    run: GroupRun<'_>,
    (route, outbound): (&AppRoute, &[String]),
    made: &mut BTreeMap<&'static str, usize>,
) -> Vec<usize> {
    let over = CancellationToken::new();
    // The load needs the devices only; the faults need all of the cloud.
    let PartitionFleet { cluster, cloud, devices, inbound } = fleet;
    let seed = |of: usize| run.seed * 100 + of as u64;
    let up = CLIENTS.iter().enumerate();
    let up = up.map(|(at, client)| add_up(&devices[client], seed(at), &over));
    let down = outbound.iter().enumerate();
    let down = down.map(|(at, stream)| add_down(route, stream, seed(50 + at), &over));
    let faults = async {
        strike_in_turn(cluster, cloud, inbound, run, made).await;
        over.cancel();
    };
    tokio::join!(join_all(up), join_all(down), faults).0
}

/// Makes one fault after the other until the time is over.
async fn strike_in_turn<G: RedisGroup>(
    group: &mut G,
    cloud: &mut Cloud,
    inbound: &BTreeMap<&'static str, String>,
    run: GroupRun<'_>,
    made: &mut BTreeMap<&'static str, usize>,
) {
    let journal = Journal::begin(run.folder);
    let has_disks = group.testbed().is_some_and(|testbed| testbed.has_disks());
    let kinds: Vec<_> = G::FAULTS
        .iter()
        .copied()
        .filter(|kind| has_disks || *kind != NodeFaultKind::DiskFull)
        .collect();
    let begun = Instant::now();
    for fault in node_faults(run.seed, CLIENTS.len(), &kinds) {
        let pause = Duration::from_millis(fault.pause_ms);
        if begun.elapsed() + pause > run.time {
            break;
        }
        tokio::time::sleep(pause).await;
        *made.entry(fault.kind.word()).or_default() += 1;
        let struck = Instant::now();
        let stream = &inbound[CLIENTS[fault.client]];
        let before = group.primary_of(stream).await;
        journal.note(&format!("begin {} of server {before:?}: {fault:?}", fault.kind.word()));
        match fault.kind {
            NodeFaultKind::KillHub => cloud.restart_hub().await,
            _ => strike(group, &fault, stream, before).await,
        }
        journal.note("the fault is over");
        group.wait_until_agreed(WHOLE_WITHIN).await;
        let after = group.primary_of(stream).await;
        journal.note(&format!("whole, and the primary is server {after:?}"));
        print_fault(&fault, (struck - begun, struck.elapsed()), before != after);
    }
}

fn print_fault(fault: &NodeFault, (at, took): (Duration, Duration), is_promoted: bool) {
    println!(
        "  {:>5.1} s  {:<12} {:>4} ms, client {}: whole after {:.1} s{}",
        at.as_secs_f64(),
        fault.kind.word(),
        fault.lasts_ms,
        fault.client,
        took.as_secs_f64(),
        if is_promoted { ", another primary" } else { "" },
    );
}

/// A problem for each line of the ledger about entries up.
async fn lost_up<G: RedisGroup>(fleet: &PartitionFleet<G>, client: &str) -> Vec<String> {
    let ledger = fleet.key_of(client, "lost").await;
    let mut problems = Vec::new();
    // What the servers forgot of an out stream is in the ledger, too.
    for line in fleet.cluster.entries_of(&ledger).await.unwrap_or_default() {
        let text = |name| line.text(name).unwrap_or_default();
        if text("client") == client && text("direction") == "up" {
            let (cause, count) = (text("cause"), text("count"));
            problems.push(format!("{client}: {count} lost up: {cause}"));
        }
    }
    problems
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
async fn add_down(route: &AppRoute, stream: &str, seed: u64, over: &CancellationToken) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut n = 0;
    while !over.is_cancelled() {
        for _ in 0..random.random_range(BURST.0..=BURST.1) {
            n += 1;
            if !route.add(stream, n).await {
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

/// Adds the last entry, with a number above all others, and returns the numbers in the stream.
async fn add_last_down<G: RedisGroup>(
    fleet: &PartitionFleet<G>,
    route: &AppRoute,
    stream: &str,
) -> BTreeSet<usize> {
    let begun = Instant::now();
    while !route.add(stream, usize::MAX / 2).await {
        assert!(begun.elapsed() < SETTLING, "{stream}: no server takes the last entry");
        tokio::time::sleep(RETRY).await;
    }
    let entries = fleet.cluster.entries_of(stream).await.expect("all servers are well");
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
