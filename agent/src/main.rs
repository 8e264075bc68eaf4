//! `spoke-agent`: the daemon on a device, and the commands to enrol it and to look after it.

use std::process::ExitCode;

use clap::Parser;
use spoke_agent::AgentCli;
use spoke_service::cli::process;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    process("spoke-agent", AgentCli::parse().run()).await
}
