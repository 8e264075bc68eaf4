//! `spoke-auth`: the auth service, and the commands by which clients are let in and shut out.

use std::process::ExitCode;

use clap::Parser;
use spoke_auth::commands::Cli;
use spoke_service::cli::process;

#[tokio::main]
async fn main() -> ExitCode {
    process("spoke-auth", Cli::parse().run()).await
}
