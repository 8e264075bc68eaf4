//! The settings file that `enrol` writes: what differs from the defaults, and nothing else.

use std::{fs, path::Path};

use anyhow::Context;
use serde_json::Value;
use spoke_shared::config::{ConfigError, Sources, load};

use crate::{config::Config, durable};

/// Everyone may read it, unless a Redis password stands in it.
const MODE: u32 = 0o644;
const PRIVATE_MODE: u32 = 0o640;

const HEAD: &str = "\
# Settings of spoke-agent, written by `spoke-agent enrol`. What is not here has its default.
";

/// The settings in the file alone, with `flags` over it. A file that is not there has none.
pub(super) fn read(path: &Path, flags: Vec<(String, String)>) -> Result<Config, ConfigError> {
    let file = if path.exists() { path } else { Path::new("/dev/null") };
    load(&Sources { service: "agent", file: Some(file), environment: Vec::new(), flags })
}

/// Writes these settings.
pub(super) fn write(path: &Path, config: &Config) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("failed to make the directory {}", parent.display()))?;
    }
    let mode = if is_private(config) { PRIVATE_MODE } else { MODE };
    durable::write(path, render(config).as_bytes(), mode)
        .with_context(|| format!("failed to write the settings to {}", path.display()))
}

/// Whether there is a password in them.
pub(super) fn is_private(config: &Config) -> bool {
    config.redis.to_string() != config.redis.as_str()
}

/// As TOML.
pub(super) fn render(config: &Config) -> String {
    let ours = serde_json::to_value(config).expect("settings serialise");
    let default = serde_json::to_value(Config::default()).expect("settings serialise");
    let mut lines = String::from(HEAD);
    // Its serialised form has no password.
    if config.redis.as_str() != Config::default().redis.as_str() {
        line(&mut lines, "redis", &Value::from(config.redis.as_str()));
    }
    differences(&mut lines, "", &ours, &default);
    lines
}

fn differences(lines: &mut String, prefix: &str, ours: &Value, default: &Value) {
    let Value::Object(ours) = ours else { return };
    for (key, value) in ours {
        let (name, default) = (format!("{prefix}{key}"), &default[key]);
        match value {
            Value::Object(_) => differences(lines, &format!("{name}."), value, default),
            _ if value == default || value.is_null() || name == "redis" => {}
            _ => line(lines, &name, value),
        }
    }
}

/// What JSON writes for strings, numbers and booleans is TOML too.
fn line(lines: &mut String, key: &str, value: &Value) {
    lines.push_str(&format!("{key} = {value}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/agent.toml");
        let flags = [
            ("client", "dev1"),
            ("auth", "https://auth.example.com"),
            ("hub", "https://hub.example.com:8443"),
            ("redis", "redis://:p%22w@127.0.0.1:7000"),
            ("state_dir", "/tmp/with \"quotes\" and \\"),
            ("trim", "acked"),
            ("retry_first_ms", "7"),
            ("compression", "false"),
            ("log.level", "debug"),
        ];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let config = read(&path, flags).unwrap();
        write(&path, &config).unwrap();
        let again = read(&path, Vec::new()).unwrap();
        assert_eq!(render(&again), render(&config));
        assert_eq!(again.redis.as_str(), "redis://:p%22w@127.0.0.1:7000");
        assert_eq!(again.retry_first_ms, 7);
        assert_eq!(again.log.level, "debug");
        assert!(!again.compression);
        assert!(!render(&config).contains("key_prefix"));
    }

    #[test]
    fn a_file_that_is_not_there_has_the_defaults() {
        let config = read(Path::new("/nowhere/agent.toml"), Vec::new()).unwrap();
        assert_eq!(render(&config), HEAD);
    }
}
