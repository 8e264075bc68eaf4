//! The command line: `serve`, and what an operator does to clients.

mod check;
mod client;
mod extend;
mod list;
mod provision;
mod revoke;
mod serve;
mod show;

use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use spoke_protocol::client_id::ClientId;
use spoke_service::{
    cli::{CheckArgs, ListenArgs, SettingsArgs},
    logging,
};
use spoke_store::Redis;

use crate::{config::Config, store::Store};

/// Lets devices in: registers them by a one-time code and hands out session tokens.
#[derive(Debug, Parser)]
#[command(name = "spoke-auth", version, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every setting can also come from the environment: SPOKE_AUTH_REDIS, SPOKE_AUTH_TLS__CERT_FILE, …

Exit codes: 0 done, 1 failed, 2 bad usage, 78 bad settings.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(ListenArgs),
    /// Let a new client register: makes its OTP secret and deadline, and the line to paste on it
    Provision(provision::Args),
    /// List all clients
    List(list::Args),
    /// Show one client
    Show(show::Args),
    /// Give a client that has not registered yet more time to do so
    Extend(extend::Args),
    /// Shut a client out at once: its sessions end and its live connection is closed
    Revoke(revoke::Args),
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
            let config: Config = settings.load("auth", flags.clone())?;
            config.validate()?;
            Ok(config)
        };
        let config = read()?;
        logging::init(&config.log)?;
        match self.command {
            Command::Serve(_) => serve::run(config, read).await,
            Command::Provision(args) => provision::run(&config, args).await,
            Command::List(args) => list::run(&config, &args).await,
            Command::Show(args) => show::run(&config, &args).await,
            Command::Extend(args) => extend::run(&config, &args).await,
            Command::Revoke(args) => revoke::run(&config, &args).await,
            Command::Check(args) => check::run(&config, &given, args).await,
        }
    }
}

fn store(config: &Config) -> anyhow::Result<Store> {
    let session_ttl = Duration::from_secs(config.session_ttl_seconds);
    Ok(Store::new(redis(config)?, &config.key_prefix, session_ttl))
}

fn redis(config: &Config) -> anyhow::Result<Redis> {
    let key = Store::probe_key(&config.key_prefix);
    Redis::open_writable(&config.redis, key).context("failed to use `redis`")
}

fn unknown(client: &ClientId) -> String {
    format!("there is no client {client}; `spoke-auth provision {client}` lets it in")
}

fn sessions(count: u64) -> String {
    match count {
        1 => "1 session".to_owned(),
        _ => format!("{count} sessions"),
    }
}
