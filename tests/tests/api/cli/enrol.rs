//! `spoke-agent enrol`, with the line that `spoke-auth provision` prints.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, Settings, url},
    device::OUT,
    entries::numbered,
    process::{Finished, Process, Start, run},
    redis::RedisServer,
    wait::eventually_is,
};

async fn provision(cloud: &Cloud, client: &str) -> String {
    let mut start = Start::with(&["provision", client, "--json"]);
    start.environment = cloud.auth.environment().to_vec();
    let made = run(&path_of("spoke-auth"), &start).await.done().json();
    made["otpSecret"].as_str().expect("provision makes a secret").to_owned()
}

/// The arguments of `enrol` without the secret.
fn arguments(cloud: &Cloud, client: &str, redis: &RedisServer, folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    [
        "enrol",
        "--client",
        client,
        "--auth",
        &url(cloud.auth_proxy.address()),
        "--hub",
        &url(cloud.hub_proxy.address()),
        "--redis",
        &redis.url(),
        "--state-dir",
        &path("state"),
        "--config",
        &path("agent.toml"),
    ]
    .map(str::to_owned)
    .to_vec()
}

async fn enrol(mut arguments: Vec<String>, more: &[&str], input: &str) -> Finished {
    arguments.extend(more.iter().map(ToString::to_string));
    let start = Start { arguments, input: input.as_bytes().to_vec(), ..Start::default() };
    run(&path_of("spoke-agent"), &start).await
}

#[tokio::test]
async fn enrol_registers_the_device_and_writes_settings_that_the_agent_runs_with() {
    let cloud = Cloud::start().await;
    let redis = RedisServer::start_device().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = provision(&cloud, "dev1").await;

    let arguments = arguments(&cloud, "dev1", &redis, folder.path());
    let answer = enrol(arguments, &["--otp-secret", &secret], "").await.done();

    assert!(answer.stdout.contains("registered"), "{answer:?}");
    assert!(
        answer.stdout.contains("XADD spoke-agent:out:x"),
        "the output says what to do next: {answer:?}"
    );
    let stored = cloud.redis.hash("spoke-auth:client:dev1:h").await;
    assert!(stored.contains_key("registeredAt"), "{stored:?}");
    let mode =
        |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state"), mode("state/secret")), (0o700, 0o600));
    let settings = fs::read_to_string(folder.path().join("agent.toml")).unwrap();
    assert!(!settings.contains(&secret), "the settings contain the one-time secret: {settings}");
    let config = folder.path().join("agent.toml").display().to_string();
    let start = Start::with(&["run", "--config", &config, "--set", "admin_listen="]);
    let _agent = Process::start(&path_of("spoke-agent"), &start, &folder.path().join("log"));
    redis.add(OUT, &numbered(1)).await;
    eventually_is("the entry to arrive", 1, async || cloud.inbound().await.len()).await;
}

#[tokio::test]
async fn the_one_time_secret_may_come_from_standard_input_or_a_file() {
    let cloud = Cloud::start().await;
    let redis = RedisServer::start_device().await;
    for (client, source) in [("by-input", "-"), ("by-file", "secret-file")] {
        let folder = tempfile::tempdir().unwrap();
        let secret = format!("{}\n", provision(&cloud, client).await);
        let path = folder.path().join("secret-file");
        spoke_tests::process::write_secret(&path, &secret);
        let source = if source == "-" { "-" } else { path.to_str().unwrap() };
        let arguments = arguments(&cloud, client, &redis, folder.path());
        enrol(arguments, &["--otp-secret-file", source], &secret).await.done();
        let stored = cloud.redis.hash(&format!("spoke-auth:client:{client}:h")).await;
        assert!(stored.contains_key("registeredAt"), "{client}: {stored:?}");
    }
}

#[tokio::test]
async fn a_refused_enrolment_says_not_registered_and_can_be_retried() {
    let cloud = Cloud::start().await;
    let redis = RedisServer::start_device().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = provision(&cloud, "dev1").await;
    let arguments = arguments(&cloud, "dev1", &redis, folder.path());

    let wrong = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
    let refused = enrol(arguments.clone(), &["--otp-secret", wrong], "").await;
    cloud.auth_proxy.refuse();
    let unreachable = enrol(arguments.clone(), &["--otp-secret", &secret], "").await;
    cloud.auth_proxy.restore();

    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("not registered"), "{refused:?}");
    assert_eq!(unreachable.code, Some(1), "{unreachable:?}");
    assert!(unreachable.stderr.contains("not registered"), "{unreachable:?}");
    enrol(arguments.clone(), &["--otp-secret", &secret], "").await.done();
    let again = enrol(arguments, &["--otp-secret", &secret], "").await.done();
    assert!(again.stdout.contains("already"), "enrolling again does no harm: {again:?}");
}

#[tokio::test]
async fn settings_of_another_client_are_overwritten_only_with_force() {
    let cloud = Cloud::start().await;
    let redis = RedisServer::start_device().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let existing = "client = \"other\"\n";
    fs::write(&file, existing).unwrap();
    let secret = provision(&cloud, "dev1").await;
    let arguments = arguments(&cloud, "dev1", &redis, folder.path());
    let refused = enrol(arguments.clone(), &["--otp-secret", &secret], "").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--force"), "the message says what to do: {refused:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), existing);
    enrol(arguments, &["--otp-secret", &secret, "--force"], "").await.done();
    assert!(fs::read_to_string(&file).unwrap().contains("dev1"));
}

#[tokio::test]
async fn plain_http_to_another_machine_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let arguments = [
        "enrol",
        "--client",
        "dev1",
        "--auth",
        "http://auth.example.com",
        "--hub",
        "https://hub.example.com",
        "--state-dir",
        &path("state"),
        "--config",
        &path("agent.toml"),
    ];
    let arguments = arguments.map(str::to_owned).to_vec();
    let refused = enrol(arguments, &["--otp-secret", "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"], "").await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("allow"), "the message says what to do: {refused:?}");
    assert!(!folder.path().join("agent.toml").exists());
}

#[tokio::test]
async fn at_a_terminal_enrol_prompts_for_missing_values_and_prints_a_publish_command() {
    let cloud = Cloud::start().await;
    let redis = RedisServer::start_device().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = provision(&cloud, "dev1").await;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let line = format!(
        "{} enrol --redis {} --state-dir {} --config {}",
        path_of("spoke-agent").display(),
        redis.url(),
        path("state"),
        path("agent.toml")
    );
    let (auth, hub) = (url(cloud.auth_proxy.address()), url(cloud.hub_proxy.address()));
    let answers = format!("no name\ndev1\n{auth}\n{hub}\nno secret\n{secret}\n");
    // `script` runs the command in a terminal.
    let start = Start::with(&["-qec", &line, "/dev/null"]).input(answers.as_bytes());

    let output = run(Path::new("script"), &start).await.done().stdout;

    assert_eq!(
        output.matches("the name that this device was provisioned with: ").count(),
        2,
        "{output}"
    );
    for ok in ["redis: ", "ok    auth: ", "ok    hub: "] {
        assert!(output.contains(ok), "{output}");
    }
    let last = output.trim_end().lines().next_back().unwrap_or_default();
    assert!(last.contains("XADD spoke-agent:out:x"), "{output}");
    let stored = cloud.redis.hash("spoke-auth:client:dev1:h").await;
    assert!(stored.contains_key("registeredAt"), "{stored:?}");
}

#[tokio::test]
async fn without_a_terminal_missing_values_are_bad_usage() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml").display().to_string();
    let arguments = ["enrol", "--client", "dev1", "--config", &config].map(str::to_owned);
    let refused = enrol(arguments.to_vec(), &[], "").await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--auth is missing"), "{refused:?}");
}

#[tokio::test]
async fn enrol_fails_if_the_hub_is_unusable_and_the_same_command_succeeds_later() {
    let cloud = Cloud::start().await;
    let redis = RedisServer::start_device().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = provision(&cloud, "dev1").await;
    let arguments = arguments(&cloud, "dev1", &redis, folder.path());
    cloud.hub_proxy.refuse();
    let refused = enrol(arguments.clone(), &["--otp-secret", &secret], "").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the hub cannot be used"), "{refused:?}");
    assert!(refused.stdout.is_empty(), "{refused:?}");
    cloud.hub_proxy.restore();
    enrol(arguments, &["--otp-secret", &secret], "").await.done();
}

#[tokio::test]
async fn enrol_detects_a_hub_that_does_not_accept_auths_sessions_and_says_what_to_do() {
    let settings = Settings { hub: &[("auth_key_prefix", "elsewhere")], auth: &[] };
    let cloud = Cloud::start_with(settings).await;
    let redis = RedisServer::start_device().await;
    let folder = tempfile::tempdir().unwrap();
    let secret = provision(&cloud, "dev1").await;
    let arguments = arguments(&cloud, "dev1", &redis, folder.path());
    let refused = enrol(arguments, &["--otp-secret", &secret], "").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("auth_key_prefix"), "{refused:?}");
}
