//! `make cluster`: two hubs and two auths on a Redis Cluster of six nodes, with one device, on this machine, in temporary
//! folders, with the real programs. It shows what the loss of a primary costs.

mod parts;

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::FutureExt;
use spoke_tests::{
    cluster::{Cluster, NodeSummary},
    entries::fields,
    redis::RedisServer,
    signals::signals,
};

use crate::parts::{CLIENT, Fleet, arrivals};

/// Shows entries that are carried to a Redis Cluster while its nodes are killed.
#[derive(Debug, Parser)]
#[command(name = "cluster")]
struct Arguments {
    /// Kill a primary, and exit once all entries are there: 0 if each is there once and in order, 1 if not
    #[arg(long)]
    once: bool,
}

/// The time from one entry of the device to the next.
const EVERY: Duration = Duration::from_millis(500);
/// With `--once`: when the primary is killed, and when the last entry is added.
const KILLED_AT: Duration = Duration::from_secs(3);
const FED_FOR: Duration = Duration::from_secs(15);
/// When a node that was killed is started again.
const REVIVED_AFTER: Duration = Duration::from_secs(15);
/// The longest time for the last of them.
const LAST: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The harness reports failures by panics; the demo prints one as a sentence.
    std::panic::set_hook(Box::new(|panic| {
        let words = panic.payload_as_str().unwrap_or("something went wrong");
        eprintln!("\ncluster: {words}\n");
    }));
    // All processes end with this future, whether it completes, fails or is dropped.
    let demo = AssertUnwindSafe(run(arguments)).catch_unwind();
    tokio::select! {
        result = demo => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => {
                eprintln!("The demo failed; the ends of the logs are above.");
                ExitCode::FAILURE
            }
        },
        () = signals() => {
            println!("\nAll processes are stopped and their folders are removed.");
            ExitCode::SUCCESS
        }
    }
}

async fn run(arguments: Arguments) {
    println!("Spoke on a Redis Cluster: two hubs, two auths and one device, on this machine.\n");
    let mut fleet = Fleet::start().await;
    let owner = show_nodes(&fleet).await;
    if arguments.once {
        return kill_and_check(&fleet, owner).await;
    }
    let (owner_pid, owner_port) =
        (fleet.cluster.nodes[owner].pid(), fleet.cluster.nodes[owner].port());
    println!(
        "\nKill the primary with the keys of {CLIENT}, in another terminal. It is started again after {} s:\n",
        REVIVED_AFTER.as_secs()
    );
    println!("  kill -9 {owner_pid}");
    println!(
        "\nOr hang it (kill -STOP {0}, kill -CONT {0}), or give a primary more slots:\n",
        owner_pid
    );
    println!(
        "  redis-cli --cluster rebalance 127.0.0.1:{owner_port} --cluster-weight $(redis-cli -p {owner_port} CLUSTER MYID)=2"
    );
    println!("\nOr kill a hub; the device takes the other one:\n");
    for hub in &mut fleet.hubs {
        println!("  kill -9 {}", hub.process().pid());
    }
    println!("\nWhat an operator sees:\n");
    println!("  {} clients", fleet.hub_command());
    println!("  {} check", fleet.hub_command());
    println!("  {}   # the status page, in a browser", fleet.page());
    println!(
        "\nThe device adds an entry twice a second. Here is when each is in the cluster. Press Ctrl-C to stop \
         everything.\n"
    );
    let Fleet { device, cluster, inbound, .. } = &mut fleet;
    tokio::join!(feed(device, Duration::MAX), show_arrivals(cluster, inbound));
}

/// Prints the nodes, and returns the position of the primary that has the keys of the client.
async fn show_nodes(fleet: &Fleet) -> usize {
    let owner = fleet.cluster.live_owner(&fleet.inbound).await.expect("all slots have an owner");
    println!("\n  {:<8} {:<10} {:<9} SLOTS", "PORT", "PID", "ROLE");
    for (at, node) in fleet.cluster.summary().await.into_iter().enumerate() {
        let NodeSummary { port, pid, role, slots } = node;
        let keys = if at == owner { format!("  the keys of {CLIENT}") } else { String::new() };
        println!("  {port:<8} {pid:<10} {role:<9} {slots}{keys}");
    }
    owner
}

/// Adds numbered entries on the device for a time, and returns the last number.
async fn feed(device: &RedisServer, time: Duration) -> usize {
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(EVERY);
    let mut n = 0;
    while begun.elapsed() < time {
        ticks.tick().await;
        n += 1;
        device.add("spoke-agent:out:x", &fields([("n", n.to_string())])).await;
    }
    n
}

/// Prints entries as they arrive, and starts nodes again that were killed, without end.
async fn show_arrivals(cluster: &mut Cluster, inbound: &str) {
    let mut shown = 0;
    let mut ended: BTreeMap<usize, Instant> = BTreeMap::new();
    let mut ticks = tokio::time::interval(EVERY / 2);
    loop {
        ticks.tick().await;
        for (at, node) in cluster.nodes.iter_mut().enumerate() {
            if !node.has_ended() {
                ended.remove(&at);
                continue;
            }
            let port = node.port();
            let since = *ended.entry(at).or_insert_with(|| {
                println!("  node {port} has ended");
                Instant::now()
            });
            if since.elapsed() > REVIVED_AFTER {
                node.restart().await;
                println!("  node {port} is started again");
            }
        }
        let Some(owner) = cluster.live_owner(inbound).await else { continue };
        let Some(arrivals) = arrivals(cluster, inbound, owner).await else { continue };
        for arrival in arrivals.iter().skip(shown) {
            let port = cluster.nodes[owner].port();
            println!("  entry {:<5} after {:>5} ms, at node {port}", arrival.n, arrival.took_ms);
        }
        shown = arrivals.len().max(shown);
    }
}

async fn kill_and_check(fleet: &Fleet, owner: usize) {
    let pid = fleet.cluster.nodes[owner].pid();
    let ports = fleet.cluster.nodes[owner].port();
    let feeding = feed(&fleet.device, FED_FOR);
    let killing = async {
        tokio::time::sleep(KILLED_AT).await;
        println!("\n  kill -9 {pid}   # the primary at port {ports}");
        fleet.cluster.nodes[owner].send_kill9();
    };
    let (last, ()) = tokio::join!(feeding, killing);
    let begun = Instant::now();
    let arrivals = loop {
        assert!(begun.elapsed() < LAST, "not all entries arrived");
        if let Some(owner) = fleet.cluster.live_owner(&fleet.inbound).await
            && let Some(arrivals) = arrivals(&fleet.cluster, &fleet.inbound, owner).await
            && arrivals.len() >= last
        {
            break arrivals;
        }
        tokio::time::sleep(EVERY).await;
    };
    let numbers: Vec<_> = arrivals.iter().map(|arrival| arrival.n).collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "each entry is there once and in order");
    let longest = arrivals.iter().map(|arrival| arrival.took_ms).max().unwrap_or_default();
    println!(
        "\nIt works: {last} entries, once each and in order; the longest wait was {longest} ms."
    );
}
