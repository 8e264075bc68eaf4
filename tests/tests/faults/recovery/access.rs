//! Sessions that end, clients that are disabled, and an auth that is down.

use std::time::Duration;

use spoke_tests::{
    checker,
    cloud::{Cloud, IN},
    device::{Device, OUT},
    wait::{PATIENCE, eventually, eventually_is, eventually_true, throughout},
};

use crate::recovery::{TRANSPORTS, add_down, add_up, assert_all_carried};

#[tokio::test]
async fn an_ended_session_is_replaced_automatically() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        for _ in 0..3 {
            add_up(&device, "some", 10).await;
            add_down(&cloud, &device, "some", 10).await;
            device.carried_both_ways(&cloud).await;
            cloud.redis.forget("spoke-auth:session:").await;
        }
        add_up(&device, "last", 10).await;
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn while_auth_is_down_a_device_with_a_session_reconnects() {
    for transport in TRANSPORTS {
        let mut cloud = Cloud::start().await;
        let mut device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        add_up(&device, "first", 10).await;
        device.carried_both_ways(&cloud).await;
        cloud.auth.kill9();
        cloud.hub_proxy.cut();
        add_up(&device, "after a cut", 10).await;
        device.carried_both_ways(&cloud).await;
        device.start_agent();
        add_up(&device, "after a restart", 10).await;
        assert_all_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_device_that_cannot_reach_auth_keeps_its_entries_and_registers_later() {
    let cloud = Cloud::start().await;
    cloud.auth_proxy.refuse();
    let device = Device::start(&cloud, "dev1").await;
    add_up(&device, "early", 100).await;
    eventually("a few tries", PATIENCE, async || {
        let tries = cloud.auth_proxy.connections();
        if tries >= 3 { Ok(()) } else { Err(tries) }
    })
    .await;
    cloud.auth_proxy.restore();
    assert_all_carried(&cloud, &device).await;
}

#[tokio::test]
async fn a_revoked_device_is_disconnected_at_once_and_retries_rarely() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        // As in production: minutes between tries when a person has to act.
        let settings = [
            ("transport", transport),
            ("refused_retry_first_ms", "60000"),
            ("refused_retry_longest_ms", "60000"),
        ];
        let mut device = Device::start_with(&cloud, "dev1", &settings).await;
        add_up(&device, "before", 10).await;
        device.carried_both_ways(&cloud).await;

        let revoke = ["HSET", "spoke-auth:client:dev1:h", "disabled", "1"];
        cloud.redis.command::<()>(&revoke).await;
        cloud.redis.forget("spoke-auth:session:").await;
        let log = format!("the log to report the refusal, over {transport}");
        eventually_true(&log, async || device.log().contains("refused")).await;
        add_up(&device, "afterwards", 10).await;

        let (auth, hub) = (cloud.auth_proxy.connections(), cloud.hub_proxy.connections());
        throughout("nothing more arrives", Duration::from_secs(2), 10, async || {
            cloud.inbound().await.len()
        })
        .await;
        let more = cloud.auth_proxy.connections() - auth + cloud.hub_proxy.connections() - hub;
        assert!(more <= 4, "it connected {more} times in two seconds");
        assert!(device.agent().exit().is_none(), "the agent ended");
    }
}

#[tokio::test]
async fn a_device_that_is_provisioned_again_reconnects_automatically() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    add_up(&device, "before", 10).await;
    device.carried_both_ways(&cloud).await;
    let key = "spoke-auth:client:dev1:h";
    cloud.redis.command::<()>(&["HSET", key, "disabled", "1"]).await;
    cloud.redis.forget("spoke-auth:session:").await;
    eventually_true("the device to be refused", async || device.log().contains("refused")).await;
    add_up(&device, "while disabled", 10).await;

    // As `provision --again` does; the one-time code of this time step was used already.
    cloud.redis.command::<()>(&["DEL", key]).await;
    cloud.provision("dev1").await;

    // A client that is registered again begins new epochs at the hub.
    let all = device.redis.entries(OUT).await;
    let (before, after) = all.split_at(10);
    let carried = async || checker::from_device(&cloud.redis.entries(IN).await, "dev1");
    eventually_is("all entries to be carried", 20, async || carried().await.len()).await;
    let mut expected = checker::expected(before, Some(1));
    expected.extend(checker::expected(after, Some(3)));
    checker::assert_same("up", &expected, &carried().await);
}

#[tokio::test]
async fn a_registration_whose_response_was_lost_is_completed() {
    let cloud = Cloud::start().await;
    cloud.auth_proxy.lose_downstream();
    let device = Device::start(&cloud, "dev1").await;
    eventually_true("auth to have registered it", async || {
        cloud.redis.hash("spoke-auth:client:dev1:h").await.contains_key("registeredAt")
    })
    .await;
    cloud.auth_proxy.cut();
    cloud.auth_proxy.restore();
    add_up(&device, "after", 10).await;
    assert_all_carried(&cloud, &device).await;
}

#[tokio::test]
async fn a_registered_device_no_longer_needs_the_one_time_secret() {
    let cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    add_up(&device, "first", 1).await;
    device.carried_both_ways(&cloud).await;
    device.stop_agent().await;
    std::fs::remove_file(device.folder().join("otp-secret")).unwrap();
    cloud.redis.forget("spoke-auth:session:").await;
    device.start_agent();
    add_up(&device, "second", 1).await;
    assert_all_carried(&cloud, &device).await;
}

#[tokio::test]
async fn no_log_contains_a_secret_or_a_token() {
    let cloud = Cloud::start().await;
    let mut device = Device::start_with(&cloud, "dev1", &[("log.level", "trace")]).await;
    add_up(&device, "first", 1).await;
    device.carried_both_ways(&cloud).await;
    device.stop_agent().await;
    let state = device.folder().join("state");
    let secret = std::fs::read_to_string(state.join("secret")).unwrap();
    let session = std::fs::read_to_string(state.join("session")).unwrap();
    let token = longest_word(&session);
    let logs = [device.log(), cloud.auth.log(), cloud.hub.log()];
    for log in logs {
        assert!(!log.contains(secret.trim()), "the device's secret is in a log");
        assert!(!log.contains(token), "the token is in a log");
        assert!(!log.contains(spoke_tests::cloud::OTP_SECRET), "the one-time secret is in a log");
    }
}

/// The token in the session file, whatever surrounds it.
fn longest_word(text: &str) -> &str {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
    words.max_by_key(|word| word.len()).expect("the session file has words")
}
