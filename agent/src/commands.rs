//! The command line: `run`, `enrol`, `rotate`, `status`, `check`, `health`.

mod check;
mod enrol;
mod rotate;
mod settings_file;
mod status;

use clap::{Parser, Subcommand};
use spoke_service::{
    after_help,
    cli::{CheckArgs, SettingsArgs, health},
    daemon::Daemon,
};

use crate::config::AgentConfig;

/// Carries this device's Redis streams to a Spoke hub and back
#[derive(Debug, Parser)]
#[command(
    name = "spoke-agent",
    version,
    after_help = after_help!("SPOKE_AGENT_REDIS, SPOKE_AGENT_LOG__LEVEL")
)]
pub struct AgentCli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: AgentCommand,
}

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
    /// Ask the running agent whether it makes progress, for a probe in a container; fails if it does not
    Health,
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
                let reader = settings.reader::<AgentConfig>(Vec::new());
                let config = reader.read_and_log()?;
                crate::run(Daemon::start(config, reader)?).await
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
            AgentCommand::Health => {
                let config: AgentConfig = settings.load("agent", Vec::new())?;
                health(&config.admin_listen).await
            }
        }
    }
}
