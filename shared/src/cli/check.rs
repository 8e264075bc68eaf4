//! `check`: a doctor's look at a service, finding by finding, each with its mend.

use std::{borrow::Cow, fs, io, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::bail;
use serde::Serialize;
use tokio::{net::TcpStream, time::timeout};

use super::print;
use crate::{
    config::TlsSettings,
    serve::Certificate,
    store::{
        Redis,
        soundness::{Finding, look},
    },
};

/// What `check` takes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CheckArgs {
    /// As a JSON list
    #[arg(long)]
    json: bool,
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and may not for ever.
    Warn,
    /// It does not work, or may lose what it was given.
    Fail,
}

/// One line of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// How grave it is.
    pub verdict: Verdict,
    /// The setting, or the thing, that was looked at.
    pub setting: &'static str,
    /// What was found.
    pub finding: String,
    /// What to do; empty where nothing is to be done.
    pub mend: Cow<'static, str>,
}

/// The oldest Redis that counts what was ever added to a stream.
const REDIS_AT_LEAST: (u64, u64) = (7, 0);
/// A listener of this machine answers at once.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

impl Checked {
    /// As it should be.
    pub fn ok(setting: &'static str, finding: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, setting, finding: finding.into(), mend: Cow::Borrowed("") }
    }

    /// It works, and may not for ever.
    pub fn warn(
        setting: &'static str,
        finding: impl Into<String>,
        mend: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { verdict: Verdict::Warn, mend: mend.into(), ..Self::ok(setting, finding) }
    }

    /// It does not work, or may lose what it was given.
    pub fn fail(
        setting: &'static str,
        finding: impl Into<String>,
        mend: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { verdict: Verdict::Fail, mend: mend.into(), ..Self::ok(setting, finding) }
    }

    fn row(&self) -> String {
        let Self { verdict, setting, finding, mend } = self;
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        let mend = if mend.is_empty() { String::new() } else { format!("\n      mend: {mend}") };
        format!("{verdict:<5} {setting}: {finding}{mend}\n")
    }
}

/// Prints what was found.
///
/// # Errors
/// Something failed, or standard output cannot be written.
pub fn report(lines: &[Checked], args: CheckArgs) -> anyhow::Result<()> {
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(lines)?),
        false => lines.iter().map(Checked::row).collect(),
    };
    print(&text)?;
    match lines.iter().filter(|line| line.verdict == Verdict::Fail).count() {
        0 => Ok(()),
        failed => bail!("{failed} of what was checked cannot stay as it is"),
    }
}

/// Whether a Redis answers, is new enough and keeps what it is given.
pub async fn of_redis(setting: &'static str, redis: &Redis) -> Vec<Checked> {
    let facts = match look(&mut redis.connection()).await {
        Ok(facts) => facts,
        Err(error) => {
            let finding = format!("it does not say what it is like: {error}");
            let mend = "start it, or mend the setting, its password or its user's rights";
            return vec![Checked::fail(setting, finding, mend)];
        }
    };
    let (major, minor) = facts.version;
    let too_old = (facts.version < REDIS_AT_LEAST).then(|| {
        let finding = format!("it is Redis {major}.{minor}, which does not count what was added");
        Checked::fail(setting, finding, "install Redis 7.0 or newer")
    });
    let checked = |finding: &Finding| {
        let checked = match finding {
            Finding::Evicts { .. } => Checked::fail,
            Finding::NoAppendOnly => Checked::warn,
        };
        checked(setting, finding.to_string(), finding.mend())
    };
    let findings = facts.findings();
    let found: Vec<_> = too_old.into_iter().chain(findings.iter().map(checked)).collect();
    if found.is_empty() {
        let finding = format!("Redis {major}.{minor} answers, and keeps what it is given");
        return vec![Checked::ok(setting, finding)];
    }
    found
}

/// Whether a file with a secret can be read here and by nobody else.
pub fn of_secret_file(setting: &'static str, path: &Path) -> Checked {
    let place = path.display();
    let mode = match fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let finding = format!("{place} may not be read by this user");
            return Checked::warn(setting, finding, "run `check` as root or as the service's user");
        }
        Err(error) => {
            let finding = format!("{place} cannot be read: {error}");
            return Checked::fail(setting, finding, "put the file back, or mend the setting");
        }
    };
    match mode & 0o077 {
        0 => Checked::ok(setting, format!("{place} can be read by its owner alone")),
        _ => {
            let finding = format!("{place} can be read by others (mode {mode:03o})");
            Checked::fail(setting, finding, format!("chmod 600 {place}"))
        }
    }
}

/// Whether certificate and key are there and go together, and the key is nobody else's.
pub fn of_tls(tls: &TlsSettings) -> Vec<Checked> {
    match Certificate::open(tls) {
        Ok(None) => vec![Checked::ok("tls", "none here; devices need it in front")],
        Ok(Some(_)) => vec![
            Checked::ok("tls.cert_file", format!("{} can be used", tls.cert_file.display())),
            of_secret_file("tls.key_file", &tls.key_file),
        ],
        Err(error) => {
            let mend = "put certificate and key of one pair in PEM files that the service can read";
            vec![Checked::fail("tls", error.to_string(), mend)]
        }
    }
}

/// Whether a service listens there.
pub async fn of_listener(setting: &'static str, listen: &str, unit: &str) -> Checked {
    let near = listen.replacen("0.0.0.0:", "127.0.0.1:", 1).replacen("[::]:", "[::1]:", 1);
    match timeout(LISTEN_TIMEOUT, TcpStream::connect(&near)).await {
        Ok(Ok(_)) => Checked::ok(setting, format!("something listens on {listen}")),
        Ok(Err(_)) | Err(_) => {
            let mend = format!("systemctl status {unit}");
            Checked::warn(setting, format!("nothing listens on {listen} now"), mend)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_may_read_fails_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let missing = of_secret_file("state_dir", &path);
        assert_eq!(missing.verdict, Verdict::Fail, "{missing:?}");
        fs::write(&path, "secret").unwrap();
        for (mode, verdict) in [(0o600, Verdict::Ok), (0o400, Verdict::Ok), (0o640, Verdict::Fail)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let checked = of_secret_file("state_dir", &path);
            assert_eq!(checked.verdict, verdict, "{mode:o}: {checked:?}");
        }
        let open = of_secret_file("state_dir", &path);
        assert_eq!(open.mend, format!("chmod 600 {}", path.display()));
    }

    #[test]
    fn a_row_tells_the_mend_below_and_json_has_the_same() {
        let line = Checked::warn("redis", "it forgets", "appendonly yes");
        assert_eq!(line.row(), "warn  redis: it forgets\n      mend: appendonly yes\n");
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(
            (json["verdict"].as_str(), json["mend"].as_str()),
            (Some("warn"), Some("appendonly yes"))
        );
    }
}
