//! The command line: `run`, `enrol`, `status`.

pub mod enrol;
mod run;
mod settings_file;
pub mod status;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use spoke_shared::config::{ConfigError, EXIT_BAD_SETTINGS, Sources, load};

use crate::config::Config;

/// Carries this device's Redis streams to a Spoke hub and back.
#[derive(Debug, Parser)]
#[command(name = "spoke-agent", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Settings file [default: /etc/spoke/agent.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over file and environment; `--set log.level=debug` for a nested one.
    /// Not for passwords: every user of the machine can see it
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every setting can also come from the environment: SPOKE_AGENT_REDIS, SPOKE_AGENT_LOG__LEVEL, …

Exit codes: 0 done, 1 failed, 2 bad usage, 78 bad settings.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run,
    /// Write the settings and register this device, with a one-time secret of `spoke-auth provision`
    Enrol(Box<enrol::Args>),
    /// Show whether the agent is connected and what waits, is lost or went wrong
    Status(status::Args),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What a person should read; `exit_code` says how the process ends.
    pub async fn run(self) -> anyhow::Result<()> {
        let load = |flags: Vec<(String, String)>| -> Result<Config, ConfigError> {
            load(&Sources {
                service: "agent",
                file: self.config.as_deref(),
                environment: std::env::vars().collect(),
                flags,
            })
        };
        match self.command {
            Command::Run => run::run(load(self.settings)?).await,
            Command::Enrol(args) => enrol::run(*args, self.config.as_deref(), self.settings).await,
            Command::Status(args) => status::run(&load(self.settings)?, &args).await,
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

/// Prints an answer. Who reads only the first lines of it is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
