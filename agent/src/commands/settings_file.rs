//! The settings file that `enrol` writes: only the settings that differ from the defaults.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::Value;
use spoke_service::config::{ConfigError, SettingSources, load};

use crate::{atomic_file::Directory, config::AgentConfig};

/// Readable for its owner and the group of the agent, since it may contain a password.
const MODE: u32 = 0o640;
/// The file of group names, and the group that the packages create.
const GROUPS: &str = "/etc/group";
const GROUP: &str = "spoke-agent";

const HEAD: &str = "\
# Settings of spoke-agent, written by `spoke-agent enrol`. All other settings have their defaults.
";

/// Reads the settings of the file, overridden by `flags`. A missing file counts as empty.
pub(super) fn read(path: &Path, flags: Vec<(String, String)>) -> Result<AgentConfig, ConfigError> {
    let file = if path.exists() { path } else { Path::new("/dev/null") };
    load(&SettingSources { service: "agent", file: Some(file), environment: Vec::new(), flags })
}

/// Writes these settings, readable for the agent only.
pub(super) fn write(path: &Path, config: &AgentConfig) -> anyhow::Result<()> {
    let failed = || format!("failed to write the settings to {}", path.display());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let name = path.file_name().and_then(OsStr::to_str).with_context(failed)?;
    let directory = Directory::open_or_create_public(&parent).with_context(failed)?;
    let before = fs::symlink_metadata(path).ok().map(|found| found.gid());
    let state = Directory::open(&config.state_dir).ok().map(|state| state.group());
    let groups = fs::read_to_string(GROUPS).unwrap_or_default();
    let group = group([before, state, group_of(&groups, GROUP)]).unwrap_or(directory.group());
    directory.write_for_group(name, render(config).as_bytes(), (MODE, group)).with_context(failed)
}

/// Returns the first group that is not root's: of the old file, of the state directory, of the
/// packages.
fn group(known: [Option<u32>; 3]) -> Option<u32> {
    known.into_iter().flatten().find(|group| *group != 0)
}

/// Returns the ID of a group of this machine.
fn group_of(groups: &str, name: &str) -> Option<u32> {
    let number = |line: &str| {
        let mut parts = line.split(':');
        parts.next().filter(|found| *found == name)?;
        parts.nth(1)?.parse().ok()
    };
    groups.lines().find_map(number)
}

/// Returns whether only root can read the settings, so that an agent of another user cannot.
pub(super) fn is_root_only(path: &Path) -> bool {
    let is_roots =
        |found: fs::Metadata| found.uid() == 0 && found.gid() == 0 && found.mode() & 0o004 == 0;
    fs::metadata(path).is_ok_and(is_roots)
}

/// Formats the settings as TOML.
pub(super) fn render(config: &AgentConfig) -> String {
    let ours = serde_json::to_value(config).expect("settings serialise");
    let default = serde_json::to_value(AgentConfig::default()).expect("settings serialise");
    let mut lines = String::from(HEAD);
    // The serialised form has no password.
    if config.redis.as_str() != AgentConfig::default().redis.as_str() {
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

/// Appends a setting. JSON strings, numbers and booleans are valid TOML.
fn line(lines: &mut String, key: &str, value: &Value) {
    lines.push_str(&format!("{key} = {value}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_settings_file_is_read_back_unchanged() {
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
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let again = read(&path, Vec::new()).unwrap();
        assert_eq!(render(&again), render(&config));
        assert_eq!(again.redis.as_str(), "redis://:p%22w@127.0.0.1:7000");
        assert_eq!(again.retry_first_ms, 7);
        assert_eq!(again.log.level, "debug");
        assert!(!again.compression);
        assert!(!render(&config).contains("key_prefix"));
    }

    #[test]
    fn the_group_is_the_first_that_is_not_root() {
        assert_eq!(group([Some(7), Some(8), Some(9)]), Some(7));
        assert_eq!(group([Some(0), Some(8), Some(9)]), Some(8));
        assert_eq!(group([None, Some(0), Some(9)]), Some(9));
        assert_eq!(group([None, Some(0), None]), None);
        let groups = "root:x:0:\nno-spoke-agent:x:1:\nspoke-agent:x:998:pi\nbad:x\n";
        assert_eq!(group_of(groups, "spoke-agent"), Some(998));
        assert_eq!((group_of(groups, "spoke"), group_of(groups, "bad")), (None, None));
    }

    #[test]
    fn a_missing_file_gives_the_defaults() {
        let config = read(Path::new("/nowhere/agent.toml"), Vec::new()).unwrap();
        assert_eq!(render(&config), HEAD);
    }
}
