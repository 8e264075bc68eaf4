//! `check`: a doctor's look at a service, finding by finding, each with its mend.

use std::{borrow::Cow, fmt, fs, io, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::bail;
use rustls::{CertificateError, pki_types::UnixTime};
use serde::Serialize;
use tokio::{net::TcpStream, time::timeout};

use super::print;
use crate::{config::TlsSettings, server::Certificate};
use spoke_diagnostics::{
    error_chain::error_chain,
    tls_error::{TlsFailure, duration_in_words},
};
use spoke_store::{
    Redis, StoreError, hints,
    limits::HINT_POLL_INTERVAL,
    server_info::{ServerWarning, query_server_info},
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
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, and may not for ever.
    Warn,
    /// It does not work, or may lose what it was given.
    Fail,
    /// It could not be looked at.
    Skip,
}

/// One line of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// How grave it is.
    pub verdict: Severity,
    /// The setting, or the thing, that was looked at.
    pub setting: &'static str,
    /// What was found.
    pub finding: String,
    /// What to do; empty where nothing is to be done.
    pub mend: Cow<'static, str>,
}

/// Who renews by a machine does so a month before the end, and by hand needs two weeks.
const CERTIFICATE_LEFT: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// A listener of this machine answers at once.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

impl Check {
    /// As it should be.
    pub fn ok(setting: &'static str, finding: impl Into<String>) -> Self {
        Self { verdict: Severity::Ok, setting, finding: finding.into(), mend: Cow::Borrowed("") }
    }

    /// It works, and may not for ever.
    pub fn warn(
        setting: &'static str,
        finding: impl Into<String>,
        mend: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { verdict: Severity::Warn, mend: mend.into(), ..Self::ok(setting, finding) }
    }

    /// It does not work, or may lose what it was given.
    pub fn fail(
        setting: &'static str,
        finding: impl Into<String>,
        mend: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { verdict: Severity::Fail, mend: mend.into(), ..Self::ok(setting, finding) }
    }

    /// It could not be looked at, which is neither good nor bad.
    pub fn skip(setting: &'static str, why: impl fmt::Display) -> Self {
        let finding = format!("not checked: {why}");
        Self { verdict: Severity::Skip, ..Self::ok(setting, finding) }
    }
}

/// Its line, and the mend in the next one.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, setting, finding, mend } = self;
        let verdict = match verdict {
            Severity::Ok => "ok",
            Severity::Warn => "warn",
            Severity::Fail => "fail",
            Severity::Skip => "skip",
        };
        writeln!(f, "{verdict:<5} {setting}: {finding}")?;
        if mend.is_empty() { Ok(()) } else { writeln!(f, "      mend: {mend}") }
    }
}

/// Prints what was found.
///
/// # Errors
/// Something failed, or standard output cannot be written.
pub fn report(lines: &[Check], args: CheckArgs) -> anyhow::Result<()> {
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(lines)?),
        false => lines.iter().map(Check::to_string).collect(),
    };
    print(&text)?;
    match lines.iter().filter(|line| line.verdict == Severity::Fail).count() {
        0 => Ok(()),
        failed => bail!("{failed} of what was checked cannot stay as it is"),
    }
}

/// Whether a Redis answers, is new enough and keeps what it is given.
pub async fn of_redis(setting: &'static str, redis: &Redis) -> Vec<Check> {
    let facts = match query_server_info(&mut redis.connection()).await {
        Ok(facts) => facts,
        Err(error) => {
            let error = StoreError::from(error);
            let finding = format!("it does not say what it is like: {}", error_chain(&error));
            let mend = "start it, or mend the setting, its password or its user's rights";
            return vec![Check::fail(setting, finding, error.help().unwrap_or(mend))];
        }
    };
    let (major, minor) = facts.version;
    let refuses = redis.probe().await.err().map(|error| {
        let finding = format!("it takes no writes: {}", error_chain(&error));
        Check::fail(setting, finding, error.help().unwrap_or("see its log"))
    });
    let checked = |finding: &ServerWarning| {
        let checked = match finding {
            ServerWarning::Evicts { .. } => Check::fail,
            ServerWarning::NoAppendOnly => Check::warn,
        };
        checked(setting, finding.to_string(), finding.help())
    };
    let findings = facts.warnings();
    let found: Vec<_> = refuses.into_iter().chain(findings.iter().map(checked)).collect();
    if found.is_empty() {
        let finding = format!("Redis {major}.{minor} answers, and keeps what it is given");
        return vec![Check::ok(setting, finding)];
    }
    found
}

/// A warning where a Redis gives no hints.
pub async fn of_hints(setting: &'static str, redis: &Redis) -> Option<Check> {
    match hints::check_tracking(redis).await {
        Err(error) if !error.is_outage() => {
            let poll_ms = HINT_POLL_INTERVAL.as_millis();
            let finding = format!(
                "it denies CLIENT TRACKING ({}); news is polled for every {poll_ms} ms",
                error_chain(&error)
            );
            let mend = "allow it where you can: ACL SETUSER … +client|tracking";
            Some(Check::warn(setting, finding, mend))
        }
        // That it does not answer at all is said already.
        Ok(()) | Err(_) => None,
    }
}

/// Whether a file with a secret can be read here and by nobody else.
pub fn of_secret_file(setting: &'static str, path: &Path) -> Check {
    of_secret(setting, path, fs::File::open(path).and_then(|file| file.metadata()))
}

/// The same of a file that was opened already, or could not be.
pub fn of_secret(setting: &'static str, path: &Path, opened: io::Result<fs::Metadata>) -> Check {
    let place = path.display();
    let mode = match opened {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let finding = format!("{place} may not be read by this user");
            return Check::warn(setting, finding, "run `check` as root or as the service's user");
        }
        Err(error) => {
            let finding = format!("{place} cannot be read: {}", error_chain(&error));
            return Check::fail(setting, finding, "put the file back, or mend the setting");
        }
    };
    match mode & 0o077 {
        0 => Check::ok(setting, format!("{place} can be read by its owner alone")),
        _ => {
            let finding = format!("{place} can be read by others (mode {mode:03o})");
            Check::fail(setting, finding, format!("chmod 600 {place}"))
        }
    }
}

/// Whether certificate and key are there and go together, the certificate is in its time, and the key is
/// nobody else's.
pub fn of_tls(tls: &TlsSettings) -> Vec<Check> {
    match Certificate::open(tls) {
        Ok(None) => vec![Check::ok("tls", "none here; devices need it in front")],
        Ok(Some(certificate)) => vec![
            of_certificate(&tls.cert_file, &certificate, UnixTime::now()),
            of_secret_file("tls.key_file", &tls.key_file),
        ],
        Err(error) => {
            let mend = "put certificate and key of one pair in PEM files that the service can read";
            vec![Check::fail("tls", error_chain(&error), mend)]
        }
    }
}

fn of_certificate(path: &Path, certificate: &Certificate, now: UnixTime) -> Check {
    const SETTING: &str = "tls.cert_file";
    let path = path.display();
    if let Some(error) = certificate.out_of_time(now) {
        let TlsFailure { problem: what, help: mend } = TlsFailure::from(&error);
        return Check::fail(SETTING, format!("{path}: {what}"), mend);
    }
    let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + CERTIFICATE_LEFT);
    match certificate.out_of_time(soon) {
        Some(CertificateError::ExpiredContext { not_after, .. }) => {
            let left = duration_in_words(not_after.as_secs().saturating_sub(now.as_secs()));
            let mend = "see why it is not renewed; a new one in that file is taken up by itself";
            Check::warn(SETTING, format!("{path} expires in {left}"), mend)
        }
        _ => Check::ok(SETTING, format!("{path} can be used")),
    }
}

/// Whether a service listens there.
pub async fn of_listener(setting: &'static str, listen: &str, unit: &str) -> Check {
    let near = listen.replacen("0.0.0.0:", "127.0.0.1:", 1).replacen("[::]:", "[::1]:", 1);
    let why = match timeout(LISTEN_TIMEOUT, TcpStream::connect(&near)).await {
        Ok(Ok(_)) => return Check::ok(setting, format!("something listens on {listen}")),
        Ok(Err(error)) => error_chain(&error),
        Err(_) => format!("no answer within {} s", LISTEN_TIMEOUT.as_secs()),
    };
    let finding = format!("nothing listens on {listen} now: {why}");
    Check::warn(setting, finding, format!("systemctl status {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_may_read_fails_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let missing = of_secret_file("state_dir", &path);
        assert_eq!(missing.verdict, Severity::Fail, "{missing:?}");
        fs::write(&path, "secret").unwrap();
        for (mode, verdict) in
            [(0o600, Severity::Ok), (0o400, Severity::Ok), (0o640, Severity::Fail)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let checked = of_secret_file("state_dir", &path);
            assert_eq!(checked.verdict, verdict, "{mode:o}: {checked:?}");
        }
        let open = of_secret_file("state_dir", &path);
        assert_eq!(open.mend, format!("chmod 600 {}", path.display()));
    }

    #[test]
    fn a_certificate_fails_out_of_its_time_and_is_warned_of_two_weeks_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let tls = TlsSettings {
            cert_file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 2, 1);
        fs::write(&tls.cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&tls.key_file, key.serialize_pem()).unwrap();
        let certificate = Certificate::open(&tls).unwrap().unwrap();
        for (month, day, verdict, words) in [
            (1, 10, Severity::Ok, "can be used"),
            (1, 17, Severity::Ok, "can be used"),
            (1, 19, Severity::Warn, "expires in 13 days"),
            (2, 3, Severity::Fail, "expired 2 days ago"),
        ] {
            let now = rcgen::date_time_ymd(2030, month, day).unix_timestamp().unsigned_abs();
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            let checked = of_certificate(&tls.cert_file, &certificate, now);
            assert_eq!(checked.verdict, verdict, "{month}-{day}: {checked:?}");
            assert!(checked.finding.contains(words), "{month}-{day}: {checked:?}");
        }
        let early = of_certificate(&tls.cert_file, &certificate, UnixTime::now());
        assert_eq!(early.verdict, Severity::Fail, "{early:?}");
        assert!(early.finding.contains("not valid yet") && early.mend.contains("clock"));
    }

    #[test]
    fn a_row_tells_the_mend_below_and_json_has_the_same() {
        let line = Check::warn("redis", "it forgets", "appendonly yes");
        assert_eq!(line.to_string(), "warn  redis: it forgets\n      mend: appendonly yes\n");
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(
            (json["verdict"].as_str(), json["mend"].as_str()),
            (Some("warn"), Some("appendonly yes"))
        );
    }
}
