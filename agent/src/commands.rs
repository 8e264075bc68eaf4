//! The command line: `run`, `enrol`, `rotate`, `status`, `check`.

mod check;
mod enrol;
mod rotate;
mod run;
mod settings_file;
mod status;

use clap::{Parser, Subcommand};
use spoke_service::cli::{CheckArgs, SettingsArgs};

use crate::config::AgentConfig;

/// Carries this device's Redis streams to a Spoke hub and back
#[derive(Debug, Parser)]
#[command(name = "spoke-agent", version, after_help = AFTER_HELP)]
pub struct AgentCli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: AgentCommand,
}

const AFTER_HELP: &str = "\
Every setting can also be set in the environment: SPOKE_AGENT_REDIS, SPOKE_AGENT_LOG__LEVEL, …

Exit codes: 0 done, 1 failed, 2 bad usage, 78 bad settings.";

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Run the daemon
    Run,
    /// Write the settings and register this device, with a one-time secret from `spoke-auth
    /// provision`
    Enrol(Box<enrol::EnrolArgs>),
    /// Replace the secret of this device, whether the agent runs or not; safe to repeat and to
    /// interrupt
    Rotate,
    /// Show the connection, the backlog, the losses and the last error
    Status(status::StatusArgs),
    /// Check the settings, the secret file, this device's Redis and clock, auth, the hub and the
    /// running agent, with help for each problem; fails if there is an error
    Check(CheckArgs),
}

impl AgentCli {
    /// Runs the command.
    ///
    /// # Errors
    /// The error for the operator.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { settings, command } = self;
        match command {
            AgentCommand::Run => {
                let read = move || {
                    let config: AgentConfig = settings.load("agent", Vec::new())?;
                    config.validate().map(|_| config)
                };
                run::run(read).await
            }
            AgentCommand::Enrol(args) => enrol::run(*args, settings).await,
            AgentCommand::Rotate => rotate::run(&settings.load("agent", Vec::new())?).await,
            AgentCommand::Status(args) => {
                let config: AgentConfig = settings.load("agent", Vec::new())?;
                status::run(&config, &args).await
            }
            AgentCommand::Check(args) => {
                let config: AgentConfig = settings.load("agent", Vec::new())?;
                check::run(&config, &settings, args).await
            }
        }
    }
}
