//! The hub when its Redis fails, when it shuts down, and when requests are malformed.

use std::time::{Duration, Instant};

use spoke_tests::{
    api::{Answer, Api},
    wait::{eventually_is, eventually_true},
};

use crate::hub_http::{IN, carried, entry_body, hub, inbound};

fn assert_unavailable(answers: impl IntoIterator<Item = Answer>) {
    for answer in answers {
        assert_eq!(answer.refusal(), (503, "unavailable".to_owned()));
    }
}

#[tokio::test]
async fn the_hub_answers_503_while_redis_is_down_and_continues_where_it_was() {
    let mut stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    stand.redis.kill9();

    assert_unavailable([
        dev1.post_json("/xadd", &entry_body("2-0", 2)).await,
        dev1.get("/seq").await,
        dev1.get("/xread?blockMs=5000").await,
    ]);
    let admin = stand.service.admin();
    assert_eq!(admin.get("/readyz").await.status, 503);
    assert_eq!(
        admin.get("/healthz").await.status,
        200,
        "the hub is alive, and a restart would not help"
    );

    stand.redis.restart().await;
    stand.service.ready().await;
    eventually_is("the entry to be stored", 200, async || {
        // A refused entry may be sent again any number of times; it is stored once.
        match dev1.post_json("/xadd", &entry_body("2-0", 2)).await.status {
            409 => 200,
            status => status,
        }
    })
    .await;
    assert_eq!(inbound(&stand.redis).await, carried("dev1", 1, [1, 2]));
}

#[tokio::test]
async fn a_full_redis_gives_503_and_the_entry_is_neither_stored_nor_skipped() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    stand.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_unavailable([dev1.post_json("/xadd", &entry_body("2-0", 2)).await]);
    stand.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "1-0");
    dev1.post_json("/xadd", &entry_body("2-0", 2)).await.ok();
    assert_eq!(inbound(&stand.redis).await, carried("dev1", 1, [1, 2]));
}

#[tokio::test]
async fn a_hub_that_starts_on_a_full_redis_answers_what_needs_no_write() {
    let mut stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    stand.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    stand.service.restart().await;
    let dev1 = Api::new(stand.service.address()).with_token(dev1.token().unwrap());
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "1-0");
    assert_unavailable([dev1.post_json("/xadd", &entry_body("2-0", 2)).await]);
}

#[tokio::test]
async fn a_read_only_replica_gives_503() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    stand.redis.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_unavailable([dev1.post_json("/xadd", &entry_body("2-0", 2)).await]);
    stand.redis.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    dev1.post_json("/xadd", &entry_body("2-0", 2)).await.ok();
}

#[tokio::test]
async fn scripts_are_loaded_again_after_script_flush() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    stand.redis.command::<()>(&["SCRIPT", "FLUSH"]).await;
    dev1.post_json("/xadd", &entry_body("2-0", 2)).await.ok();
    assert_eq!(inbound(&stand.redis).await, carried("dev1", 1, [1, 2]));
}

#[tokio::test]
async fn a_key_of_the_wrong_type_does_not_move_the_cursor() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    stand.redis.command::<()>(&["SET", IN, "of another program"]).await;
    let answer = dev1.post_json("/xadd", &entry_body("1-0", 1)).await;
    assert!(matches!(answer.refusal().0, 500 | 503), "{answer:?}");
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "0-0", "the cursor did not move");
    stand.redis.command::<()>(&["DEL", IN]).await;
    dev1.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
}

#[tokio::test]
async fn a_killed_hub_keeps_its_sessions_and_cursors() {
    let mut stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let token = dev1.token().unwrap().to_owned();
    dev1.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    stand.service.restart().await;
    let dev1 = stand.api().with_token(&token);
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "1-0");
    assert_eq!(dev1.post_json("/xadd", &entry_body("1-0", 1)).await.status, 409);
}

#[tokio::test]
async fn the_hub_exits_with_0_on_sigterm_in_time_despite_an_idle_connection() {
    let mut stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.get("/seq").await.ok();
    let idle = tokio::net::TcpStream::connect(stand.service.address()).await.unwrap();
    let begun = Instant::now();
    let status = stand.service.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
    drop(idle);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_get_the_usual_error_body() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    for path in ["/", "/nothing", "/metrics", "/healthz", "/seq/", "/xadd/1-0"] {
        assert_eq!(dev1.get(path).await.refusal(), (404, "not-found".to_owned()), "{path}");
    }
    let answer = dev1.get("/xadd").await;
    assert_eq!(answer.refusal(), (405, "method-not-allowed".to_owned()));
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = dev1.post("/seq").await;
    assert_eq!(answer.refusal(), (405, "method-not-allowed".to_owned()));
}

#[tokio::test]
async fn health_and_metrics_are_on_the_admin_listener() {
    let stand = hub().await;
    stand.client("dev1").await.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    let admin = stand.service.admin();
    assert_eq!(admin.get("/healthz").await.status, 200);
    stand.service.ready().await;
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.text.contains("spoke_hub"), "{metrics:?}");
    assert!(!metrics.text.contains("dev1"), "client names are not labels: {metrics:?}");
}

#[tokio::test]
async fn a_request_with_unfinished_headers_is_cut_off_and_others_are_served() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let api = stand.api();
    let slow = tokio::spawn(async move { api.raw(b"GET /seq HTTP/1.1\r\nX-Slow: ").await });
    dev1.post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    eventually_true("the slow connection to be cut off", async || slow.is_finished()).await;
}
