//! Sessions of one client at two hubs.

use spoke_protocol::message::GoawayReason;
use spoke_tests::{
    wait::{eventually_is, eventually_true},
    websocket::session,
};

use crate::duplicate_identity::{
    A, B, BELL, CLIENT, another_hub, assert_carries, connect, first_entry, hello_of, hub,
    is_connected, poll, post_session, refusal, token,
};

#[tokio::test]
async fn an_idle_older_session_on_another_hub_is_superseded_at_once() {
    let stand = hub().await;
    let (_folder, other) = another_hub(&stand).await;
    let token = token(&stand).await;
    // First a reconnect of the same device: its old session on the other hub is closed as well.
    let mut older = connect(&stand.service, &token, A).await;
    let mut newer = connect(&other, &token, A).await;
    assert_eq!(older.goaway().await.reason, GoawayReason::Superseded);
    let mut clone = connect(&stand.service, &token, B).await;
    assert_eq!(newer.goaway().await.reason, GoawayReason::Superseded);
    assert_carries(&mut clone).await;
}

#[tokio::test]
async fn a_read_that_waits_at_another_hub_is_superseded_at_once() {
    let stand = hub().await;
    let (_folder, other) = another_hub(&stand).await;
    let dev1 = stand.client("dev1").await;
    let generation = post_session(&dev1, A).await.ok()["generation"].clone();
    let waiting = tokio::spawn({
        let at_other = other.api().with_token(dev1.token().unwrap());
        async move { poll(&at_other, &generation, 25_000).await }
    });
    let admin = other.admin();
    eventually_true("a read to wait", async || {
        admin.get("/metrics").await.text.contains("spoke_hub_connections 1\n")
    })
    .await;

    post_session(&dev1, A).await.ok();

    // Without the bell the read would end with an empty answer.
    assert_eq!(waiting.await.unwrap().refusal(), (409, "superseded".to_owned()));
}

#[tokio::test]
async fn sessions_of_a_killed_hub_no_longer_count_once_its_key_has_expired() {
    let stand = hub().await;
    let (_folder, mut other) = another_hub(&stand).await;
    let token = token(&stand).await;
    let mut first = connect(&stand.service, &token, A).await;
    let _second = connect(&other, &token, B).await;
    first.goaway().await;
    let name = stand.redis.hash(CLIENT).await["hub"].clone();
    let key = format!("spoke-hub:hub:{name}");
    let ttl_ms: u64 = stand.redis.command(&["PTTL", &key]).await;
    assert!((1..=30_000).contains(&ttl_ms), "{ttl_ms}");
    other.kill9();
    refusal(&stand.service, &token, A).await;
    assert!(is_connected(&stand).await, "the hub's key has not expired yet");

    // As if half a minute had passed.
    stand.redis.command::<()>(&["PEXPIRE", &key, "0"]).await;

    assert!(!is_connected(&stand).await);
    assert_carries(&mut connect(&stand.service, &token, A).await).await;
}

#[tokio::test]
async fn a_stale_record_of_a_connected_session_is_cleared() {
    let stand = hub().await;
    let token = token(&stand).await;
    let mut first = connect(&stand.service, &token, A).await;
    let second = connect(&stand.service, &token, B).await;
    first.goaway().await;
    // This state is restored after both sessions have ended.
    let saved = stand.redis.hash(CLIENT).await;
    drop(second);
    eventually_is("the session's end to be recorded", false, async || is_connected(&stand).await)
        .await;
    for (field, value) in &saved {
        stand.redis.command::<()>(&["HSET", CLIENT, field, value]).await;
    }
    assert!(is_connected(&stand).await);

    refusal(&stand.service, &token, A).await;

    eventually_is("the hub to clear the record", false, async || is_connected(&stand).await).await;
    assert_carries(&mut connect(&stand.service, &token, A).await).await;
}

#[tokio::test]
async fn a_missed_bell_is_made_up_for_once_hints_are_back() {
    let stand = hub().await;
    let token = token(&stand).await;
    let mut idle = connect(&stand.service, &token, A).await;
    // As if another hub had accepted the client while this one was not subscribed.
    stand.redis.command::<()>(&["HINCRBY", CLIENT, "generation", "1"]).await;
    assert!(!stand.redis.command::<bool>(&["EXISTS", BELL]).await);

    let clients: String = stand.redis.command(&["CLIENT", "LIST"]).await;
    let subscriber = clients.lines().find(|line| line.contains(" flags=tB ")).unwrap();
    let id = subscriber.split(' ').next().and_then(|id| id.strip_prefix("id=")).unwrap();
    stand.redis.command::<()>(&["CLIENT", "KILL", "ID", id]).await;

    assert_eq!(idle.goaway().await.reason, GoawayReason::Superseded);
}

#[tokio::test]
async fn a_redis_reset_to_an_earlier_state_reissues_no_generation_so_the_fence_holds() {
    let stand = hub().await;
    let (_folder, other) = another_hub(&stand).await;
    let token = token(&stand).await;
    drop(connect(&stand.service, &token, A).await);
    eventually_is("the session's end to be recorded", false, async || is_connected(&stand).await)
        .await;
    let saved = stand.redis.hash(CLIENT).await;
    let (mut older, first) = session(stand.service.address(), &token, hello_of(A)).await;

    stand.redis.command::<()>(&["DEL", CLIENT]).await;
    for (field, value) in &saved {
        stand.redis.command::<()>(&["HSET", CLIENT, field, value]).await;
    }
    let (mut newer, second) = session(other.address(), &token, hello_of(B)).await;

    assert!(second.generation > first.generation, "{first:?} {second:?}");
    older.send_frame(&first_entry()).await;
    // The hub sees either the other session or the restored state first.
    let reason = older.goaway().await.reason;
    assert!(matches!(reason, GoawayReason::Superseded | GoawayReason::Gap), "{reason:?}");
    assert_carries(&mut newer).await;
}
