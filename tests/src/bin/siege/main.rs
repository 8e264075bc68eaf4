//! `make siege`: the effect of hostile clients on others, with the real programs. It prints the latency
//! of two good clients and of `/healthz`, and the hub's memory, under each attack, and fails if a figure
//! is above its bound.

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

/// Attacks a hub, one attack after the other, and measures the effect on other clients.
#[derive(Debug, Parser)]
#[command(name = "siege")]
struct Options {
    /// Run only these attacks
    #[arg(long, value_delimiter = ',')]
    only: Vec<Attack>,
    /// The shortest time for each attack
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How often to repeat an attack that is above a bound: other processes may have slowed it down
    #[arg(long, default_value_t = 0)]
    again: u32,
    /// The path of the JSON file
    #[arg(long, default_value = "target/siege.json")]
    json: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    install_tls();
    // The harness reports failures by panics.
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
        // The processes end when the future is dropped here.
        _ = tokio::signal::ctrl_c() => {
            eprintln!("siege: interrupted");
            return ExitCode::FAILURE;
        }
    }
    report.print_summary();
    if let Err(error) = report.write(&options.json) {
        eprintln!("siege: failed to write {}: {error}", options.json.display());
        return ExitCode::FAILURE;
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures one attack; the last try counts.
async fn measure(attack: Attack, options: &Options, report: &mut Report) {
    for tries_left in (0..=options.again).rev() {
        let span = Duration::from_secs(options.seconds.max(attack.seconds_min()));
        let measured = std::panic::AssertUnwindSafe(Arena::measure(attack, span)).catch_unwind();
        let Ok(figure) = measured.await else { return report.add_failed(attack) };
        if figure.is_good() || tries_left == 0 {
            return report.add(figure);
        }
        println!(
            "| {} is above a bound, trying again: {}",
            attack.name(),
            figure.faults().join("; ")
        );
    }
}
