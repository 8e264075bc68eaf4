//! The sources of settings, and the errors for invalid ones.

use serde::{Deserialize, Serialize};

use spoke_store::RedisUrl;

use super::*;
use spoke_protocol::ClientId;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Transport {
    #[default]
    Auto,
    Http,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Settings {
    client: Option<ClientId>,
    redis: RedisUrl,
    cost: u32,
    allow_plaintext: bool,
    otp_secret_file: PathBuf,
    transport: Transport,
    tls: TlsSettings,
    log: LogSettings,
}

fn try_load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Settings, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    fs::write(&path, file).unwrap();
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let (environment, flags) = (owned(environment), owned(flags));
    load(&SettingSources { service: "agent", file: Some(&path), environment, flags })
}

fn error_of(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    try_load(file, environment, flags).unwrap_err().to_string()
}

#[test]
fn flags_override_the_environment_the_file_and_the_defaults_in_this_order() {
    let file =
        "cost = 1\n[tls]\ncert_file = \"file\"\nkey_file = \"file\"\n[log]\nlevel = \"warn\"\n";
    let environment = [("SPOKE_AGENT_COST", "2"), ("SPOKE_AGENT_TLS__CERT_FILE", "variable")];
    let settings = try_load(file, &environment, &[("cost", "3")]).unwrap();
    assert_eq!(settings.cost, 3);
    assert_eq!(settings.tls.cert_file, Path::new("variable"));
    assert_eq!(settings.tls.key_file, Path::new("file"));
    assert_eq!(settings.log.level, "warn");
    assert_eq!(settings.redis.as_str(), RedisUrl::default().as_str());
    let settings = try_load(file, &environment, &[]).unwrap();
    assert_eq!(settings.cost, 2);
}

#[test]
fn an_environment_variable_is_converted_to_the_type_of_its_key() {
    let environment = [
        ("SPOKE_AGENT_CLIENT", "123"),
        ("SPOKE_AGENT_COST", "12"),
        ("SPOKE_AGENT_ALLOW_PLAINTEXT", "true"),
        ("SPOKE_AGENT_TRANSPORT", "http"),
        ("SPOKE_AGENT_LOG__FORMAT", "json"),
        ("SPOKE_AGENT_OTP_SECRET_FILE", ""),
        ("SPOKE_HUB_COST", "not a setting of the agent"),
        ("PATH", "/bin"),
    ];
    let settings = try_load("", &environment, &[]).unwrap();
    assert_eq!(settings.client.unwrap().as_str(), "123");
    assert_eq!((settings.cost, settings.allow_plaintext), (12, true));
    assert_eq!(settings.transport, Transport::Http);
    assert_eq!(settings.log.format, Some(LogFormat::Json));
    assert_eq!(settings.otp_secret_file, Path::new(""));
}

#[test]
fn dotted_keys_and_tables_are_equivalent() {
    let settings = try_load("tls.cert_file = \"a\"\ntls.key_file = \"b\"\n", &[], &[]).unwrap();
    assert_eq!((settings.tls.cert_file, settings.tls.key_file), ("a".into(), "b".into()));
}

#[test]
fn an_unknown_key_is_named_with_its_source_and_the_most_similar_key() {
    for (file, environment, flags, parts) in [
        ("cots = 1", &[][..], &[][..], ["cots", "agent.toml", "did you mean cost?"]),
        ("[tsl]\ncert_file = \"a\"", &[], &[], ["tsl", "agent.toml", "did you mean tls?"]),
        (
            "[tls]\ncert = \"a\"",
            &[],
            &[],
            ["tls.cert", "agent.toml", "did you mean tls.cert_file?"],
        ),
        ("cert_file = \"a\"", &[], &[], ["cert_file", "agent.toml", "did you mean tls.cert_file?"]),
        (
            "",
            &[("SPOKE_AGENT_TLS_CERT_FILE", "a")],
            &[],
            ["tls_cert_file", "from SPOKE_AGENT_TLS_CERT_FILE", "SPOKE_AGENT_TLS__CERT_FILE?"],
        ),
        ("", &[("SPOKE_AGENT_", "a")], &[], ["unknown key", "SPOKE_AGENT_", "/etc/spoke"]),
        ("", &[], &[("clinet", "a")], ["clinet", "the command line", "did you mean client?"]),
        ("", &[], &[("a[0]", "a")], ["a[0]", "the command line", "/etc/spoke"]),
        ("zzzzzz = 1", &[], &[], ["zzzzzz", "agent.toml", "/etc/spoke"]),
    ] {
        let message = error_of(file, environment, flags);
        for part in parts {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
}

#[test]
fn an_invalid_value_is_named_with_its_source_and_the_expected_one() {
    for (file, environment, flags, parts) in [
        ("cost = \"much\"", &[][..], &[][..], ["cost (from ", "agent.toml", "integer"]),
        ("cost = -1", &[], &[], ["cost (from ", "agent.toml", "unsigned"]),
        ("", &[("SPOKE_AGENT_COST", "x")], &[], ["cost", "SPOKE_AGENT_COST", "integer"]),
        (
            "",
            &[("SPOKE_AGENT_ALLOW_PLAINTEXT", "maybe")],
            &[],
            ["allow_plaintext", "SPOKE", "boolean"],
        ),
        ("", &[], &[("transport", "udp")], ["transport", "the command line", "`auto` or `http`"]),
        ("log.format = \"xml\"", &[], &[], ["log.format", "agent.toml", "`text` or `json`"]),
        ("client = \"a b\"", &[], &[], ["client", "agent.toml", "characters"]),
        ("tls = 1", &[], &[], ["tls", "agent.toml", "TlsSettings"]),
        ("", &[("SPOKE_AGENT_REDIS", "nowhere")], &[], ["redis", "SPOKE_AGENT_REDIS", "redis://"]),
    ] {
        let message = error_of(file, environment, flags);
        for part in parts {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }
}

#[test]
fn a_file_that_is_not_toml_is_named_with_its_line_but_not_its_text() {
    let message = error_of("cost = 1\nredis = \"redis://:hunter2@host\n", &[], &[]);
    assert!(message.contains("agent.toml, line 2"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn no_error_contains_a_password() {
    let hidden = "redis://:hunter2@host/many";
    let message = error_of("", &[("SPOKE_AGENT_REDIS", hidden)], &[]);
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn a_named_file_has_to_exist_and_the_default_one_may_be_missing() {
    let sources = |file| SettingSources {
        service: "no-such-service",
        file,
        environment: Vec::new(),
        flags: Vec::new(),
    };
    load::<Settings>(&sources(None)).unwrap();
    let path = Path::new("/no/such/agent.toml");
    let message = load::<Settings>(&sources(Some(path))).unwrap_err().to_string();
    assert!(message.contains("/no/such/agent.toml"), "{message}");
}
