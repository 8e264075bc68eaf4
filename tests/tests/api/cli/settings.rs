//! Settings: with an invalid one the process exits with 78 and names the key, before it binds a port.

use std::{fs, net::TcpListener};

use spoke_tests::{
    binaries::path_of,
    process::{Finished, Start, run},
    redis::RedisServer,
    service::{Kind, Service},
};

/// A command that would not end if the settings were valid.
fn daemon(program: &str) -> Start {
    match program {
        "spoke-agent" => Start::with(&["run"])
            .variable("SPOKE_AGENT_CLIENT", "dev1")
            .variable("SPOKE_AGENT_AUTH", "https://auth.example.com")
            .variable("SPOKE_AGENT_HUB", "https://hub.example.com"),
        _ => Start::with(&["serve"]),
    }
}

async fn run_until_exit(program: &str, start: Start) -> Finished {
    run(&path_of(program), &start).await
}

fn assert_bad(ended: &Finished, words: &[&str]) {
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "`{word}` is not in: {}", ended.stderr);
    }
}

#[tokio::test]
async fn an_invalid_value_exits_with_78_and_names_the_key() {
    let table = [
        ("spoke-auth", "SPOKE_AUTH_BCRYPT_COST", "3", "bcrypt_cost"),
        ("spoke-auth", "SPOKE_AUTH_BCRYPT_COST", "17", "bcrypt_cost"),
        ("spoke-auth", "SPOKE_AUTH_BCRYPT_COST", "twelve", "bcrypt_cost"),
        ("spoke-auth", "SPOKE_AUTH_SESSION_TTL_SECONDS", "59", "session_ttl_seconds"),
        ("spoke-auth", "SPOKE_AUTH_SESSION_TTL_SECONDS", "-1", "session_ttl_seconds"),
        ("spoke-auth", "SPOKE_AUTH_REDIS", "http://127.0.0.1:6379", "redis"),
        ("spoke-auth", "SPOKE_AUTH_REDIS", "", "redis"),
        ("spoke-auth", "SPOKE_AUTH_KEY_PREFIX", "", "key_prefix"),
        ("spoke-auth", "SPOKE_AUTH_LOG__LEVEL", "loud", "log.level"),
        ("spoke-auth", "SPOKE_AUTH_LOG__FORMAT", "xml", "log.format"),
        ("spoke-auth", "SPOKE_AUTH_TLS__CERT_FILE", "/nowhere/cert.pem", "tls"),
        ("spoke-auth", "SPOKE_AUTH_THROTTLE__LOGIN_BURST", "0", "throttle.login_burst"),
        ("spoke-hub", "SPOKE_HUB_ACK", "", "ack"),
        (
            "spoke-hub",
            "SPOKE_HUB_ACK",
            "disk",
            "invalid acknowledgement level \"disk\": expected memory, fsync, or",
        ),
        ("spoke-hub", "SPOKE_HUB_ACK", "replicas:0", "ack"),
        ("spoke-hub", "SPOKE_HUB_IN_MAX_LEN", "-1", "in_max_len"),
        ("spoke-hub", "SPOKE_HUB_REDIS", "redis:/127.0.0.1", "redis"),
        ("spoke-hub", "SPOKE_HUB_AUTH_REDIS", "nonsense", "auth_redis"),
        ("spoke-hub", "SPOKE_HUB_TLS__KEY_FILE", "/nowhere/key.pem", "tls"),
        ("spoke-hub", "SPOKE_HUB_KEY_PREFIX", "", "key_prefix"),
        ("spoke-agent", "SPOKE_AGENT_CLIENT", "two words", "client"),
        ("spoke-agent", "SPOKE_AGENT_CLIENT", "", "client"),
        ("spoke-agent", "SPOKE_AGENT_AUTH", "auth.example.com", "auth"),
        ("spoke-agent", "SPOKE_AGENT_AUTH", "https://user:word@auth.example.com", "auth"),
        ("spoke-agent", "SPOKE_AGENT_HUB", "https://hub.example.com/?token=x", "hub"),
        ("spoke-agent", "SPOKE_AGENT_HUB", "ftp://hub.example.com", "hub"),
        ("spoke-agent", "SPOKE_AGENT_TRANSPORT", "carrier-pigeon", "transport"),
        ("spoke-agent", "SPOKE_AGENT_TRIM", "all", "trim"),
        ("spoke-agent", "SPOKE_AGENT_CA_FILE", "/nowhere/ca.pem", "ca_file"),
        ("spoke-agent", "SPOKE_AGENT_RETRY_FIRST_MS", "soon", "retry_first_ms"),
    ];
    for (program, variable, value, key) in table {
        let ended = run_until_exit(program, daemon(program).variable(variable, value)).await;
        assert_bad(&ended, &[key]);
    }
}

#[tokio::test]
async fn an_unknown_key_is_reported_with_its_source_and_the_nearest_known_key() {
    let table = [
        ("spoke-auth", "SPOKE_AUTH_LISTNE", "listen"),
        ("spoke-auth", "SPOKE_AUTH_TLS__CERT_FLIE", "CERT_FILE"),
        ("spoke-hub", "SPOKE_HUB_KEYPREFIX", "KEY_PREFIX"),
        ("spoke-agent", "SPOKE_AGENT_TRANSPROT", "TRANSPORT"),
    ];
    for (program, variable, nearest) in table {
        let ended = run_until_exit(program, daemon(program).variable(variable, "x")).await;
        assert_bad(&ended, &[variable]);
        let words = ended.stderr.to_lowercase();
        assert!(words.contains(&nearest.to_lowercase()), "{nearest}: {}", ended.stderr);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.toml");
    fs::write(&file, "listen = \"127.0.0.1:0\"\n[tls]\ncert_fiel = \"x\"\n").unwrap();
    let path = file.to_str().unwrap();
    let ended = run_until_exit("spoke-auth", Start::with(&["serve", "--config", path])).await;
    assert_bad(&ended, &["tls.cert_fiel", "cert_file", path]);
}

#[tokio::test]
async fn a_settings_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml");
    let broken = folder.path().join("broken.toml");
    fs::write(&broken, "listen = \"127.0.0.1:0\"\nredis = \n").unwrap();
    for program in ["spoke-auth", "spoke-hub", "spoke-agent"] {
        for (file, words) in [(&missing, "missing.toml"), (&broken, "broken.toml")] {
            let mut start = daemon(program);
            start.arguments.extend(["--config".to_owned(), file.display().to_string()]);
            assert_bad(&run_until_exit(program, start).await, &[words]);
        }
    }
}

#[tokio::test]
async fn plain_http_to_another_machine_is_refused_unless_allowed() {
    for key in ["AUTH", "HUB"] {
        let start = daemon("spoke-agent");
        let start = start.variable(&format!("SPOKE_AGENT_{key}"), "http://cloud.example.com");
        let ended = run_until_exit("spoke-agent", start).await;
        assert_bad(&ended, &[&key.to_lowercase(), "allow_plaintext"]);
    }
}

#[tokio::test]
async fn an_agent_without_settings_names_the_missing_key() {
    let ended = run_until_exit("spoke-agent", Start::with(&["run"])).await;
    assert_bad(&ended, &["client"]);
}

#[tokio::test]
async fn an_address_in_use_exits_with_1_and_not_with_78() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for program in ["spoke-auth", "spoke-hub"] {
        let kind = if program == "spoke-auth" { Kind::Auth } else { Kind::Hub };
        let start = daemon(program).variable(&kind.variable("listen"), &address);
        let ended = run_until_exit(program, start).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(&address), "the message names the address: {ended:?}");
    }
}

#[tokio::test]
async fn the_environment_overrides_the_file_and_flags_override_both() {
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.toml");
    let text = format!("redis = \"{}\"\nkey_prefix = \"from-file\"\n", redis.url());
    fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let provision = |client: &str| Start::with(&["provision", client, "--config", path]);
    run_until_exit("spoke-auth", provision("one")).await.done();
    let by_environment = provision("two").variable("SPOKE_AUTH_KEY_PREFIX", "from-environment");
    run_until_exit("spoke-auth", by_environment.clone()).await.done();
    let mut by_flag = by_environment;
    by_flag.arguments[1] = "three".to_owned();
    by_flag.arguments.extend(["--set".to_owned(), "key_prefix=from-flag".to_owned()]);
    run_until_exit("spoke-auth", by_flag).await.done();
    let mut keys: Vec<String> = redis.command(&["KEYS", "*:client:*"]).await;
    keys.sort_unstable();
    let expected =
        ["from-environment:client:two:h", "from-file:client:one:h", "from-flag:client:three:h"];
    assert_eq!(keys, expected);
}

#[tokio::test]
async fn a_numeric_name_is_kept_as_text() {
    let redis = RedisServer::start().await;
    let start = Start::with(&["provision", "123"]).variable("SPOKE_AUTH_REDIS", redis.url());
    let start = start.variable("SPOKE_AUTH_KEY_PREFIX", "7");
    run_until_exit("spoke-auth", start).await.done();
    assert!(redis.command::<bool>(&["EXISTS", "7:client:123:h"]).await);
}

#[tokio::test]
async fn a_password_in_a_setting_is_never_printed() {
    let start =
        daemon("spoke-auth").variable("SPOKE_AUTH_REDIS", "http://:hunter2-and-more@127.0.0.1:1");
    let ended = run_until_exit("spoke-auth", start).await;
    assert_bad(&ended, &["redis"]);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}

#[tokio::test]
async fn redis_is_reached_over_a_unix_socket_and_with_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock").display().to_string();
    let redis = RedisServer::start_with(&["--unixsocket", &socket]).await;
    let list = |url: &str| Start::with(&["list", "--json"]).variable("SPOKE_AUTH_REDIS", url);
    run_until_exit("spoke-auth", list(&format!("unix://{socket}"))).await.done();
    redis.command::<()>(&["CONFIG", "SET", "requirepass", "open-sesame"]).await;
    let port = redis.port();
    run_until_exit("spoke-auth", list(&format!("redis://:open-sesame@127.0.0.1:{port}")))
        .await
        .done();
    let refused =
        run_until_exit("spoke-auth", list(&format!("redis://:wrong@127.0.0.1:{port}"))).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(!refused.stderr.contains("wrong@"), "the password is printed: {refused:?}");
}

#[tokio::test]
async fn a_service_takes_its_log_format_from_the_settings() {
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    for (format, is_json) in [("json", true), ("text", false)] {
        let folder = folder.path().join(format);
        fs::create_dir(&folder).unwrap();
        let settings = [("log.format", format)];
        let service = Service::start(Kind::Auth, &redis.url(), &settings, &folder).await;
        let log = service.log();
        let line = log.lines().next().unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).is_ok(), is_json, "{line}");
    }
}
