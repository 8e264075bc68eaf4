//! `spoke-auth`: the auth service, and the commands by which clients are let in and shut out.

use std::process::ExitCode;

use clap::Parser;
use spoke_auth::commands::{Cli, exit_code};

#[tokio::main]
async fn main() -> ExitCode {
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().expect("no other provider is installed before this one");
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spoke-auth: {error:#}");
            exit_code(&error)
        }
    }
}
