//! The command line: `serve`, and what shows an operator what goes through the hub.

mod clients;
mod send;
mod serve;
mod tail;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use spoke_shared::{
    config::{ConfigError, EXIT_BAD_SETTINGS, Sources, load},
    store::Redis,
    telemetry,
};

use crate::config::Config;

/// Takes the entries of all devices into one Redis stream and serves each device its own.
#[derive(Debug, Parser)]
#[command(name = "spoke-hub", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Settings file [default: /etc/spoke/hub.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE", display_order = 100)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every setting can also come from the environment: SPOKE_HUB_REDIS, SPOKE_HUB_TLS__CERT_FILE, …

Exit codes: 0 done, 1 failed, 2 bad usage, 78 bad settings.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(serve::Args),
    /// List the clients: who is connected, how far they are, when they were last seen
    Clients(clients::Args),
    /// Print entries as they arrive from devices
    Tail(tail::Args),
    /// Add an entry to a client's out stream
    Send(send::Args),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What a person should read; `exit_code` says how the process ends.
    pub async fn run(self) -> anyhow::Result<()> {
        let flags = match &self.command {
            Command::Serve(args) => args.settings(),
            Command::Clients(_) | Command::Tail(_) | Command::Send(_) => Vec::new(),
        };
        let config: Config = load(&Sources {
            service: "hub",
            file: self.config.as_deref(),
            environment: std::env::vars().collect(),
            flags,
        })?;
        config.validate()?;
        telemetry::init(&config.log)?;
        match self.command {
            Command::Serve(_) => serve::run(config).await,
            Command::Clients(args) => clients::run(&config, &args).await,
            Command::Tail(args) => tail::run(&config, &args).await,
            Command::Send(args) => send::run(&config, &args).await,
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

fn redis(config: &Config) -> anyhow::Result<Redis> {
    Redis::open(&config.redis).context("failed to use the setting `redis`")
}

/// Prints an answer. Who reads only the first lines of it is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
