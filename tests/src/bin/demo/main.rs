//! `make demo`: one device and a cloud on this machine, in a temporary folder, with the real programs.

mod parts;
mod show;

use std::{
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::FutureExt;
use spoke_tests::{redis::RedisServer, signals::signals, wait::eventually};

use crate::parts::{CLIENT, Demo};

/// Shows an entry travelling from a device to the cloud, and one back.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Exit after the round trip: 0 if it worked, 1 if not
    #[arg(long)]
    once: bool,
}

/// The longest time for an entry, which takes milliseconds.
const CROSSING: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The harness reports failures by panics; the demo prints one as a sentence.
    std::panic::set_hook(Box::new(|panic| {
        let words = panic.payload_as_str().unwrap_or("something went wrong");
        eprintln!("\ndemo: {words}\n");
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
            println!("\nAll processes are stopped and their folder is removed.");
            ExitCode::SUCCESS
        }
    }
}

async fn run(arguments: Arguments) {
    show::title();
    let demo = Demo::start().await;
    show::picture(&demo);
    round_trip(&demo).await;
    if arguments.once {
        println!("\nIt works: both entries arrived, once each.");
        return;
    }
    show::lines_to_try(&demo);
    show::arrivals(&demo).await;
}

async fn round_trip(demo: &Demo) {
    let up = [
        "XADD",
        "spoke-agent:out:x",
        "MAXLEN",
        "~",
        "10000",
        "*",
        "topic",
        "test",
        "payload",
        r#"{"type":"hello-hub"}"#,
    ];
    show::heading("An app on the device adds an entry to its own Redis");
    crossing(&demo.device, &up, (&demo.cloud, "spoke-hub:in:x")).await;

    let stream = format!("spoke-hub:out:{CLIENT}:x");
    let down = [
        "XADD",
        &stream,
        "MAXLEN",
        "~",
        "1000",
        "*",
        "topic",
        "test",
        "payload",
        r#"{"type":"hello-client"}"#,
    ];
    show::heading("An app in the cloud answers the same way");
    crossing(&demo.cloud, &down, (&demo.device, "spoke-agent:in:x")).await;
}

/// Adds an entry with the real `redis-cli` and shows it at the other end.
async fn crossing(from: &RedisServer, line: &[&str], (to, stream): (&RedisServer, &str)) {
    println!("    $ {}", show::command(from, line));
    let begun = Instant::now();
    let added = from.cli(line).await;
    assert_eq!(added.code, Some(0), "redis-cli failed: {}", added.stderr);
    let seq = added.stdout.trim();
    println!("      {seq}\n");
    let awaited = format!("the entry {seq} to arrive in {stream}");
    let arrived = eventually(&awaited, CROSSING, async || {
        let entries = to.entries(stream).await;
        let ours = entries.into_iter().find(|entry| entry.text("seq").as_deref() == Some(seq));
        ours.ok_or("nothing yet")
    })
    .await;
    show::arrival(stream, &arrived, begun.elapsed());
    assert_eq!(to.length(stream).await, 1, "the entry arrived more than once");
}
