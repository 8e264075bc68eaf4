//! `make bench`: speed, size and cost, measured on the real processes in one run.

mod agent;
mod drain;
mod figure;
mod fleet;
mod header;
mod latency;
mod link;
mod load;
mod peers;
mod sampler;
mod samples;
mod wire;

use std::{panic::AssertUnwindSafe, path::PathBuf, process::ExitCode, time::Instant};

use clap::{Parser, Subcommand, ValueEnum};
use futures_util::FutureExt;
use tokio::{
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
    task::block_in_place,
};

use crate::{
    figure::{Figure, Report},
    fleet::{
        fan_in::loader::{Load, load},
        play::{Play, play},
    },
};

/// Measures the built services on real Redis servers; prints a table and writes the same as JSON.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Small loads and few runs: a quick check within minutes, not a measurement
    #[arg(long)]
    quick: bool,
    /// Measure the peers that are installed (nats-server, mosquitto) in the same run
    #[arg(long)]
    peers: bool,
    /// How often each figure is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Measure only these groups of figures
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
    /// The path of the JSON file
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
    /// The path of the picture of the fan-in curves
    #[arg(long, default_value = "target/fan-in.svg")]
    svg: PathBuf,
}

/// The role of a helper process of the benchmark.
#[derive(Debug, Clone, Subcommand)]
enum Part {
    #[command(hide = true)]
    Play(Play),
    #[command(hide = true)]
    Load(Load),
}

/// Figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// A backlog, up and down, compared with Redis alone and with the peers
    Drain,
    /// One entry at a time, idle and under load, compared with the peers
    Latency,
    /// Five minutes at half of the full load
    Sustained,
    /// Bytes on the wire for an entry and for an idle hour
    Wire,
    /// The agent's size, its memory and its idle CPU time
    Agent,
    /// A thousand clients that each publish a little, and more, compared with the peers
    FanIn,
    /// The cost of an entry on one, two and three primaries of a cluster, compared with one Redis
    Partitions,
    /// Ten thousand idle clients
    Idle,
    /// An entry for one client of many
    Wake,
    /// A hub that restarts with ten thousand clients
    Storm,
}

impl Options {
    /// How often a figure is measured.
    fn runs(&self) -> usize {
        if self.quick { 1 } else { self.runs.into() }
    }

    /// The full load, or the quick one.
    fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// The program of a peer, if it is requested and installed.
    fn peer(&self, name: &str) -> Option<PathBuf> {
        self.peers.then(|| peers::find(name)).flatten()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut options = Options::parse();
    match options.part.take() {
        Some(Part::Play(part)) => {
            play(part).await;
            return ExitCode::SUCCESS;
        }
        Some(Part::Load(part)) => {
            block_in_place(|| load(&part));
            return ExitCode::SUCCESS;
        }
        None => {}
    }
    let begun = Instant::now();
    let header = header::header();
    println!("{header:#}\n");
    for name in peers::PROGRAMS {
        if options.peers && peers::find(name).is_none() {
            println!("{name}: not installed; `scripts/setup peers` fetches it");
        }
    }
    let mut report = Report::new(header);
    tokio::select! {
        () = measure_all(&options, &mut report) => {}
        // The processes end when the future is dropped here.
        () = interrupted() => {
            eprintln!("bench: interrupted");
            return ExitCode::FAILURE;
        }
    }
    println!("\nmeasured in {} s", begun.elapsed().as_secs());
    match report.write(&options.json) {
        Ok(()) if report.is_complete() => ExitCode::SUCCESS,
        Ok(()) => {
            eprintln!("bench: some figures could not be measured, see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: failed to write {}: {error}", options.json.display());
            ExitCode::FAILURE
        }
    }
}

/// Resolves at Ctrl-C or SIGTERM.
async fn interrupted() {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened for");
    tokio::select! {
        _ = ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

async fn measure_all(options: &Options, report: &mut Report) {
    for group in Group::value_variants() {
        if options.only.is_empty() || options.only.contains(group) {
            // The harness reports failures by panics.
            match AssertUnwindSafe(measure(*group, options)).catch_unwind().await {
                Ok(figures) => report.add(figures),
                Err(_) => report.add_failed(format!("{group:?}")),
            }
        }
    }
}

async fn measure(group: Group, options: &Options) -> Vec<Figure> {
    match group {
        Group::Drain => drain::measure(options).await,
        Group::Latency => latency::measure(options).await,
        Group::Sustained => latency::measure_sustained(options).await,
        Group::Wire => wire::measure(options).await,
        Group::Agent => agent::measure(options).await,
        Group::FanIn => fleet::fan_in(options).await,
        Group::Partitions => fleet::fan_in::partitions::measure(options).await,
        Group::Idle => fleet::idle(options).await,
        Group::Wake => fleet::wake(options).await,
        Group::Storm => fleet::storm(options).await,
    }
}
