//! `make bench`: how fast, how small and how cheap, measured on the real processes in one run.

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
use tokio::signal::{
    ctrl_c,
    unix::{SignalKind, signal},
};

use crate::{
    figure::{Figure, Report},
    fleet::play::{Play, play},
};

/// Measures the built services on real Redis servers; a table, and the same as JSON.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Small loads and few runs: a look within a minute, not a measurement
    #[arg(long)]
    quick: bool,
    /// Measure the peers that are installed (nats-server, mosquitto) in the same run
    #[arg(long)]
    peers: bool,
    /// How often each figure is taken; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Only these groups of figures
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
    /// Where the JSON goes
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

/// What a process of the benchmark's own does.
#[derive(Debug, Clone, Subcommand)]
enum Part {
    #[command(hide = true)]
    Play(Play),
}

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// A backlog, up and down, beside what Redis alone takes and what the peers do
    Drain,
    /// One entry at a time, idle and under load, beside the peers
    Latency,
    /// Bytes of an entry and of an idle hour
    Wire,
    /// The agent's size, its memory and its idle processor time
    Agent,
    /// A thousand clients that each say a little
    FanIn,
    /// Ten thousand clients that say nothing
    Idle,
    /// An entry for one of many
    Wake,
    /// A hub that restarts under ten thousand clients
    Storm,
}

impl Options {
    /// How often a figure is taken.
    fn runs(&self) -> usize {
        if self.quick { 1 } else { self.runs.into() }
    }

    /// A load, or its small sibling.
    fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// The program of a peer, if it is asked for and installed.
    fn peer(&self, name: &str) -> Option<PathBuf> {
        self.peers.then(|| peers::find(name)).flatten()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut options = Options::parse();
    if let Some(Part::Play(part)) = options.part.take() {
        play(part).await;
        return ExitCode::SUCCESS;
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
        // What was started ends with what is dropped here.
        () = ended() => {
            eprintln!("bench: ended before its time");
            return ExitCode::FAILURE;
        }
    }
    println!("\nmeasured in {} s", begun.elapsed().as_secs());
    match report.write(&options.json) {
        Ok(()) if report.is_complete() => ExitCode::SUCCESS,
        Ok(()) => {
            eprintln!("bench: not all could be measured, see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: failed to write {}: {error}", options.json.display());
            ExitCode::FAILURE
        }
    }
}

/// Resolves at Ctrl-C or SIGTERM.
async fn ended() {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened for");
    tokio::select! {
        _ = ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

async fn measure_all(options: &Options, report: &mut Report) {
    for group in Group::value_variants() {
        if options.only.is_empty() || options.only.contains(group) {
            // The harness tells of what does not come about by panics.
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
        Group::Wire => wire::measure(options).await,
        Group::Agent => agent::measure(options).await,
        Group::FanIn => fleet::fan_in(options).await,
        Group::Idle => fleet::idle(options).await,
        Group::Wake => fleet::wake(options).await,
        Group::Storm => fleet::storm(options).await,
    }
}
