//! What `enrol` says at its end, and the start of the service.

use std::{fmt::Write as _, path::Path, process::Stdio};

use tokio::process::Command;

use super::super::settings_file;
use crate::config::{Account, Config};

/// Said where an agent that is not root could not read the settings.
const FOR_ROOT_ALONE: &str = "
Only root can read the settings. An agent of another user needs them to belong to its group (chgrp).
";

/// Where settings are kept unless `--config` says otherwise; the unit reads no other.
pub(super) const DEFAULT_PATH: &str = "/etc/spoke/agent.toml";

/// Whether the service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Started {
    /// It does, and will after each boot.
    Yes,
    /// Not by us; this is how.
    By(String),
}

/// Enables and starts the unit where there is one that reads these settings, and else says how.
pub(super) async fn start(path: &Path) -> Started {
    let systemctl = async |words: &[&str]| {
        let mut command = Command::new("systemctl");
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().await.is_ok_and(|status| status.success())
    };
    let is_started = path == Path::new(DEFAULT_PATH)
        && systemctl(&["cat", "spoke-agent.service"]).await
        && systemctl(&["enable", "--now", "spoke-agent.service"]).await;
    if is_started { Started::Yes } else { by_hand(path) }
}

/// How a person starts it.
pub(super) fn by_hand(path: &Path) -> Started {
    Started::By(match path == Path::new(DEFAULT_PATH) {
        true => "systemctl enable --now spoke-agent".to_owned(),
        false => format!("spoke-agent run --config {}", path.display()),
    })
}

/// All that a person needs next, the line to try at the very end.
pub(super) fn text(
    account: &Account,
    config: &Config,
    path: &Path,
    (registered, started): (&str, Started),
) -> String {
    let Account { client, auth, hub } = account;
    let keys = config.keys();
    let redis = match config.redis.as_str() == Config::default().redis.as_str() {
        true => "redis-cli".to_owned(),
        false => format!("redis-cli -u {}", config.redis),
    };
    let option = match path == Path::new(DEFAULT_PATH) {
        true => String::new(),
        false => format!(" --config {}", path.display()),
    };
    let start = match started {
        Started::Yes => "The agent runs, and will after each boot.".to_owned(),
        Started::By(line) => format!("start with:\n  {line}"),
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
look after it with:
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
        private = if settings_file::is_for_root_alone(path) { FOR_ROOT_ALONE } else { "" },
    );
    text
}
