//! Command line: `serve`, and the commands for operators.

mod check;
mod clients;
mod key;
mod redis;
mod reset_client;
mod send;
mod tail;

use clap::{Parser, Subcommand};
use spoke_service::{
    after_help,
    cli::{CheckArgs, ListenArgs, SettingsArgs, health},
    daemon::Daemon,
};

use crate::config::HubConfig;

/// Collects the entries of all devices in one Redis stream and serves each device its own
#[derive(Debug, Parser)]
#[command(
    name = "spoke-hub",
    version,
    after_help = after_help!("SPOKE_HUB_REDIS, SPOKE_HUB_TLS__CERT_FILE")
)]
pub struct HubCli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: HubCommand,
}

#[derive(Debug, Subcommand)]
enum HubCommand {
    /// Run the service
    Serve(ListenArgs),
    /// List the clients: presence, lag and totals
    Clients(clients::ClientsArgs),
    /// Print entries as they arrive from devices
    Tail(tail::TailArgs),
    /// Add an entry to a client's out stream
    Send(send::SendArgs),
    /// Print the names of a client's keys in Redis, or those of all in streams
    Key(key::KeyArgs),
    /// Start a client's way up again in a new epoch: after someone else sent entries under its
    /// name, or after the hub's Redis was restored from an old backup
    ResetClient(reset_client::ResetClientArgs),
    /// Check settings, certificates, Redis and listeners, with help for each finding; fails if one
    /// has to be fixed
    Check(CheckArgs),
    /// Ask the running service whether it is healthy, for a probe in a container; fails if it is not
    Health,
}

impl HubCli {
    /// Runs the command.
    ///
    /// # Errors
    /// The error to print.
    pub async fn run(self) -> anyhow::Result<()> {
        let flags = match &self.command {
            HubCommand::Serve(args) => args.settings(),
            _ => Vec::new(),
        };
        let reader = self.settings.reader::<HubConfig>(flags);
        let config = reader.read_and_log()?;
        match self.command {
            HubCommand::Serve(_) => crate::run(Daemon::start(config, reader)?).await,
            HubCommand::Clients(args) => clients::run(&config, &args).await,
            HubCommand::Tail(args) => tail::run(&config, &args).await,
            HubCommand::Send(args) => send::run(&config, &args).await,
            HubCommand::Key(args) => key::run(&config, &args).await,
            HubCommand::ResetClient(args) => reset_client::run(&config, &args).await,
            HubCommand::Check(args) => check::run(&config, &self.settings, args).await,
            HubCommand::Health => health(&config.admin_listen).await,
        }
    }
}
