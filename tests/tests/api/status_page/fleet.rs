//! Many clients and many viewers: the page and its cost are bounded.

use std::time::Duration;

use http::Method;
use redis::pipe;
use spoke_hub::limits::{SURVEY_INTERVAL, VIEWERS_MAX};
use spoke_tests::{
    single_service::Stand,
    wait::{PATIENCE, eventually, eventually_is, throughout},
};

use super::{client_with_session, hub};

async fn open_stream(stand: &Stand, path: &str) -> reqwest::Response {
    let admin = stand.service.admin();
    admin.request(Method::GET, path).send().await.expect("the listener accepts the connection")
}

/// How often scripts ran. An idle hub runs only surveys.
async fn surveys(stand: &Stand) -> u64 {
    let stats = stand.redis.info("commandstats").await;
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
    let calls = line.and_then(|line| line.split(['=', ',']).nth(1)?.parse().ok());
    calls.unwrap_or(0)
}

#[tokio::test]
async fn ten_thousand_clients_are_paginated_counted_and_searchable() {
    let stand = hub(&[]).await;
    let mut add = pipe();
    for n in 0..10_000 {
        let key = format!("spoke-hub:client:dev{n:05}:h");
        add.cmd("HSET").arg(key).arg(&["in", "1 5-0 2 1700000000000 - - ~"]).ignore();
    }
    let () = add.query_async(&mut stand.redis.connection()).await.unwrap();
    let admin = stand.service.admin();

    let first = admin.get("/").await;

    assert_eq!(first.status, 200, "{first:?}");
    assert!(first.text.len() < 100_000, "{} bytes", first.text.len());
    assert!(first.text.contains("10\u{202f}000") && first.text.contains("20\u{202f}000"));
    assert!(first.text.contains("/clients/dev00000") && !first.text.contains("dev00050"));
    let found = admin.get("/?q=DEV09876").await.text;
    assert!(found.contains("/clients/dev09876") && !found.contains("/clients/dev00000"));
    let last = admin.get("/?page=200").await.text;
    assert!(last.contains("/clients/dev09999") && !last.contains("rel=\"next\""));
}

#[tokio::test]
async fn viewers_get_live_updates_share_one_survey_and_are_limited() {
    let stand = hub(&[]).await;
    client_with_session(&stand, "dev1", "1").await;
    let admin = stand.service.admin();
    let before = surveys(&stand).await;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS_MAX {
        viewers.push(open_stream(&stand, "/live").await);
    }
    for (at, viewer) in viewers.iter_mut().enumerate() {
        assert_eq!(viewer.status(), 200, "viewer {at}");
        let chunk =
            tokio::time::timeout(PATIENCE, viewer.chunk()).await.expect("an update in time");
        let text = String::from_utf8_lossy(&chunk.unwrap().unwrap_or_default()).into_owned();
        assert!(text.contains("dev1"), "viewer {at}: {text}");
    }
    assert!(
        surveys(&stand).await - before < VIEWERS_MAX as u64 / 2,
        "each viewer has its own survey"
    );
    assert_eq!(admin.get("/live").await.refusal(), (503, "too-many-viewers".to_owned()));
    assert_eq!(admin.get("/metrics").await.status, 200, "a scraper is still served");
    assert_eq!(admin.get("/").await.status, 200, "the page is still served");

    drop(viewers);

    eventually("a viewer to be accepted again", PATIENCE, async || {
        let again = open_stream(&stand, "/clients/dev1/live").await;
        if again.status() == 200 { Ok(()) } else { Err(again.status()) }
    })
    .await;
}

#[tokio::test]
async fn without_viewers_redis_is_not_queried() {
    let stand = hub(&[]).await;
    client_with_session(&stand, "dev1", "1").await;
    let viewer = open_stream(&stand, "/live").await;
    let before = surveys(&stand).await;
    eventually("a survey", PATIENCE, async || {
        let now = surveys(&stand).await;
        if now > before { Ok(()) } else { Err(now) }
    })
    .await;
    drop(viewer);
    eventually("the surveys to end", PATIENCE, async || {
        let before = surveys(&stand).await;
        tokio::time::sleep(2 * SURVEY_INTERVAL).await;
        if surveys(&stand).await == before { Ok(()) } else { Err(before) }
    })
    .await;
    let ended = surveys(&stand).await;
    throughout("redis is not queried", Duration::from_secs(3), ended, async || {
        surveys(&stand).await
    })
    .await;
}

#[tokio::test]
async fn a_hub_that_shuts_down_disconnects_its_viewers() {
    let mut stand = hub(&[]).await;
    let mut viewer = open_stream(&stand, "/live").await;
    assert_eq!(viewer.status(), 200);
    let began = std::time::Instant::now();
    assert_eq!(stand.service.terminate().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "shutdown took {:?}", began.elapsed());
    eventually_is("the stream to end", true, async || !matches!(viewer.chunk().await, Ok(Some(_))))
        .await;
}
