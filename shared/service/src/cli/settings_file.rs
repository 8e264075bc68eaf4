//! `check` of the settings file itself: which users can change it and, if it holds a password, read it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{check::Check, settings_args::SettingsArgs};
use spoke_diagnostics::error_chain;

/// The name of the findings.
const SETTING: &str = "settings_file";
/// The last words of keys whose value is a secret.
const SECRET_WORDS: [&str; 6] = ["password", "passwd", "pass", "secret", "token", "otp_secret"];

/// Checks the settings file of a service (`agent`, `hub`, `auth`). `None` without a file, or where `--config` names
/// something other than a regular file.
pub fn of_settings_file(service: &str, args: &SettingsArgs) -> Option<Check> {
    let default = || PathBuf::from(format!("/etc/spoke/{service}.toml"));
    let path = args.config.clone().unwrap_or_else(default);
    let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    match fs::read_to_string(&path) {
        Ok(text) => Some(judge(&path, metadata.mode(), secret(&text), service)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // The file was read a moment ago, or the command would have failed.
        Err(error) => {
            let finding = format!("failed to read {}: {}", path.display(), error_chain(&error));
            Some(Check::warn(SETTING, finding, "run `check` as root or as the user of the service"))
        }
    }
}

fn judge(path: &Path, mode: u32, secret: Option<String>, service: &str) -> Check {
    let (path, mode) = (path.display(), mode & 0o777);
    let help = format!("chgrp spoke-{service} {path} && chmod 640 {path}");
    if mode & 0o022 != 0 {
        let finding = format!("other users than its owner can change {path} (mode {mode:03o})");
        return Check::warn(SETTING, finding, help);
    }
    match secret {
        Some(key) if mode & 0o004 != 0 => {
            let finding = format!(
                "{path} holds a password ({key}) and every user can read it (mode {mode:03o})"
            );
            Check::warn(SETTING, finding, help)
        }
        Some(_) => Check::ok(SETTING, format!("only its owner and group can read {path}")),
        None => Check::ok(SETTING, format!("{path} holds no password")),
    }
}

/// Returns the key, or the line, of the first secret in the text of a settings file, comments included: an old
/// password is often still valid.
fn secret(text: &str) -> Option<String> {
    let is_match = |line: &str| has_password(line) || is_secret_setting(line);
    let place = |(at, line): (usize, &str)| match key(line) {
        Some(key) => key.to_owned(),
        None => format!("line {}", at + 1),
    };
    text.lines().enumerate().find(|(_, line)| is_match(line)).map(place)
}

/// Returns the key of a line `key = value`, commented out or not.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim_start_matches(['#', ' ', '\t']).trim_end();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-\"".contains(&byte);
    (!key.is_empty() && key.bytes().all(is_plain)).then_some(key)
}

fn is_secret_setting(line: &str) -> bool {
    let Some((_, value)) = line.split_once('=') else { return false };
    let is_given = !matches!(value.trim(), "" | "\"\"" | "''");
    let last = key(line).and_then(|key| key.rsplit('.').next()).unwrap_or_default();
    let last = last.trim_matches('"').to_ascii_lowercase();
    let is_word = |word: &&str| last == *word || last.ends_with(&format!("_{word}"));
    is_given && SECRET_WORDS.iter().any(is_word)
}

/// Returns whether a URL in this line has a password: `scheme://user:password@host`, or `pass=` in its query.
fn has_password(line: &str) -> bool {
    line.match_indices("://").any(|(at, _)| {
        let rest = &line[at + 3..];
        let url = rest.split(['"', '\'', ' ', '\t']).next().unwrap_or_default();
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let user = place.rsplit_once('@').map_or("", |(user, _)| user);
        let is_in_user = user.split_once(':').is_some_and(|(_, password)| !password.is_empty());
        let is_pass = |pair: &str| pair.strip_prefix("pass=").is_some_and(|pass| !pass.is_empty());
        is_in_user || query.split('&').any(is_pass)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Severity;

    #[test]
    fn a_password_is_found_anywhere_in_a_line_and_named_by_its_key() {
        for (text, found) in [
            ("redis = \"redis://127.0.0.1\"", None),
            ("redis = \"redis://spoke@10.0.0.1/0\"", None),
            ("redis = \"redis://:@10.0.0.1\"", None),
            ("otp_secret_file = \"/etc/spoke/otp-secret\"\nhub = \"https://h:8443\"", None),
            ("# secret = \"\"\ntls.key_file = 'a'", None),
            ("redis = \"redis://:hunter2@h\"", Some("redis")),
            ("redis=\"rediss://u:p%40@h:1/2?ca_file=/x\"", Some("redis")),
            ("redis = 'redis+sentinel://u:p@s1:1,s2:2/mymaster/0'", Some("redis")),
            ("redis = \"unix:///r.sock?db=2&pass=x\"", Some("redis")),
            ("a = 1\n  auth_redis = \"redis://u:p/w@h\"", Some("auth_redis")),
            ("#redis = \"redis://:old@h\"", Some("redis")),
            ("proxy = \"http://u:p@proxy:3128\"", Some("proxy")),
            ("otp_secret = \"GEZD\"", Some("otp_secret")),
            ("[redis]\npassword = \"x\"", Some("password")),
            ("redis.password = \"x\"", Some("redis.password")),
            ("# was redis://:old@h, see the wiki", Some("line 1")),
        ] {
            assert_eq!(secret(text).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn the_verdict_depends_on_the_mode_of_the_file() {
        let judge_mode = |mode, secret: Option<&str>| {
            judge(Path::new("/x.toml"), mode, secret.map(str::to_owned), "hub")
        };
        for (mode, secret, verdict) in [
            (0o100_644, None, Severity::Ok),
            (0o100_640, Some("redis"), Severity::Ok),
            (0o100_600, Some("redis"), Severity::Ok),
            (0o100_644, Some("redis"), Severity::Warn),
            (0o100_604, Some("redis"), Severity::Warn),
            (0o100_660, None, Severity::Warn),
            (0o100_642, None, Severity::Warn),
        ] {
            assert_eq!(judge_mode(mode, secret).verdict, verdict, "{mode:o} {secret:?}");
        }
        let check = judge_mode(0o100_644, Some("redis"));
        assert!(
            check.finding.contains("(redis)") && check.finding.contains("mode 644"),
            "{check:?}"
        );
        assert_eq!(check.help, "chgrp spoke-hub /x.toml && chmod 640 /x.toml");
    }
}
