//! The summary that `enrol` prints at its end, and the start of the service.

use std::{fmt::Write as _, path::Path, process::Stdio};

use tokio::process::Command;

use super::super::settings_file;
use crate::{account::DeviceAccount, config::AgentConfig};

/// Printed if an agent of another user than root cannot read the settings.
const ROOT_ONLY: &str = "
Only root can read the settings. For an agent of another user, change their group (chgrp).
";

/// The default path of the settings. The systemd unit reads this file only.
pub(super) const DEFAULT_PATH: &str = "/etc/spoke/agent.toml";

/// Whether the service was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServiceStart {
    /// It was started and enabled.
    Started,
    /// The operator has to start it with this command.
    Manual(String),
}

/// Enables and starts the unit if it reads these settings. Otherwise returns the command to start
/// the agent.
pub(super) async fn start(path: &Path) -> ServiceStart {
    let systemctl = async |words: &[&str]| {
        let mut command = Command::new("systemctl");
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().await.is_ok_and(|status| status.success())
    };
    let is_started = path == Path::new(DEFAULT_PATH)
        && systemctl(&["cat", "spoke-agent.service"]).await
        && systemctl(&["enable", "--now", "spoke-agent.service"]).await;
    if is_started { ServiceStart::Started } else { manual(path) }
}

/// Returns the command to start the agent.
pub(super) fn manual(path: &Path) -> ServiceStart {
    ServiceStart::Manual(match path == Path::new(DEFAULT_PATH) {
        true => "systemctl enable --now spoke-agent".to_owned(),
        false => format!("spoke-agent run --config {}", path.display()),
    })
}

/// Returns the text with the next actions of the operator.
pub(super) fn text(
    account: &DeviceAccount,
    config: &AgentConfig,
    path: &Path,
    registered: &str,
    start: ServiceStart,
) -> String {
    let DeviceAccount { client, auth, hub } = account;
    let keys = config.keys();
    let redis = match config.redis.as_str() == AgentConfig::default().redis.as_str() {
        true => "redis-cli".to_owned(),
        false => format!("redis-cli -u {}", config.redis),
    };
    let option = match path == Path::new(DEFAULT_PATH) {
        true => String::new(),
        false => format!(" --config {}", path.display()),
    };
    let start = match start {
        ServiceStart::Started => "The agent runs, and starts after each boot.".to_owned(),
        ServiceStart::Manual(line) => format!("start with:\n  {line}"),
    };
    let mut text = String::new();
    let _ = write!(
        text,
        "{client} {registered} registered at {auth}.

  hub        {hub}
  settings   {settings}
  identity   {identity} (its file `secret` is this device: keep it)
{private}
{start}
check it with:
  spoke-agent status{option}
receive with:
  {redis} XREAD BLOCK 0 STREAMS {inbound} '$'
publish with:
  {redis} XADD {out} MAXLEN '~' 10000 '*' topic test payload '{{\"type\":\"hello-hub\"}}'
",
        settings = path.display(),
        identity = config.state_dir.display(),
        out = keys.out(),
        inbound = keys.inbound(),
        private = if settings_file::is_root_only(path) { ROOT_ONLY } else { "" },
    );
    text
}
