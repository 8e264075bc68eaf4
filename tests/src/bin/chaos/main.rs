//! `make chaos`: load both ways and faults from a seed against the real processes, checked by the oracle.

mod agents;
mod apps;
mod device;
mod evidence;
mod group;
mod group_fault;
mod host;
mod hostile;
mod journal;
mod kept;
mod recovery;
mod storm;
mod world;

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use futures_util::{FutureExt, future::join_all};
use spoke_tests::{
    chaos::{
        checker::Verdict,
        fault::{Fault, Fleet, Row, draw, select},
    },
    cluster::Cluster,
    process::raise_file_limit,
    sentinels::SentinelGroup,
    signals::signals,
    testbed::Testbed,
};
use tokio_util::sync::CancellationToken;

use crate::{
    agents::AgentsArgs,
    apps::{Pace, Place},
    evidence::Found,
    group::{GroupOutcome, GroupRun},
    recovery::Times,
    world::World,
};

/// Runs devices, hubs, auth and their Redis servers under load and faults; then accounts for every entry.
#[derive(Debug, Parser)]
#[command(name = "chaos", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// The seed of load and faults
    #[arg(long)]
    seed: Option<u64>,
    /// The number of runs, each with the next seed; stops at the first failure
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// The duration of the load
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The number of devices
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    devices: u16,
    /// The number of clients of one hub, many on each device; without this option two hubs, and one on each device
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..), conflicts_with_all = ["devices", "alone"])]
    clients: Option<u16>,
    /// The faults to inject: kinds (kill), places (agent), both (kill-agent), or all
    #[arg(long, value_delimiter = ',', default_value = "all")]
    faults: Vec<String>,
    /// The faults to leave out
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Inject one fault at a time, and measure how long recovery takes after its end
    #[arg(long)]
    alone: bool,
    /// Add a client that attacks both hubs all the time
    #[arg(long)]
    hostile: bool,
    /// Instead of these faults, strike the six nodes of a Redis Cluster: kill, hang, failover, a replica that lags, a slot
    /// that moves, no memory, no disk, links between nodes that are cut
    #[arg(long, conflicts_with_all = ["devices", "clients", "faults", "without", "alone", "hostile", "keep", "spoil"])]
    cluster: bool,
    /// The same for a primary and two replicas with three Sentinels
    #[arg(long, conflicts_with_all = ["devices", "clients", "faults", "without", "alone", "hostile", "keep", "spoil", "cluster"])]
    sentinel: bool,
    /// Keep the folder even if the run passes
    #[arg(long)]
    keep: bool,
    /// At the end, delete one entry of a copy and duplicate another, to check that this is found
    #[arg(long)]
    spoil: bool,
}

/// The role of a helper process.
#[derive(Debug, Clone, Subcommand)]
enum Part {
    #[command(hide = true)]
    Agents(AgentsArgs),
}

/// The longest time until everything is carried once all faults are over. A half-open connection is
/// closed after 30 s without progress, and that may happen more than once.
const SETTLING: Duration = Duration::from_secs(180);
/// After the final entries, the time for a duplicate to appear.
const DUPLICATES_WITHIN: Duration = Duration::from_secs(1);
/// Hubs behind one address.
const HUBS: usize = 2;
/// The devices on which many clients are.
const SHARED_DEVICES: usize = 4;
/// A fault of one agent's state directory, for which many share a process.
const NOT_SHARED: &str = "unmounted";

/// The outcome of a run.
struct Outcome {
    total: Verdict,
    made: BTreeMap<String, usize>,
    /// The recovery times, if faults were injected one at a time.
    recovered: Times,
    /// Problems beside those that the oracle found.
    faults: Vec<String>,
    /// How often the hostile client got each answer.
    attacks: BTreeMap<String, usize>,
    settled: Duration,
    found: Found,
}

impl Arguments {
    fn fleet(&self) -> Fleet {
        let devices = self.devices.into();
        match self.clients.map(usize::from) {
            None => Fleet { devices, clients: devices, hubs: HUBS },
            Some(clients) => {
                // At least two on a device.
                let devices = (clients / 2).clamp(1, SHARED_DEVICES);
                Fleet { devices, clients, hubs: 1 }
            }
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if let Some(Part::Agents(part)) = arguments.part.take() {
        agents::run(part).await;
        return ExitCode::FAILURE;
    }
    if arguments.clients.is_some() {
        raise_file_limit();
        arguments.without.push(NOT_SHARED.to_owned());
    }
    let rows = match select(&arguments.faults, &arguments.without) {
        Ok(rows) => rows,
        Err(problem) => {
            eprintln!("chaos: {problem}");
            return ExitCode::from(2);
        }
    };
    // The harness reports failures by panics; the logs are in the folder.
    std::panic::set_hook(Box::new(|panic| eprintln!("chaos: {panic}")));
    let first = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let mut total = GroupOutcome::default();
    let mut is_good = true;
    for seed in first..first + arguments.runs {
        let run = async {
            match arguments.cluster || arguments.sentinel {
                true => on_group(&arguments, seed, &mut total).await,
                false => in_folder(&arguments, seed, &rows).await,
            }
        };
        is_good = tokio::select! {
            is_good = run => is_good,
            () = signals() => {
                eprintln!("chaos: seed {seed} was interrupted");
                false
            }
        };
        if !is_good {
            break;
        }
    }
    if arguments.runs > 1 && !total.made.is_empty() {
        let GroupOutcome { up, down, .. } = total;
        println!("all runs: {}; {up} entries up, {down} down", total.faults());
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs once on a group of Redis servers, with a temporary folder that is kept if something is wrong.
async fn on_group(arguments: &Arguments, seed: u64, total: &mut GroupOutcome) -> bool {
    let word = if arguments.sentinel { "sentinel" } else { "cluster" };
    println!("seed {seed}: {} s of load, {word}", arguments.seconds);
    let folder = tempfile::Builder::new().prefix(&format!("spoke-chaos-{word}-{seed}-")).tempdir();
    let folder = folder.expect("a temporary folder can be made");
    let time = Duration::from_secs(arguments.seconds);
    let run = GroupRun { seed, time, folder: folder.path() };
    let run = async {
        let testbed = Testbed::new(folder.path());
        match arguments.sentinel {
            true => group::run(SentinelGroup::start_on(testbed, folder.path()).await, run).await,
            false => group::run(Cluster::start_on(testbed).await, run).await,
        }
    };
    let outcome = AssertUnwindSafe(run).catch_unwind().await.ok().flatten();
    let is_good = outcome.as_ref().is_some_and(|outcome| outcome.problems.is_empty());
    if let Some(outcome) = outcome {
        let GroupOutcome { up, down, settled, problems, .. } = &outcome;
        println!("seed {seed}: {}", outcome.faults());
        println!(
            "seed {seed}: {up} entries up, each once and in order; {down} down; settled in {:.1} s",
            settled.as_secs_f64()
        );
        problems.iter().for_each(|problem| println!("seed {seed}: {problem}"));
        total.add(&outcome);
    }
    if !is_good {
        println!("seed {seed}: logs, Redis files and listings are in {}", folder.keep().display());
    }
    println!("seed {seed}: {}", if is_good { "passed" } else { "FAILED" });
    is_good
}

/// Runs once in a temporary folder, which is kept if something is wrong.
async fn in_folder(arguments: &Arguments, seed: u64, rows: &[Row]) -> bool {
    let folder = tempfile::Builder::new().prefix(&format!("spoke-chaos-{seed}-")).tempdir();
    let folder = folder.expect("a temporary folder can be made");
    let Fleet { devices, clients, hubs } = arguments.fleet();
    println!(
        "seed {seed}: {} s of load, {devices} devices, {clients} clients, {hubs} hubs",
        arguments.seconds
    );
    // The folder outlives a panic.
    let run = AssertUnwindSafe(run(arguments, seed, rows, folder.path())).catch_unwind().await;
    let is_good = run.is_ok_and(|outcome| {
        print_outcome(seed, &outcome);
        outcome.total.is_good() && outcome.faults.is_empty()
    });
    if arguments.keep || !is_good {
        println!("seed {seed}: logs, Redis files and listings are in {}", folder.keep().display());
    }
    is_good
}

async fn run(arguments: &Arguments, seed: u64, rows: &[Row], folder: &Path) -> Outcome {
    let fleet = arguments.fleet();
    let faults = draw(seed, arguments.seconds * 1000, fleet, rows);
    write_schedule(folder, &faults);
    let world = World::start(folder, fleet, !arguments.alone).await;
    tokio::select! {
        outcome = run_load_and_faults(&world, arguments, seed, faults) => {
            outcome.found.write(folder);
            outcome
        }
        () = world.supervise_forever() => unreachable!("supervision never ends"),
    }
}

/// Runs load and faults, waits for everything to be carried, and gathers the evidence.
async fn run_load_and_faults(
    world: &World,
    arguments: &Arguments,
    seed: u64,
    faults: Vec<Fault>,
) -> Outcome {
    let places = apps::places(world);
    let over = CancellationToken::new();
    let load = Duration::from_secs(arguments.seconds);
    let end = || {
        world.journal.note("the load is over");
        over.cancel();
    };
    let pace = match (arguments.alone, arguments.clients) {
        (true, _) => Pace::Steady,
        (false, None) => Pace::Bursts,
        (false, Some(_)) => Pace::Sparse,
    };
    let apps = places.iter().map(|place| apps::run(world, *place, (seed, pace), &over));
    let faults = async {
        if arguments.alone {
            let times = recovery::run_one_by_one(world, faults, &places, load).await;
            end();
            (times.iter().map(|(name, times)| (name.clone(), times.len())).collect(), times)
        } else {
            let ending = tokio::time::sleep(load).map(|()| end());
            (tokio::join!(storm::run_schedule(world, faults, &over), ending).0, Times::new())
        }
    };
    let attack = async {
        match arguments.hostile {
            true => hostile::attack(world, seed, &over).await,
            false => BTreeMap::new(),
        }
    };
    let ((made, recovered), numbers, attacks) = tokio::join!(faults, join_all(apps), attack);
    // After all faults: Redis must not forget a final entry.
    let adding = places.iter().zip(numbers).map(async |(place, number)| {
        (*place, apps::add_final_entry(world, *place, seed, number).await)
    });
    let final_entries = join_all(adding).await;
    world.journal.note("all faults are over, and all final entries are added");

    let begun = Instant::now();
    let mut faults = settle(world, &final_entries).await;
    faults.extend(recovery::late(&recovered));
    let settled = begun.elapsed();
    tokio::time::sleep(DUPLICATES_WITHIN).await;
    if arguments.spoil {
        evidence::spoil(world).await;
    }
    let found = evidence::gather(world, &places).await;
    faults.extend(world.unexpected_exits.lock().await.iter().cloned());
    let total = found.verdicts.values().cloned().fold(Verdict::default(), Verdict::and);
    Outcome { total, made, recovered, faults, attacks, settled, found }
}

/// Waits until each final entry has arrived; returns a problem for each that has not.
async fn settle(world: &World, final_entries: &[(Place, u64)]) -> Vec<String> {
    let missing = evidence::missing_after(world, final_entries, SETTLING).await;
    let problem = |name| format!("the final entry {name} did not arrive within {SETTLING:?}");
    missing.into_iter().map(problem).collect()
}

fn write_schedule(folder: &Path, faults: &[Fault]) {
    let lines = faults.iter().map(|fault| format!("{} {fault:?}\n", fault.name()));
    std::fs::write(folder.join("schedule.txt"), lines.collect::<String>())
        .expect("a file can be written");
}

fn print_outcome(seed: u64, outcome: &Outcome) {
    let Outcome { total, made, recovered, faults, attacks, settled, .. } = outcome;
    let count: usize = made.values().sum();
    let names: Vec<_> = made.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("seed {seed}: {count} faults: {}", names.join(", "));
    print!("{}", recovery::table(recovered));
    if !attacks.is_empty() {
        let answers: Vec<_> = attacks.iter().map(|(what, n)| format!("{what} {n}")).collect();
        println!("seed {seed}: a hostile client: {}", answers.join(", "));
    }
    println!("seed {seed}: {total}; settled in {:.1} s", settled.as_secs_f64());
    for (word, faults) in total.faults() {
        faults.iter().take(5).for_each(|fault| println!("seed {seed}: {word}: {fault}"));
    }
    faults.iter().for_each(|fault| println!("seed {seed}: {fault}"));
    let is_good = total.is_good() && faults.is_empty();
    println!("seed {seed}: {}", if is_good { "passed" } else { "FAILED" });
}
