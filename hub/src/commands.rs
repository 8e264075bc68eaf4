//! The command line: `serve`, and what shows an operator what goes through the hub.

mod check;
mod clients;
mod reset_client;
mod send;
mod serve;
mod tail;

use anyhow::Context;
use clap::{Parser, Subcommand};
use spoke_service::{
    cli::{CheckArgs, ListenArgs, SettingsArgs},
    logging,
};
use spoke_store::{Redis, keys::HubKeys};

use crate::config::Config;

/// Takes the entries of all devices into one Redis stream and serves each device its own.
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
    /// List the clients: who is connected, how far they are, when they were last seen
    Clients(clients::Args),
    /// Print entries as they arrive from devices
    Tail(tail::Args),
    /// Add an entry to a client's out stream
    Send(send::Args),
    /// Begin a client's way up anew, in a new epoch: where somebody else wrote in its name, or the hub's
    /// Redis was restored from an old backup
    ResetClient(reset_client::Args),
    /// Look at the settings, certificates, Redis and the listeners, each with its mend; fails where
    /// something cannot stay as it is
    Check(CheckArgs),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What a person should read.
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

fn redis(config: &Config) -> anyhow::Result<Redis> {
    let key = HubKeys::new(&config.key_prefix).probe();
    Redis::open_writable(&config.redis, key).context("failed to use the setting `redis`")
}
