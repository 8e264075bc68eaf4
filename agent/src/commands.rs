//! The command line: `run`, `enrol`, `rotate`, `status`, `check`.

mod check;
pub mod enrol;
mod rotate;
mod run;
mod settings_file;
pub mod status;

use clap::{Parser, Subcommand};
use spoke_service::cli::{CheckArgs, SettingsArgs};

use crate::config::Config;

/// Carries this device's Redis streams to a Spoke hub and back.
#[derive(Debug, Parser)]
#[command(name = "spoke-agent", version, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
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
    /// Give this device a new secret, be the agent running or not; safe to repeat, and to cut short
    Rotate,
    /// Show whether the agent is connected and what waits, is lost or went wrong
    Status(status::Args),
    /// Look at the settings, the secret's file, this device's Redis and clock, auth, the hub and the
    /// running agent, each with its mend; fails where something cannot stay as it is
    Check(CheckArgs),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What a person should read.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { settings, command } = self;
        match command {
            Command::Run => {
                let read = move || {
                    let config: Config = settings.load("agent", Vec::new())?;
                    config.validate().map(|_| config)
                };
                run::run(read).await
            }
            Command::Enrol(args) => enrol::run(*args, settings).await,
            Command::Rotate => rotate::run(&settings.load("agent", Vec::new())?).await,
            Command::Status(args) => {
                let config: Config = settings.load("agent", Vec::new())?;
                status::run(&config, &args).await
            }
            Command::Check(args) => {
                let config: Config = settings.load("agent", Vec::new())?;
                check::run(&config, &settings, args).await
            }
        }
    }
}
