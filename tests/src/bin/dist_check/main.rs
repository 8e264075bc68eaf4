//! The checks of `make dist-check` for one architecture: the programs of a release as a device and a cloud, on real
//! Redis servers.
//!
//! `scripts/check-dist` says how the programs are started. The agent, auth and the hub that carry entries are
//! those of the folder in `SPOKE_TEST_BIN_DIR`: an agent that is emulated has a cloud that is not.

mod deployment;

use std::{
    fs,
    panic::AssertUnwindSafe,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::FutureExt;
use spoke_tests::{
    entries::{Fields, every_byte, fields},
    process::Start,
    process_usage::{resident_bytes, resident_bytes_max},
    signals::signals,
    traffic::{FeedPace, Traffic, copy_lengths},
    wait::{PATIENCE, eventually},
};
use tokio::time::sleep;

use crate::deployment::{CLIENT, Deployment, succeed};

const PROGRAMS: [&str; 3] = ["spoke-agent", "spoke-hub", "spoke-auth"];
/// Entries each way across the kill.
const ENTRIES: usize = 3_000;
/// Those that are added before the kill, so that it is in the middle.
const ENTRIES_BEFORE_KILL: usize = 2_000;
/// The agent is killed when this many are in each copy.
const ENTRIES_AT_KILL: usize = 500;
/// Entries each way for the memory of a drain.
const BACKLOG: usize = 25_000;
/// Slow enough to kill the agent meanwhile.
const SLOW: FeedPace = (10, Duration::from_millis(1));
/// All at once.
const FAST: FeedPace = (BACKLOG, Duration::ZERO);
/// After this, nothing of the connection's start is still running.
const SETTLING: Duration = Duration::from_secs(3);
/// The longest time for the backlog, which takes an emulated agent a few seconds.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// Checks the programs of a release.
#[derive(Debug, Parser)]
#[command(name = "dist_check")]
struct Arguments {
    /// What is checked, for the output
    #[arg(long)]
    title: String,
    /// The folder with the programs, for their sizes
    #[arg(long)]
    programs: PathBuf,
    /// The folder with commands that run these programs
    #[arg(long)]
    commands: PathBuf,
    /// An emulator runs the programs, and its memory is measured with theirs
    #[arg(long)]
    emulated: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The harness reports failures by panics.
    let title = arguments.title.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let words = panic.payload_as_str().unwrap_or("something went wrong");
        eprintln!("check-dist: {title}: failed: {words}");
    }));
    // All processes end with this future, whether it completes, fails or is dropped.
    let checks = AssertUnwindSafe(check(&arguments)).catch_unwind();
    tokio::select! {
        result = checks => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        () = signals() => ExitCode::FAILURE,
    }
}

async fn check(arguments: &Arguments) {
    let step = |text: &str| println!("check-dist: {}: {text}", arguments.title);
    for program in PROGRAMS {
        let version = Start::with(&["--version"]);
        let shown = succeed(&arguments.commands.join(program), &version).await.stdout;
        let expected = format!("{program} {}\n", env!("CARGO_PKG_VERSION"));
        assert!(shown == expected, "expected {expected:?} of {program} --version, got {shown:?}");
    }
    step("all three programs print their version");
    let mut deployment = Deployment::start().await;
    step("auth and the hub serve over TLS");
    deployment.enrol().await;
    step("the agent is enrolled with a one-time secret");
    deployment.start_agent().await;
    deployment.check().await;
    step("spoke-agent check passes");
    sleep(SETTLING).await;
    let idle = resident_bytes(deployment.agent_pid());

    let mut traffic = Traffic::new(CLIENT, entry);
    let (up, down) = kill_in_the_middle(&mut deployment, &mut traffic).await;
    step(&format!("kill -9 with {up} entries up and {down} down carried, of {ENTRIES} each"));
    traffic.feed(&deployment.device, &deployment.cloud, ENTRIES - ENTRIES_BEFORE_KILL, FAST).await;
    deployment.start_agent().await;
    traffic.assert_carried(&deployment.device, &deployment.cloud, PATIENCE).await;
    step(&format!("{ENTRIES} entries each way are carried once, in order and unchanged"));
    deployment.stop_agent().await;
    step("SIGTERM ends the agent with 0");

    traffic.feed(&deployment.device, &deployment.cloud, BACKLOG, FAST).await;
    let begun = Instant::now();
    deployment.start_agent().await;
    traffic.assert_carried(&deployment.device, &deployment.cloud, DRAIN_MAX).await;
    let took = begun.elapsed().as_secs_f64();
    let drain = resident_bytes_max(deployment.agent_pid());
    step(&format!("{BACKLOG} more each way, a backlog, are carried in {took:.1} s"));
    deployment.stop_agent().await;
    print_figures(arguments, idle, drain);
}

/// Adds entries both ways and kills the agent meanwhile. Returns how many are in the copies then, up and down.
async fn kill_in_the_middle(deployment: &mut Deployment, traffic: &mut Traffic) -> (usize, usize) {
    let mut agent = deployment.take_agent();
    let Deployment { device, cloud, .. } = &*deployment;
    let feeding = traffic.feed(device, cloud, ENTRIES_BEFORE_KILL, SLOW);
    let enough = async {
        eventually("entries in both copies", PATIENCE, async || {
            let lengths = copy_lengths(device, cloud).await;
            let (up, down) = lengths;
            if up.min(down) >= ENTRIES_AT_KILL { Ok(()) } else { Err(lengths) }
        })
        .await;
        agent.kill9();
    };
    tokio::join!(feeding, enough);
    let (up, down) = copy_lengths(device, cloud).await;
    assert!(up.max(down) < ENTRIES, "the agent was killed too late");
    (up, down)
}

fn entry(number: usize) -> Fields {
    let payload = every_byte(100 + number % 100);
    fields([
        ("topic", b"test".to_vec()),
        ("n", number.to_string().into_bytes()),
        ("payload", payload),
    ])
}

/// Prints a table for BENCHMARKS.md.
fn print_figures(arguments: &Arguments, idle: u64, drain: u64) {
    let sizes = PROGRAMS.map(|program| {
        let data = fs::metadata(arguments.programs.join(program)).expect("the program exists");
        format!("{:.2}", megabytes(data.len()))
    });
    let with = if arguments.emulated { ", with the emulator's" } else { "" };
    println!();
    println!("| {} | measured |", arguments.title);
    println!("| --- | --- |");
    println!("| programs, stripped: agent, hub, auth | {} MB |", sizes.join(", "));
    println!("| agent: memory idle (VmRSS{with}) | {:.1} MB |", megabytes(idle));
    println!(
        "| agent: memory at the drain of {BACKLOG} entries each way (VmHWM{with}) | {:.1} MB |",
        megabytes(drain)
    );
    println!();
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
