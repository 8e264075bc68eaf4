//! The command line: `serve`, and the commands of an operator.

mod open_store;
mod format;
mod check;
mod extend;
mod list;
mod provision;
mod revoke;
mod set;
mod show;

use clap::{Parser, Subcommand};
use spoke_service::{
    after_help,
    cli::{CheckArgs, ListenArgs, SettingsArgs, health},
    daemon::Daemon,
};

use crate::config::AuthConfig;

/// Registers devices by a one-time code and hands out session tokens.
#[derive(Debug, Parser)]
#[command(
    name = "spoke-auth",
    version,
    after_help = after_help!("SPOKE_AUTH_REDIS, SPOKE_AUTH_TLS__CERT_FILE")
)]
pub struct AuthCli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: AuthCommand,
}

#[derive(Debug, Subcommand)]
enum AuthCommand {
    /// Run the service
    Serve(ListenArgs),
    /// Let a new client register: create its OTP secret and deadline, and print the command to run on it
    Provision(provision::ProvisionArgs),
    /// List all clients
    List(list::ListArgs),
    /// Show one client
    Show(show::ShowArgs),
    /// Give a client that has not registered yet more time to do so
    Extend(extend::ExtendArgs),
    /// Change how much a client may send
    Set(set::SetArgs),
    /// Revoke a client at once: its sessions end and its live connection is closed
    Revoke(revoke::RevokeArgs),
    /// Check the settings, certificates, Redis and the listeners, with help for each problem; fails if one
    /// of them has to be fixed
    Check(CheckArgs),
    /// Ask the running service whether it is healthy, for a probe in a container; fails if it is not
    Health,
}

impl AuthCli {
    /// Runs the command.
    ///
    /// # Errors
    /// The error to print for the operator.
    pub async fn run(self) -> anyhow::Result<()> {
        let flags = match &self.command {
            AuthCommand::Serve(args) => args.settings(),
            _ => Vec::new(),
        };
        let reader = self.settings.reader::<AuthConfig>(flags);
        let config = reader.read_and_log()?;
        match self.command {
            AuthCommand::Serve(_) => crate::run(Daemon::start(config, reader)?).await,
            AuthCommand::Provision(args) => provision::run(&config, args).await,
            AuthCommand::List(args) => list::run(&config, &args).await,
            AuthCommand::Show(args) => show::run(&config, &args).await,
            AuthCommand::Extend(args) => extend::run(&config, &args).await,
            AuthCommand::Set(args) => set::run(&config, &args).await,
            AuthCommand::Revoke(args) => revoke::run(&config, &args).await,
            AuthCommand::Check(args) => check::run(&config, &self.settings, args).await,
            AuthCommand::Health => health(&config.admin_listen).await,
        }
    }
}
