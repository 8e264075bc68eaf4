//! The command line: `serve`, and what an operator does to clients.

mod client;
mod extend;
mod list;
mod provision;
mod revoke;
mod serve;
mod show;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use spoke_shared::{
    client::ClientId,
    config::{ConfigError, EXIT_BAD_SETTINGS, Sources, load},
    store::Redis,
    telemetry,
};

use crate::{config::Config, store::Store};

/// Lets devices in: registers them by a one-time code and hands out session tokens.
#[derive(Debug, Parser)]
#[command(name = "spoke-auth", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Settings file [default: /etc/spoke/auth.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE", display_order = 100)]
    config: Option<PathBuf>,
    /// One setting, over file and environment; `--set throttle.login_burst=10` for a nested one.
    /// Not for passwords: every user of the machine can see it
    #[arg(
        long = "set",
        global = true,
        value_name = "KEY=VALUE",
        value_parser = setting,
        display_order = 101
    )]
    settings: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every setting can also come from the environment: SPOKE_AUTH_REDIS, SPOKE_AUTH_TLS__CERT_FILE, …

Exit codes: 0 done, 1 failed, 2 bad usage, 78 bad settings.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(serve::Args),
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
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What a person should read; `exit_code` says how the process ends.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut flags = self.settings;
        if let Command::Serve(args) = &self.command {
            flags.extend(args.settings());
        }
        let config: Config = load(&Sources {
            service: "auth",
            file: self.config.as_deref(),
            environment: std::env::vars().collect(),
            flags,
        })?;
        config.validate()?;
        telemetry::init(&config.log)?;
        match self.command {
            Command::Serve(_) => serve::run(config).await,
            Command::Provision(args) => provision::run(&config, args).await,
            Command::List(args) => list::run(&config, &args).await,
            Command::Show(args) => show::run(&config, &args).await,
            Command::Extend(args) => extend::run(&config, &args).await,
            Command::Revoke(args) => revoke::run(&config, &args).await,
        }
    }
}

/// How a process that failed with this error ends: 78 for bad settings, else 1.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<ConfigError>()) {
        ExitCode::from(EXIT_BAD_SETTINGS)
    } else {
        ExitCode::FAILURE
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn store(config: &Config) -> anyhow::Result<Store> {
    let redis = Redis::open(&config.redis).context("failed to use `redis`")?;
    let session_ttl = Duration::from_secs(config.session_ttl_seconds);
    Ok(Store::new(redis, &config.key_prefix, session_ttl))
}

/// Prints an answer. Who reads only the first lines of it is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
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
