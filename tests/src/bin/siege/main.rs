//! `make siege`: what hostile clients do to everybody else, against the real programs. It prints the
//! latency of two good clients and of `/healthz`, and the hub's memory, under each attack, and fails
//! above the bounds.

mod arena;
mod attack;
mod attacks;
mod figure;
mod flood;
mod victim;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use futures_util::FutureExt;
use spoke_tests::api::install_tls;

use crate::{arena::Arena, attack::Attack, figure::Report};

/// Attacks a hub of its own, one attack after the other, and measures what others notice.
#[derive(Debug, Parser)]
#[command(name = "siege")]
struct Options {
    /// Only these attacks
    #[arg(long, value_delimiter = ',')]
    only: Vec<Attack>,
    /// How long each lasts at the least
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How often an attack that is above a bound is tried again: another process may have had the machine
    #[arg(long, default_value_t = 0)]
    again: u32,
    /// Where the JSON goes
    #[arg(long, default_value = "target/siege.json")]
    json: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    install_tls();
    // The harness tells of what does not come about by panics.
    std::panic::set_hook(Box::new(|panic| eprintln!("siege: {panic}")));
    let mut report = Report::new();
    let measured = async {
        for attack in Attack::value_variants() {
            if options.only.is_empty() || options.only.contains(attack) {
                measure(*attack, &options, &mut report).await;
            }
        }
    };
    tokio::select! {
        () = measured => {}
        // What was started ends with what is dropped here.
        _ = tokio::signal::ctrl_c() => {
            eprintln!("siege: ended before its time");
            return ExitCode::FAILURE;
        }
    }
    report.print_end();
    if let Err(error) = report.write(&options.json) {
        eprintln!("siege: failed to write {}: {error}", options.json.display());
        return ExitCode::FAILURE;
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The last try counts.
async fn measure(attack: Attack, options: &Options, report: &mut Report) {
    for tries_left in (0..=options.again).rev() {
        let span = Duration::from_secs(options.seconds.max(attack.seconds_min()));
        let besieged = std::panic::AssertUnwindSafe(Arena::besiege(attack, span)).catch_unwind();
        let Ok(figure) = besieged.await else { return report.add_failed(attack) };
        if figure.is_good() || tries_left == 0 {
            return report.add(figure);
        }
        println!("| {} above a bound, once more: {}", attack.name(), figure.faults().join("; "));
    }
}
