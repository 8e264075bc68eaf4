//! Errors are logged with all their causes, by all programs and in both log formats.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

use std::{collections::BTreeSet, fs};

use http::Method;
use serde_json::{Value, json};
use spoke_tests::{
    binaries,
    cloud::admit,
    process::{Finished, Process, Start, run},
    service::Kind,
    single_service::Stand,
    sources::rust_files,
    wait::{PATIENCE, eventually},
};

const REFUSED: &str = "Connection refused (os error 111)";
const MISSING: &str = "No such file or directory (os error 2)";
const FORMATS: [&str; 2] = ["json", "text"];

/// The values of this field in the lines with this message, unescaped.
fn field_values(log: &str, format: &str, message: &str, field: &str) -> BTreeSet<String> {
    let lines = log.lines().filter(|line| line.contains(message));
    let of_json = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line[field].as_str().map(str::to_owned)
    };
    let of_text = |line: &str| {
        let (_, rest) = line.split_once(&format!(" {field}=\""))?;
        let rest = rest.replace("\\\"", "\u{1}");
        Some(rest.split('"').next()?.replace('\u{1}', "\"").replace("\\\\", "\\"))
    };
    match format {
        "json" => lines.filter_map(of_json).collect(),
        _ => lines.filter_map(of_text).collect(),
    }
}

/// Runs a program until its log has this message, and returns the log.
async fn log_of(program: &str, command: &str, settings: &[(&str, &str)], message: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let prefix = program.replace('-', "_");
    let mut start = Start::with(&[command]);
    for (key, value) in settings {
        let name = format!("{prefix}_{}", key.replace('.', "__")).to_uppercase();
        start = start.variable(&name, value);
    }
    let log = folder.path().join("log");
    let process = Process::start(&binaries::path_of(program), &start, &log);
    eventually(&format!("{program} to log {message:?}"), PATIENCE, async || {
        let log = process.log();
        let is_logged = log.ends_with('\n') && log.contains(message);
        if is_logged { Ok(log) } else { Err(log) }
    })
    .await
}

/// Runs a program in both log formats, and checks that its error contains these words exactly once.
async fn assert_error_logged(
    (program, command): (&str, &str),
    settings: &[(&str, &str)],
    (message, words): (&str, &str),
) {
    let mut texts = Vec::new();
    for format in FORMATS {
        let settings: Vec<_> = settings.iter().copied().chain([("log.format", format)]).collect();
        let log = log_of(program, command, &settings, message).await;
        let errors = field_values(&log, format, message, "error");
        assert!(errors.iter().any(|error| error.contains(words)), "{program}, {format}:\n{log}");
        for error in &errors {
            let times = error.matches(words).count();
            assert!(
                times <= 1,
                "{program}, {format}: the cause is repeated {times} times: {error}"
            );
        }
        texts.push(errors);
    }
    assert_eq!(texts[0], texts[1], "{program}: the formats differ");
}

const DOWN: &str = "redis request failed";

#[tokio::test]
async fn an_unreachable_redis_is_logged_with_the_operating_systems_error() {
    for (redis, words) in [("redis://127.0.0.1:1", REFUSED), ("unix:///nowhere/redis", MISSING)] {
        for program in ["spoke-hub", "spoke-auth"] {
            let settings = [("redis", redis), ("listen", "127.0.0.1:0"), ("admin_listen", "")];
            assert_error_logged((program, "serve"), &settings, (DOWN, words)).await;
        }
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("state").display().to_string();
        let settings = [
            ("redis", redis),
            ("admin_listen", ""),
            ("client", "dev1"),
            ("auth", "http://127.0.0.1:1"),
            ("hub", "http://127.0.0.1:1"),
            ("state_dir", &state_dir),
        ];
        assert_error_logged(("spoke-agent", "run"), &settings, (DOWN, words)).await;
    }
}

#[tokio::test]
async fn an_agent_logs_why_auth_is_unreachable_and_its_state_directory_unusable() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path().join("state").display().to_string();
    fs::write(folder.path().join("otp"), spoke_tests::cloud::OTP_SECRET).unwrap();
    let otp = folder.path().join("otp").display().to_string();
    let mut settings = [
        ("redis", "redis://127.0.0.1:1"),
        ("admin_listen", ""),
        ("client", "dev1"),
        ("auth", "http://127.0.0.1:1"),
        ("hub", "http://127.0.0.1:1"),
        ("otp_secret_file", otp.as_str()),
        ("state_dir", state_dir.as_str()),
    ];
    let message = "connection to hub failed; retrying";
    assert_error_logged(("spoke-agent", "run"), &settings, (message, REFUSED)).await;

    settings[6] = ("state_dir", "/proc/nothing-here");
    let message = "state directory is not usable";
    assert_error_logged(("spoke-agent", "run"), &settings, (message, MISSING)).await;
}

/// A request fails because a key has another type.
#[tokio::test]
async fn a_request_that_redis_refuses_is_logged_with_its_error_in_both_formats() {
    let words = "spoke-hub:in:x and spoke-hub:lost:x must be streams";
    let mut texts = Vec::new();
    for format in FORMATS {
        let stand = Stand::start(Kind::Hub, &[("log.format", format)]).await;
        stand.service.ready().await;
        let token = admit(&stand.redis, "dev1").await;
        let api = stand.api().with_token(&token);
        let _: () = stand.redis.command(&["SET", "spoke-hub:in:x", "no stream"]).await;
        let entry = json!({ "seq": "1700000000000-0", "fields": [["topic", "test"]] });
        let answer = api.call(api.request(Method::POST, "/xadd").json(&entry)).await;
        assert_eq!(answer.status, 503);

        let errors = field_values(&stand.service.log(), format, DOWN, "error");
        assert!(errors.iter().any(|error| error.contains(words)), "{}", stand.service.log());
        texts.push(errors);
    }
    assert_eq!(texts[0], texts[1]);
}

/// A program that cannot start says why on stderr, and `check` says why in its finding.
#[tokio::test]
async fn exit_errors_and_check_findings_contain_all_causes() {
    let command = async |program: &str, arguments: &[&str]| -> Finished {
        run(&binaries::path_of(program), &Start::with(arguments)).await
    };
    for (program, serve) in
        [("spoke-agent", "run"), ("spoke-hub", "serve"), ("spoke-auth", "serve")]
    {
        let ended = command(program, &[serve, "--config", "/nowhere/spoke.toml"]).await;
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains(MISSING), "{ended:?}");

        let checked =
            command(program, &["check", "--set", "redis=redis://127.0.0.1:1", "--json"]).await;
        let rows = checked.stdout.as_str();
        assert!(rows.contains(REFUSED), "{checked:?}");
    }
    for program in ["spoke-hub", "spoke-auth"] {
        let tls = ["tls.cert_file=/nowhere/cert.pem", "tls.key_file=/nowhere/key.pem"];
        let arguments = ["serve", "--set", tls[0], "--set", tls[1]];
        let ended = command(program, &arguments).await;
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains(MISSING), "{ended:?}");
        let checked = command(program, &["check", "--set", tls[0], "--set", tls[1]]).await;
        assert!(checked.stdout.contains(MISSING), "{checked:?}");
    }
}

/// Lines that report no error to a person: they match on it, or answer a peer.
fn is_exempt(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("//")
        || line.contains("to_string().contains(")
        || line.contains(".to_lowercase()")
}

/// Errors are formatted by `spoke_diagnostics::error_chain` only: any other way loses the causes, in one
/// log format or in both.
#[test]
fn no_source_file_formats_an_error_without_its_causes() {
    let names = ["error", "err", "e", "fault", "source"];
    let mut forms = vec!["as &dyn std::error::Error".to_owned(), "as &dyn Error,".to_owned()];
    for name in names {
        forms.extend([" %", "(%", " ?", "(?"].map(|sign| format!("{sign}{name},")));
        forms.extend(["= %", "= ?", "= &", "= "].map(|sign| format!("error {sign}{name},")));
        forms.extend(["{", "{:#"].map(|open| format!("{open}{name}}}")));
        forms.extend([":?}", ":#}", ":#?}"].map(|end| format!("{{{name}{end}")));
        forms.extend([" ", "(", "&"].map(|before| format!("{before}{name}.to_string()")));
    }
    // A string variable with that name, made by `error_chain`.
    forms.retain(|form| !form.starts_with("error = e"));
    let mut found = Vec::new();
    for path in rust_files().iter().filter(|path| !path.ends_with("error_chain.rs")) {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            if !is_exempt(line) && forms.iter().any(|form| line.contains(form.as_str())) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "use spoke_diagnostics::error_chain:\n{}", found.join("\n"));
}
