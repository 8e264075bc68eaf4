//! `spoke-hub`: the hub, and the commands that show what goes through it.

use std::process::ExitCode;

use clap::Parser;
use spoke_hub::commands::{Cli, exit_code};

#[tokio::main]
async fn main() -> ExitCode {
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().expect("no other provider is installed before this one");
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spoke-hub: {error:#}");
            exit_code(&error)
        }
    }
}
