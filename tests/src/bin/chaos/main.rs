//! `make chaos`: load both ways and faults from a seed against the real processes, and the oracle.

mod apps;
mod evidence;
mod host;
mod hostile;
mod journal;
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

use clap::Parser;
use futures_util::{FutureExt, future::join_all};
use spoke_tests::chaos::{
    checker::Verdict,
    fault::{Fault, Fleet, Row, draw, select},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    apps::{Pace, Place},
    evidence::Found,
    recovery::Times,
    world::World,
};

/// Devices, two hubs, auth and their Redis servers under load and faults; then the count.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// Where load and faults are drawn from
    #[arg(long)]
    seed: Option<u64>,
    /// How many runs, each with the next seed; the first that fails ends it
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// For how long there is load
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many devices
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    devices: u16,
    /// What may go wrong: kinds (kill), places (agent), both (kill-agent), or all
    #[arg(long, value_delimiter = ',', default_value = "all")]
    faults: Vec<String>,
    /// And what of that may not
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// One fault at a time, and how long after its end everything works again
    #[arg(long)]
    alone: bool,
    /// One more client, which attacks both hubs all the time
    #[arg(long)]
    hostile: bool,
    /// Leave the folder when all is well, too
    #[arg(long)]
    keep: bool,
    /// In the end take one entry out of a copy and repeat another, to see that this is found
    #[arg(long)]
    spoil: bool,
}

/// How long everything may take to be carried once all faults are over. A connection that is half
/// open is given up after 30 s without progress, and that may happen more than once.
const SETTLING: Duration = Duration::from_secs(180);
/// Behind the last word: whatever would come twice comes now.
const ECHO: Duration = Duration::from_secs(1);
/// Behind one address.
const HUBS: usize = 2;

/// What a run came to.
struct Outcome {
    total: Verdict,
    made: BTreeMap<String, usize>,
    /// How long everything took to work again, where faults were made one at a time.
    recovered: Times,
    /// What is wrong beside what the oracle found.
    faults: Vec<String>,
    /// What the hostile client was answered, and how often.
    attacks: BTreeMap<String, usize>,
    settled: Duration,
    found: Found,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let rows = match select(&arguments.faults, &arguments.without) {
        Ok(rows) => rows,
        Err(problem) => {
            eprintln!("chaos: {problem}");
            return ExitCode::from(2);
        }
    };
    // The harness tells of what does not come up by panics; the logs are in the folder.
    std::panic::set_hook(Box::new(|panic| eprintln!("chaos: {panic}")));
    let first = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    for seed in first..first + arguments.runs {
        let is_good = tokio::select! {
            is_good = in_folder(&arguments, seed, &rows) => is_good,
            () = signals() => {
                eprintln!("chaos: seed {seed} was ended before its time");
                false
            }
        };
        if !is_good {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Resolves at Ctrl-C or SIGTERM.
async fn signals() {
    let stream = |kind| signal(kind).expect("signals can be listened for");
    let (mut interrupt, mut terminate) =
        (stream(SignalKind::interrupt()), stream(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// One run in a folder of its own, which stays when something is wrong.
async fn in_folder(arguments: &Arguments, seed: u64, rows: &[Row]) -> bool {
    let folder = tempfile::Builder::new().prefix(&format!("spoke-chaos-{seed}-")).tempdir();
    let folder = folder.expect("a temporary folder can be made");
    println!("seed {seed}: {} s of load, {} devices", arguments.seconds, arguments.devices);
    // The folder outlives a panic.
    let run = AssertUnwindSafe(run(arguments, seed, rows, folder.path())).catch_unwind().await;
    let is_good = run.is_ok_and(|outcome| {
        tell(seed, &outcome);
        outcome.total.is_good() && outcome.faults.is_empty()
    });
    if arguments.keep || !is_good {
        println!("seed {seed}: logs, files and lists are in {}", folder.keep().display());
    }
    is_good
}

async fn run(arguments: &Arguments, seed: u64, rows: &[Row], folder: &Path) -> Outcome {
    let fleet = Fleet { devices: arguments.devices.into(), hubs: HUBS };
    let faults = draw(seed, arguments.seconds * 1000, fleet, rows);
    write_schedule(folder, &faults);
    let world = World::start(folder, fleet, !arguments.alone).await;
    tokio::select! {
        outcome = weather(&world, arguments, seed, faults) => {
            outcome.found.write(folder);
            outcome
        }
        () = world.tend_forever() => unreachable!("it does not end"),
    }
}

/// Load and faults, and what came of them.
async fn weather(world: &World, arguments: &Arguments, seed: u64, faults: Vec<Fault>) -> Outcome {
    let places = apps::places(world);
    let over = CancellationToken::new();
    let load = Duration::from_secs(arguments.seconds);
    let end = || {
        world.journal.note("the load is over");
        over.cancel();
    };
    let pace = if arguments.alone { Pace::Steady } else { Pace::Bursts };
    let apps = places.iter().map(|place| apps::run(world, *place, (seed, pace), &over));
    let storm = async {
        if arguments.alone {
            let times = recovery::rage(world, faults, &places, load).await;
            end();
            (times.iter().map(|(name, times)| (name.clone(), times.len())).collect(), times)
        } else {
            let ending = tokio::time::sleep(load).map(|()| end());
            (tokio::join!(storm::rage(world, faults, &over), ending).0, Times::new())
        }
    };
    let attack = async {
        match arguments.hostile {
            true => hostile::attack(world, seed, &over).await,
            false => BTreeMap::new(),
        }
    };
    let ((made, recovered), numbers, attacks) = tokio::join!(storm, join_all(apps), attack);
    // Not before all faults are over: a last word must not be forgotten.
    let words = places
        .iter()
        .zip(numbers)
        .map(async |(place, number)| (*place, apps::last_word(world, *place, seed, number).await));
    let last_words = join_all(words).await;
    world.journal.note("all faults are over, and all have said their last word");

    let begun = Instant::now();
    let mut faults = settle(world, &last_words).await;
    faults.extend(recovery::late(&recovered));
    let settled = begun.elapsed();
    tokio::time::sleep(ECHO).await;
    if arguments.spoil {
        evidence::spoil(world).await;
    }
    let found = evidence::gather(world, &places).await;
    faults.extend(world.deaths.lock().await.iter().cloned());
    let total = found.verdicts.values().cloned().fold(Verdict::default(), Verdict::and);
    Outcome { total, made, recovered, faults, attacks, settled, found }
}

/// Waits until each last word has arrived; gives what has not.
async fn settle(world: &World, last_words: &[(Place, u64)]) -> Vec<String> {
    let waits = last_words.iter().map(async |(place, number)| {
        let arrival = evidence::arrival(world, *place, *number);
        let has_arrived = tokio::time::timeout(SETTLING, arrival).await.is_ok();
        let name = place.name(world);
        (!has_arrived).then(|| format!("{name}/{number}, the last, did not arrive in {SETTLING:?}"))
    });
    join_all(waits).await.into_iter().flatten().collect()
}

fn write_schedule(folder: &Path, faults: &[Fault]) {
    let lines = faults.iter().map(|fault| format!("{} {fault:?}\n", fault.name()));
    std::fs::write(folder.join("schedule.txt"), lines.collect::<String>())
        .expect("a file can be written");
}

fn tell(seed: u64, outcome: &Outcome) {
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
