//! `spoke-auth`: the auth service, and the commands that register and revoke clients.

use std::process::ExitCode;

use clap::Parser;
use spoke_auth::AuthCli;
use spoke_service::cli::process;

#[tokio::main]
async fn main() -> ExitCode {
    process("spoke-auth", AuthCli::parse().run()).await
}
