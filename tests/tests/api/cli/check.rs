//! `check` of all three programs: each possible fault is provoked, and reported with how to fix it.

use std::{fs, os::unix::fs::PermissionsExt};

use spoke_tests::{
    binaries::path_of,
    cloud::Cloud,
    device::{Device, OUT},
    process::{Finished, Start, run},
    redis::{RedisServer, free_port},
    sentinels::SentinelGroup,
};

/// Returns verdict, finding and help of the line about a setting.
fn line(checked: &Finished, setting: &str) -> (String, String, String) {
    let lines = checked.json();
    let lines = lines.as_array().expect("a list of findings");
    let found = lines.iter().find(|line| line["setting"] == setting);
    let found = found.unwrap_or_else(|| panic!("no line about {setting}: {checked:?}"));
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("finding"), text("help"))
}

/// Starts a device and waits until it is connected.
async fn device(cloud: &Cloud) -> Device {
    let admin = format!("127.0.0.1:{}", free_port());
    let device = Device::start_with(cloud, "dev1", &[("admin_listen", &admin)]).await;
    device.redis.command::<String>(&["XADD", OUT, "*", "field", "value"]).await;
    device.acknowledged_both_ways(cloud).await;
    device
}

#[tokio::test]
async fn on_a_healthy_device_every_line_of_check_is_ok() {
    let cloud = Cloud::start().await;
    let device = device(&cloud).await;
    // As shipped; the harness syncs less.
    device.redis.command::<()>(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    let checked = device.command(&["check"]).await.done();
    let settings = ["settings", "redis", "state_dir", "auth", "hub", "clock", "agent"];
    for setting in settings {
        assert!(checked.stdout.contains(&format!("ok    {setting}: ")), "{setting}: {checked:?}");
    }
    let helps = checked.stdout.lines().filter(|line| line.contains("help:"));
    assert_eq!(helps.count(), 0, "{checked:?}");
}

#[tokio::test]
async fn check_tells_which_sentinels_answer_and_which_server_they_name() {
    let mut group = SentinelGroup::start().await;
    let primary = format!("127.0.0.1:{} as the primary", group.servers[0].port());
    for (answer, verdict) in [(3, "ok   "), (2, "warn "), (1, "fail ")] {
        for (program, name) in
            [("spoke-hub", "SPOKE_HUB_REDIS"), ("spoke-auth", "SPOKE_AUTH_REDIS")]
        {
            let start = Start::with(&["check"]).variable(name, group.url());
            let checked = run(&path_of(program), &start).await;
            let expected =
                format!("{verdict} redis: {answer} of 3 Sentinels answer, and name {primary}");
            assert!(checked.stdout.contains(&expected), "{checked:?}");
        }
        match answer {
            3 => group.pause_sentinel(2),
            _ => group.kill_sentinel(answer - 1),
        }
    }
}

#[tokio::test]
async fn check_names_each_fault_of_a_device_and_says_how_to_fix_it() {
    let cloud = Cloud::start().await;
    let mut device = device(&cloud).await;
    device.stop_agent().await;
    let secret = device.folder().join("state/secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    cloud.hub_proxy.refuse();
    device.redis.kill9();

    let checked = device.command(&["check", "--json"]).await;

    assert_eq!(checked.code, Some(1), "{checked:?}");
    for (setting, verdict, finding, help) in [
        ("settings", "ok", "client dev1", ""),
        ("redis", "fail", "", "start Redis"),
        ("state_dir", "fail", "mode 644", "chmod 600"),
        ("auth", "ok", "answers", ""),
        ("hub", "fail", "failed to reach", "network"),
        ("agent", "warn", "no response at", "systemctl start spoke-agent"),
    ] {
        let found = line(&checked, setting);
        assert_eq!(found.0, verdict, "{checked:?}");
        let is_as_expected = found.1.contains(finding) && found.2.contains(help);
        assert!(is_as_expected, "{found:?} instead of {finding:?} and {help:?}");
    }
}

#[tokio::test]
async fn check_advises_enrol_without_settings_and_reports_a_name_without_dns_entry() {
    let redis = RedisServer::start().await;
    let start = Start::with(&["check", "--json"]).variable("SPOKE_AGENT_REDIS", redis.url());
    let bare = run(&path_of("spoke-agent"), &start).await;
    let (verdict, finding, help) = line(&bare, "settings");
    assert_eq!((bare.code, verdict.as_str()), (Some(1), "fail"), "{bare:?}");
    assert!(finding.contains("client") && help.contains("spoke-agent enrol"), "{bare:?}");
    for setting in ["auth", "hub", "clock", "agent"] {
        assert_eq!(line(&bare, setting).0, "skip", "{bare:?}");
    }

    let unknown_host = "https://nowhere.invalid";
    let start = start
        .variable("SPOKE_AGENT_CLIENT", "dev1")
        .variable("SPOKE_AGENT_AUTH", unknown_host)
        .variable("SPOKE_AGENT_HUB", unknown_host);
    let unresolved = run(&path_of("spoke-agent"), &start).await;
    let (verdict, finding, help) = line(&unresolved, "hub");
    assert_eq!(verdict, "fail", "{unresolved:?}");
    assert!(finding.contains("nowhere.invalid") && help.contains("DNS"), "{unresolved:?}");
    assert_eq!(
        line(&unresolved, "clock").0,
        "skip",
        "no service returned the time: {unresolved:?}"
    );
}

#[tokio::test]
async fn check_of_hub_and_auth_reports_listeners_and_unsupported_ack_levels() {
    let cloud = Cloud::start().await;
    for (program, variable, listen, address) in [
        ("spoke-hub", "SPOKE_HUB_REDIS", "SPOKE_HUB_LISTEN", cloud.hub.address()),
        ("spoke-auth", "SPOKE_AUTH_REDIS", "SPOKE_AUTH_LISTEN", cloud.auth.address()),
    ] {
        let start = Start::with(&["check", "--json"])
            .variable(variable, cloud.redis.url())
            .variable(listen, address.to_string());
        let checked = run(&path_of(program), &start).await;
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert_eq!(line(&checked, "listen").0, "ok", "{checked:?}");
        let closed = start.variable(listen, format!("127.0.0.1:{}", free_port()));
        let checked = run(&path_of(program), &closed).await;
        assert_eq!(line(&checked, "listen").0, "warn", "{checked:?}");
    }
    let start = Start::with(&["check", "--json"])
        .variable("SPOKE_HUB_REDIS", cloud.redis.url())
        .variable("SPOKE_HUB_ACK", "replicas:1");
    let checked = run(&path_of("spoke-hub"), &start).await;
    assert_eq!((checked.code, line(&checked, "ack").0.as_str()), (Some(1), "fail"), "{checked:?}");
}

#[tokio::test]
async fn what_cannot_be_checked_is_reported_as_not_checked_and_never_as_ok() {
    let redis = format!("redis://127.0.0.1:{}", free_port());
    for level in ["memory", "fsync", "replicas:1"] {
        let start = Start::with(&["check", "--json"])
            .variable("SPOKE_HUB_REDIS", &redis)
            .variable("SPOKE_HUB_ACK", level);
        let checked = run(&path_of("spoke-hub"), &start).await;
        let (verdict, finding, _) = line(&checked, "ack");
        assert_eq!(verdict, "skip", "{level}: {checked:?}");
        assert!(finding.contains("not checked") && finding.contains("refused"), "{finding}");
        assert_eq!((checked.code, line(&checked, "redis").0.as_str()), (Some(1), "fail"));
    }
}

#[tokio::test]
async fn all_three_warn_of_a_world_readable_settings_file_with_a_password() {
    let cloud = Cloud::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    let config = file.display().to_string();
    // The Redis needs no password. Its refusal of this one is reported on another line.
    let url = cloud.redis.url().replacen("redis://", "redis://:hunter2@", 1);
    for (program, text, mode, verdict, words) in [
        ("spoke-hub", format!("redis = \"{url}\""), 0o644, "warn", "(redis)"),
        ("spoke-auth", format!("redis = \"{url}\""), 0o644, "warn", "(redis)"),
        ("spoke-agent", format!("redis = \"{url}\""), 0o644, "warn", "(redis)"),
        ("spoke-hub", format!("auth_redis = '{url}'"), 0o604, "warn", "(auth_redis)"),
        ("spoke-agent", format!("# redis = \"{url}\""), 0o644, "warn", "(redis)"),
        ("spoke-auth", format!("redis = \"{url}\""), 0o640, "ok", "owner and group"),
        ("spoke-hub", format!("redis = \"{url}\""), 0o600, "ok", "owner and group"),
        ("spoke-hub", String::new(), 0o644, "ok", "no password"),
        ("spoke-auth", String::new(), 0o666, "warn", "can change"),
    ] {
        fs::write(&file, &text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let start = Start::with(&["check", "--json", "--config", &config]);
        let checked = run(&path_of(program), &start).await;
        let found = line(&checked, "settings_file");
        assert_eq!(found.0, verdict, "{program} {mode:o}: {checked:?}");
        assert!(found.1.contains(words), "{program} {mode:o}: {found:?}");
        assert!(!checked.stdout.contains("hunter2"), "{checked:?}");
        let has_help =
            found.2.contains(&format!("chgrp {program} ")) && found.2.contains("chmod 640");
        assert_eq!(has_help, verdict == "warn", "{found:?}");
    }
}
