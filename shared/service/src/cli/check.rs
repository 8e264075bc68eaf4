//! `check`: the findings about a service, each with help.

use std::{borrow::Cow, fmt, fs, io, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::bail;
use rustls::{CertificateError, pki_types::UnixTime};
use serde::Serialize;
use tokio::{net::TcpStream, time::timeout};

use super::{health::local_address, output::print};
use crate::{config::TlsSettings, server::Certificate};
use spoke_diagnostics::{
    error_chain,
    tls_error::{TlsFailure, duration_in_words},
};
use spoke_store::{
    PrimarySurvey, Redis, StoreError, check_tracking,
    limits::HINT_POLL_INTERVAL,
    redis_settings::{ServerWarning, ShippedConf, query_server_info, query_settings},
};

/// The flags of `check`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CheckArgs {
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Correct.
    Ok,
    /// It works now, but may not later.
    Warn,
    /// It does not work, or may lose data.
    Fail,
    /// It could not be checked.
    Skip,
}

/// One finding of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The severity.
    pub verdict: Severity,
    /// The setting, or the thing, that was checked.
    pub setting: &'static str,
    /// The finding.
    pub finding: String,
    /// What to do; empty where there is none.
    pub help: Cow<'static, str>,
}

/// Automatic renewal takes place a month before the end; an operator needs two weeks.
const CERTIFICATE_LEFT: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// For a connection to a listener of this machine.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

impl Check {
    /// Returns a finding that is correct.
    pub fn ok(setting: &'static str, finding: impl Into<String>) -> Self {
        Self { verdict: Severity::Ok, setting, finding: finding.into(), help: Cow::Borrowed("") }
    }

    /// Returns a finding that may become a failure.
    pub fn warn(
        setting: &'static str,
        finding: impl Into<String>,
        help: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { verdict: Severity::Warn, help: help.into(), ..Self::ok(setting, finding) }
    }

    /// Returns a failure.
    pub fn fail(
        setting: &'static str,
        finding: impl Into<String>,
        help: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { verdict: Severity::Fail, help: help.into(), ..Self::ok(setting, finding) }
    }

    /// Returns that the check was not possible, for this reason.
    pub fn skip(setting: &'static str, why: impl fmt::Display) -> Self {
        let finding = format!("not checked: {why}");
        Self { verdict: Severity::Skip, ..Self::ok(setting, finding) }
    }
}

/// The line of the finding, and its help in the next line.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, setting, finding, help } = self;
        let verdict = match verdict {
            Severity::Ok => "ok",
            Severity::Warn => "warn",
            Severity::Fail => "fail",
            Severity::Skip => "skip",
        };
        writeln!(f, "{verdict:<5} {setting}: {finding}")?;
        if help.is_empty() { Ok(()) } else { writeln!(f, "      help: {help}") }
    }
}

/// Prints the findings.
///
/// # Errors
/// If a check failed, or standard output cannot be written.
pub fn report(checks: &[Check], args: CheckArgs) -> anyhow::Result<()> {
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(checks)?),
        false => checks.iter().map(Check::to_string).collect(),
    };
    print(&text)?;
    match checks.iter().filter(|check| check.verdict == Severity::Fail).count() {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        failed => bail!("{failed} checks failed"),
    }
}

/// Checks that a Redis answers, is new enough, takes writes and does not lose data, and that its settings are as good
/// as the shipped ones; with Sentinels or a cluster, also those.
pub async fn of_redis(setting: &'static str, redis: &Redis, shipped: ShippedConf) -> Vec<Check> {
    let mut checks = of_server(setting, redis, shipped).await;
    let survey = redis.survey_primary().await;
    checks.extend(survey.map(|survey| of_primary(setting, &survey)));
    checks
}

fn of_primary(setting: &'static str, survey: &PrimarySurvey) -> Check {
    let PrimarySurvey { what, asked, primary, failures } = survey;
    let answer = asked - failures.len();
    let primary = primary.as_deref().unwrap_or("no server");
    let finding = format!("{answer} of {asked} {what} answer, and name {primary} as the primary");
    if failures.is_empty() {
        return Check::ok(setting, finding);
    }
    let finding = format!("{finding} ({})", failures.join("; "));
    let help = "start the others, or correct the URL: a replica is promoted only by a majority";
    match 2 * answer > *asked {
        true => Check::warn(setting, finding, help),
        false => Check::fail(setting, finding, help),
    }
}

async fn of_server(setting: &'static str, redis: &Redis, shipped: ShippedConf) -> Vec<Check> {
    let mut connection = redis.connection();
    let info = match query_server_info(&mut connection).await {
        Ok(info) => info,
        Err(error) => {
            let error = StoreError::from(error);
            let finding = format!("INFO failed: {}", error_chain(&error));
            let help =
                "start Redis, or correct the setting, its password or its user's permissions";
            return vec![Check::fail(setting, finding, error.help().unwrap_or(help))];
        }
    };
    let (major, minor) = info.version;
    let write_failure = redis.probe().await.err().map(|error| {
        let finding = format!("write failed: {}", error_chain(&error));
        Check::fail(setting, finding, error.help().unwrap_or("see the log of Redis"))
    });
    let to_check = |finding: &ServerWarning| {
        let check = match finding {
            ServerWarning::Evicts { .. } => Check::fail,
            ServerWarning::NoAppendOnly | ServerWarning::FailedRewrite => Check::warn,
        };
        check(setting, finding.to_string(), finding.help())
    };
    let findings = info.warnings();
    let mut checks: Vec<_> =
        write_failure.into_iter().chain(findings.iter().map(to_check)).collect();
    if checks.is_empty() {
        let finding = format!("Redis {major}.{minor} answers, takes writes and keeps them");
        checks.push(Check::ok(setting, finding));
    }
    match query_settings(&mut connection).await {
        Ok(running) => checks.extend(
            shipped
                .mismatches(&running)
                .iter()
                .map(|found| Check::warn(setting, found.to_string(), found.help())),
        ),
        Err(error) => {
            let why = format!(
                "its settings, against {}: CONFIG GET failed ({})",
                shipped.path(),
                error_chain(&error)
            );
            checks.push(Check::skip(setting, why));
        }
    }
    checks
}

/// Checks that a Redis allows `CLIENT TRACKING`. `None` if it does, or does not answer.
pub async fn of_hints(setting: &'static str, redis: &Redis) -> Option<Check> {
    match check_tracking(redis).await {
        Err(error) if !error.is_outage() => {
            let poll_ms = HINT_POLL_INTERVAL.as_millis();
            let finding = format!(
                "CLIENT TRACKING denied ({}); new entries are polled for every {poll_ms} ms",
                error_chain(&error)
            );
            let help = "allow it if possible: ACL SETUSER … +client|tracking";
            Some(Check::warn(setting, finding, help))
        }
        // `of_redis` reports a Redis that does not answer.
        Ok(()) | Err(_) => None,
    }
}

/// Checks that a file with a secret can be read by this user and by no other.
pub fn of_secret_file(setting: &'static str, path: &Path) -> Check {
    of_secret(setting, path, fs::File::open(path).and_then(|file| file.metadata()))
}

/// Does the same for a file that was opened already, or could not be.
pub fn of_secret(setting: &'static str, path: &Path, opened: io::Result<fs::Metadata>) -> Check {
    let path = path.display();
    let mode = match opened {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let finding = format!("this user may not read {path}");
            return Check::warn(
                setting,
                finding,
                "run `check` as root or as the user of the service",
            );
        }
        Err(error) => {
            let finding = format!("failed to read {path}: {}", error_chain(&error));
            return Check::fail(setting, finding, "restore the file, or correct the setting");
        }
    };
    match mode & 0o077 {
        0 => Check::ok(setting, format!("only its owner can read {path}")),
        _ => {
            let finding = format!("other users can read {path} (mode {mode:03o})");
            Check::fail(setting, finding, format!("chmod 600 {path}"))
        }
    }
}

/// Checks that certificate and key exist and match, that the certificate is valid now, and that only its owner can
/// read the key.
pub fn of_tls(tls: &TlsSettings) -> Vec<Check> {
    match Certificate::open(tls) {
        Ok(None) => vec![Check::ok("tls", "off; devices need a proxy with TLS")],
        Ok(Some(certificate)) => vec![
            of_certificate(&tls.cert_file, &certificate, UnixTime::now()),
            of_secret_file("tls.key_file", &tls.key_file),
        ],
        Err(error) => {
            let help =
                "give certificate and key of one pair in PEM files that the service can read";
            vec![Check::fail("tls", error_chain(&error), help)]
        }
    }
}

fn of_certificate(path: &Path, certificate: &Certificate, now: UnixTime) -> Check {
    const SETTING: &str = "tls.cert_file";
    let path = path.display();
    if let Some(error) = certificate.validity_error(now) {
        let TlsFailure { problem, help } = TlsFailure::from(&error);
        return Check::fail(SETTING, format!("{path}: {problem}"), help);
    }
    let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + CERTIFICATE_LEFT);
    match certificate.validity_error(soon) {
        Some(CertificateError::ExpiredContext { not_after, .. }) => {
            let left = duration_in_words(not_after.as_secs().saturating_sub(now.as_secs()));
            let help =
                "find out why it is not renewed; a new one in that file is loaded automatically";
            Check::warn(SETTING, format!("{path} expires in {left}"), help)
        }
        _ => Check::ok(SETTING, format!("{path} is valid")),
    }
}

/// Checks that a service listens on an address.
pub async fn of_listener(setting: &'static str, listen: &str, unit: &str) -> Check {
    let why = match timeout(LISTEN_TIMEOUT, TcpStream::connect(local_address(listen))).await {
        Ok(Ok(_)) => return Check::ok(setting, format!("{listen} accepts connections")),
        Ok(Err(error)) => error_chain(&error),
        Err(_) => format!("no answer within {} s", LISTEN_TIMEOUT.as_secs()),
    };
    let finding = format!("{listen} does not accept connections: {why}");
    Check::warn(setting, finding, format!("systemctl status {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_can_read_fails_with_a_command_as_help() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let missing = of_secret_file("state_dir", &path);
        assert_eq!(missing.verdict, Severity::Fail, "{missing:?}");
        fs::write(&path, "secret").unwrap();
        for (mode, verdict) in
            [(0o600, Severity::Ok), (0o400, Severity::Ok), (0o640, Severity::Fail)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let check = of_secret_file("state_dir", &path);
            assert_eq!(check.verdict, verdict, "{mode:o}: {check:?}");
        }
        let open = of_secret_file("state_dir", &path);
        assert_eq!(open.help, format!("chmod 600 {}", path.display()));
    }

    #[test]
    fn a_certificate_fails_outside_its_validity_and_warns_two_weeks_before_its_end() {
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
        for (month, day, verdict, finding) in [
            (1, 10, Severity::Ok, "is valid"),
            (1, 17, Severity::Ok, "is valid"),
            (1, 19, Severity::Warn, "expires in 13 days"),
            (2, 3, Severity::Fail, "expired 2 days ago"),
        ] {
            let now = rcgen::date_time_ymd(2030, month, day).unix_timestamp().unsigned_abs();
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            let check = of_certificate(&tls.cert_file, &certificate, now);
            assert_eq!(check.verdict, verdict, "{month}-{day}: {check:?}");
            assert!(check.finding.contains(finding), "{month}-{day}: {check:?}");
        }
        let early = of_certificate(&tls.cert_file, &certificate, UnixTime::now());
        assert_eq!(early.verdict, Severity::Fail, "{early:?}");
        assert!(early.finding.contains("not valid yet") && early.help.contains("clock"));
    }

    #[test]
    fn the_text_has_the_help_below_the_finding_and_json_has_the_same() {
        let check = Check::warn("redis", "no append-only file", "appendonly yes");
        assert_eq!(
            check.to_string(),
            "warn  redis: no append-only file\n      help: appendonly yes\n"
        );
        let json = serde_json::to_value(&check).unwrap();
        assert_eq!(
            (json["verdict"].as_str(), json["help"].as_str()),
            (Some("warn"), Some("appendonly yes"))
        );
    }
}
