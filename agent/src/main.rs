//! `spoke-agent`: the daemon on a device, and the commands to enrol it and to look after it.

use std::process::ExitCode;

use clap::Parser;
use spoke_agent::commands::{Cli, exit_code};

#[tokio::main]
async fn main() -> ExitCode {
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().expect("no other provider is installed before this one");
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spoke-agent: {error:#}");
            exit_code(&error)
        }
    }
}
