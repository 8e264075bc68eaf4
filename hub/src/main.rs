//! `spoke-hub`: the hub, and the commands that show what goes through it.

use std::process::ExitCode;

use clap::Parser;
use spoke_hub::HubCli;
use spoke_service::cli::process;

#[tokio::main]
async fn main() -> ExitCode {
    process("spoke-hub", HubCli::parse().run()).await
}
