//! Which sessions are accepted, at one hub.

use spoke_hub::limits::CLONE_WAIT;
use spoke_protocol::{InstanceId, message::GoawayReason};
use spoke_tests::{
    wait::eventually_is,
    websocket::{JSON_SUBPROTOCOL, open},
};

use crate::duplicate_identity::{
    A, A_RESTARTED, B, BELL, CLIENT, assert_carries, connect, hub, is_connected, poll,
    post_session, refusal, refused_sessions, token,
};

#[tokio::test]
async fn a_device_that_returns_while_its_clone_is_connected_is_refused_with_the_reason() {
    let stand = hub().await;
    let token = token(&stand).await;
    let mut first = connect(&stand.service, &token, A).await;
    let mut second = connect(&stand.service, &token, B).await;
    assert_eq!(first.goaway().await.reason, GoawayReason::Superseded);
    let connected = stand.redis.hash(CLIENT).await["address"].clone();

    for _ in 0..3 {
        let goaway = refusal(&stand.service, &token, A).await;
        assert_eq!(goaway.reason, GoawayReason::Superseded);
        assert!(u128::from(goaway.wait_ms) >= CLONE_WAIT.as_millis(), "{goaway:?}");
        let refused = stand.redis.hash(CLIENT).await["clone_address"].clone();
        assert_ne!(connected, refused);
        for word in [&connected, &refused, "enrol", "revoke dev1"] {
            assert!(goaway.message.contains(word), "{word} is not in {goaway:?}");
        }
    }

    assert_carries(&mut second).await;
    assert_eq!(refused_sessions(&stand).await.as_deref(), Some("3"));
    let metrics = stand.service.admin().get("/metrics").await.text;
    assert!(metrics.contains("\nspoke_hub_sessions_refused_clone_total 3\n"), "{metrics}");
    let log = stand.service.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "one warning, and not one for each try: {warnings:?}");
    assert!(warnings[0].contains(&connected) && warnings[0].contains("127.0.0.1:"), "{warnings:?}");
    let text = stand.command(&["clients"]).await.done().stdout;
    let last = stand.redis.hash(CLIENT).await["clone_address"].clone();
    assert!(
        text.contains(&connected) && text.contains(&last) && text.contains("3 times"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[tokio::test]
async fn over_http_the_refusal_has_the_same_advice_and_a_retry_after() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let first = post_session(&dev1, A).await.ok()["generation"].clone();
    let second = post_session(&dev1, B).await.ok()["generation"].clone();
    assert_eq!(poll(&dev1, &first, 0).await.refusal(), (409, "superseded".to_owned()));

    let refused = post_session(&dev1, A).await;

    assert_eq!(refused.refusal(), (409, "superseded".to_owned()));
    assert_eq!(refused.retry_after(), Some(CLONE_WAIT.as_secs()));
    assert!(refused.message().contains("revoke dev1"), "{refused:?}");
    assert_eq!(poll(&dev1, &second, 0).await.status, 200, "the other session still works");
    assert_eq!(
        refusal(&stand.service, dev1.token().unwrap(), A).await.reason,
        GoawayReason::Superseded
    );
}

#[tokio::test]
async fn a_restarted_device_connects_at_once_despite_its_half_open_old_session() {
    let stand = hub().await;
    let token = token(&stand).await;
    let mut half_open = connect(&stand.service, &token, A).await;
    let mut restarted = connect(&stand.service, &token, A_RESTARTED).await;
    assert_carries(&mut restarted).await;
    assert_eq!(half_open.goaway().await.reason, GoawayReason::Superseded);
    assert_eq!(refused_sessions(&stand).await, None);
}

#[tokio::test]
async fn a_device_that_reconnects_or_changes_transport_is_accepted_without_a_warning() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let token = dev1.token().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(connect(&stand.service, token, A).await);
        post_session(&dev1, A).await.ok();
    }
    assert_carries(&mut connect(&stand.service, token, A).await).await;
    assert_eq!(refused_sessions(&stand).await, None);
    assert_eq!(stand.redis.hash(CLIENT).await["former"], "");
    assert!(!stand.service.log().contains("WARN"), "{}", stand.service.log());
}

#[tokio::test]
async fn once_the_connected_device_is_gone_the_other_is_accepted() {
    let stand = hub().await;
    let token = token(&stand).await;
    let mut first = connect(&stand.service, &token, A).await;
    let second = connect(&stand.service, &token, B).await;
    first.goaway().await;
    refusal(&stand.service, &token, A).await;

    drop(second);
    eventually_is("the hub to see the session's end", false, async || is_connected(&stand).await)
        .await;

    let mut first = connect(&stand.service, &token, A).await;
    refusal(&stand.service, &token, B).await;
    assert_carries(&mut first).await;
    let log = stand.service.log();
    assert_eq!(log.matches("WARN").count(), 2, "one warning for each refused device: {log}");
}

#[tokio::test]
async fn an_http_session_counts_as_connected_while_it_polls_and_no_longer() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    post_session(&dev1, A).await.ok();
    let second = post_session(&dev1, B).await.ok()["generation"].clone();
    let seconds_ago = |seconds: u64| (spoke_tests::cloud::now_ms() - 1000 * seconds).to_string();
    let set = async |at: String| {
        stand.redis.command::<()>(&["HSET", CLIENT, "last_seen", &at]).await;
    };
    set(seconds_ago(80)).await;
    assert_eq!(post_session(&dev1, A).await.status, 409, "the session may be waiting for entries");
    set(seconds_ago(120)).await;
    assert!(!is_connected(&stand).await);
    assert_eq!(poll(&dev1, &second, 0).await.status, 200);
    assert!(is_connected(&stand).await, "the session polled again");
    assert_eq!(post_session(&dev1, A).await.status, 409);
    set(seconds_ago(120)).await;
    assert_eq!(
        post_session(&dev1, A).await.status,
        200,
        "the session has not polled for two minutes"
    );
}

#[tokio::test]
async fn a_client_without_an_instance_id_is_always_accepted() {
    let stand = hub().await;
    let token = token(&stand).await;
    let mut device = connect(&stand.service, &token, A).await;
    for _ in 0..2 {
        let mut browser = open(stand.service.address(), &token, JSON_SUBPROTOCOL).await;
        browser.ask("echo", 1, "here".into()).await;
    }
    assert_eq!(device.goaway().await.reason, GoawayReason::Superseded);
    let mut unknown = connect(&stand.service, &token, InstanceId::UNKNOWN).await;
    assert_carries(&mut unknown).await;
    assert_eq!(refused_sessions(&stand).await, None);
}

#[tokio::test]
async fn only_the_last_four_former_instances_are_remembered() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    for restart in 1..=20 {
        post_session(&dev1, InstanceId(restart)).await.ok();
    }
    let former = stand.redis.hash(CLIENT).await["former"].clone();
    let last: Vec<_> = (16..=19).map(|restart| InstanceId(restart).to_string()).collect();
    assert_eq!(former, last.join(" "));
}

#[tokio::test]
async fn sessions_at_a_single_hub_ring_no_bell() {
    let stand = hub().await;
    let token = token(&stand).await;
    for instance in [A, A, A_RESTARTED] {
        connect(&stand.service, &token, instance).await;
    }
    assert!(!stand.redis.command::<bool>(&["EXISTS", BELL]).await);
}
