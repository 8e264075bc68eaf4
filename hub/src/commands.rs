//! Command line: `serve`, and the commands for operators.

mod check;
mod clients;
mod redis;
mod reset_client;
mod send;
mod serve;
mod tail;

use clap::{Parser, Subcommand};
use spoke_service::{
    cli::{CheckArgs, ListenArgs, SettingsArgs},
    logging,
};

use crate::config::Config;

/// Collects the entries of all devices in one Redis stream and serves each device its own
#[derive(Debug, Parser)]
#[command(name = "spoke-hub", version, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every setting can also come from the environment: SPOKE_HUB_REDIS, SPOKE_HUB_TLS__CERT_FILE, …

Exit codes: 0 done, 1 failed, 2 bad usage, 78 bad settings.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(ListenArgs),
    /// List the clients: presence, lag and totals
    Clients(clients::Args),
    /// Print entries as they arrive from devices
    Tail(tail::Args),
    /// Add an entry to a client's out stream
    Send(send::Args),
    /// Start a client's way up again in a new epoch: after someone else sent entries under its
    /// name, or after the hub's Redis was restored from an old backup
    ResetClient(reset_client::Args),
    /// Check settings, certificates, Redis and listeners, with help for each finding; fails if one
    /// has to be fixed
    Check(CheckArgs),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// The error to print.
    pub async fn run(self) -> anyhow::Result<()> {
        let flags = match &self.command {
            Command::Serve(args) => args.settings(),
            _ => Vec::new(),
        };
        let settings = self.settings;
        let given = settings.clone();
        let read = move || {
            let config: Config = settings.load("hub", flags.clone())?;
            config.validate()?;
            Ok(config)
        };
        let config = read()?;
        logging::init(&config.log)?;
        match self.command {
            Command::Serve(_) => serve::run(config, read).await,
            Command::Clients(args) => clients::run(&config, &args).await,
            Command::Tail(args) => tail::run(&config, &args).await,
            Command::Send(args) => send::run(&config, &args).await,
            Command::ResetClient(args) => reset_client::run(&config, &args).await,
            Command::Check(args) => check::run(&config, &given, args).await,
        }
    }
}
