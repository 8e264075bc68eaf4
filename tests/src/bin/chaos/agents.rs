//! A process that runs many agents: `chaos agents`. Each is the real agent, with a state directory and a key prefix of
//! its own; they share one Redis and one process, which a fault kills or stops as a whole.
//!
//! Rejected: a process and a Redis for each, since two hundred of them fill the machine before the hub has work.

use std::path::{Path, PathBuf};

use clap::Args;
use spoke_agent::AgentConfig;
use spoke_service::{
    Shutdown,
    config::{SettingSources, environment, load},
    daemon::Daemon,
    logging,
    reload::Reloads,
};
use tokio::task::JoinSet;

/// Which agents to run. Their common settings are in the environment.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentsArgs {
    /// The folder with a folder for each client
    #[arg(long)]
    folder: PathBuf,
    /// The clients
    clients: Vec<String>,
}

/// The arguments that start such a process.
pub(crate) fn arguments(folder: &Path, clients: &[String]) -> Vec<String> {
    let mut arguments =
        vec!["agents".to_owned(), "--folder".to_owned(), folder.display().to_string()];
    arguments.extend(clients.iter().cloned());
    arguments
}

/// The key prefix of a client in the shared Redis.
pub(crate) fn key_prefix(client: &str) -> String {
    format!("{client}-agent")
}

/// The one-time secret of a client.
pub(crate) fn secret_file(folder: &Path, client: &str) -> PathBuf {
    folder.join(format!("{client}-otp-secret"))
}

/// Runs the agents.
///
/// # Panics
/// If the settings are invalid, or an agent ended, which none should.
pub(crate) async fn run(agents: AgentsArgs) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut running = JoinSet::new();
    for client in &agents.clients {
        let path =
            |name: &str| agents.folder.join(format!("{client}-{name}")).display().to_string();
        let flags = [
            ("client", client.clone()),
            ("key_prefix", key_prefix(client)),
            ("state_dir", path("state")),
            ("otp_secret_file", secret_file(&agents.folder, client).display().to_string()),
        ];
        let flags = flags.map(|(key, value)| (key.to_owned(), value)).into();
        let environment = environment("agent").expect("the environment is text");
        let sources = SettingSources { service: "agent", file: None, environment, flags };
        let config: AgentConfig = load(&sources).expect("the settings are valid");
        if running.is_empty() {
            logging::init(&config.log).expect("logging starts once");
        }
        let again = config.clone();
        let reloads = Reloads::on_sighup(&config, move || Ok(again.clone()));
        let reloads = reloads.expect("signals can be listened for");
        running.spawn(spoke_agent::run(Daemon { config, reloads, shutdown: Shutdown::new() }));
    }
    let ended = running.join_next().await;
    panic!("an agent ended: {ended:?}");
}
