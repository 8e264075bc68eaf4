//! Which clients are shown as connected.

use spoke_tests::wait::{eventually_is, eventually_true};

use crate::duplicate_identity::{A, CLIENT, connect, hub, is_connected, token};

#[tokio::test]
async fn a_hub_records_its_liveness_and_removes_it_at_a_clean_stop() {
    let mut stand = hub().await;
    let keys = async |stand: &spoke_tests::single_service::Stand| -> usize {
        stand.redis.command::<Vec<String>>(&["KEYS", "spoke-hub:hub:*"]).await.len()
    };
    eventually_is("the hub to write its key", 1, async || keys(&stand).await).await;
    let token = token(&stand).await;
    let mut socket = connect(&stand.service, &token, A).await;
    assert!(is_connected(&stand).await);

    stand.service.terminate().await;

    socket.goaway().await;
    assert_eq!(keys(&stand).await, 0);
    assert!(!is_connected(&stand).await);
}

#[tokio::test]
async fn a_hub_records_its_liveness_again_after_redis_was_down() {
    let mut stand = hub().await;
    let token = token(&stand).await;
    let _socket = connect(&stand.service, &token, A).await;
    let name = stand.redis.hash(CLIENT).await["hub"].clone();
    let key = format!("spoke-hub:hub:{name}");
    stand.redis.command::<()>(&["DEL", &key]).await;
    stand.redis.kill9();
    eventually_true("the hub to lose its redis", async || stand.service.log().contains("WARN"))
        .await;
    stand.redis.restart().await;
    eventually_true("the hub to write its key", async || {
        stand.redis.command(&["EXISTS", &key]).await
    })
    .await;
}

#[tokio::test]
async fn a_session_end_that_redis_missed_is_recorded_once_redis_is_back() {
    let mut stand = hub().await;
    let token = token(&stand).await;
    let socket = connect(&stand.service, &token, A).await;
    stand.redis.kill9();
    drop(socket);
    eventually_true("the hub to see the session's end", async || {
        stand.service.log().contains("failed to record the end of a session")
    })
    .await;
    stand.redis.restart().await;
    eventually_is("the session's end to be recorded", false, async || {
        stand.redis.hash(CLIENT).await.contains_key("connected_since")
    })
    .await;
}
