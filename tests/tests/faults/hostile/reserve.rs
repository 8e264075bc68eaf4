//! Greedy clients fill a Redis with a memory limit: its last part is shared between all clients.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use spoke_protocol::{Seq, limits::WINDOW_BATCHES};
use spoke_tests::{
    api::Api,
    cloud::{IN, admit, now_ms},
    hostile::frames::{Batch, Claim},
    single_service::Stand,
    wait::eventually_true,
    websocket::{hello, session},
};
use tokio_tungstenite::tungstenite::Message;

use crate::hostile::hub;

const MIB: u64 = 1024 * 1024;
/// The memory limit of the Redis that is filled.
const MAX_MIB: u64 = 60;
/// The pause of a greedy client after a refusal.
const RETRY: Duration = Duration::from_millis(200);
/// How long the reserve is observed.
const SPAN: Duration = Duration::from_secs(4);

async fn used(stand: &Stand) -> u64 {
    let info = stand.redis.info("memory").await;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|used| used.trim().parse().ok()).expect("redis reports its memory use")
}

async fn small_redis(stand: &Stand) {
    stand.redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    let max = format!("{MAX_MIB}mb");
    stand.redis.command::<()>(&["CONFIG", "SET", "maxmemory", &max]).await;
}

/// Adds large entries over HTTP until `until`; returns how often the rate limit refused one.
async fn fill(api: &Api, clock: &AtomicU64, until: Instant) -> usize {
    let mut refused = 0;
    let value = "x".repeat(200_000);
    while Instant::now() < until {
        let ms = clock.fetch_add(1, Ordering::Relaxed);
        // As text: in a debug build, turning a large value into JSON takes longer than storing it.
        let body = format!(r#"{{"seq":"{ms}-0","fields":[["blob","{value}"]]}}"#);
        let answer = api.post_body("/xadd", "application/json", body).await;
        match answer.status {
            200 | 409 => {}
            429 => {
                assert_eq!(answer.refusal().1, "too-fast", "{answer:?}");
                assert!(answer.retry_after().is_some());
                refused += 1;
                // Far sooner than `Retry-After`, but not at once: the test is about Redis, not CPU time.
                tokio::time::sleep(RETRY).await;
            }
            _ => panic!("only the rate limit may refuse an entry: {answer:?}"),
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn greedy_clients_are_rate_limited_when_redis_is_nearly_full_and_a_quiet_one_is_not() {
    let stand = hub(&[]).await;
    small_redis(&stand).await;
    let greedy = [stand.client("greedy-1").await, stand.client("greedy-2").await];
    let quiet = stand.client("quiet").await;
    let clocks = [AtomicU64::new(now_ms()), AtomicU64::new(now_ms())];
    let until = Instant::now() + 2 * SPAN;
    let filling = async {
        let each = greedy.iter().zip(&clocks).flat_map(|it| [it; 8]);
        let refused = join_all(each.map(|(api, clock)| fill(api, clock, until))).await;
        refused.iter().sum::<usize>()
    };
    let working = async {
        let (mut n, mut worst) = (now_ms(), Duration::ZERO);
        let first = n;
        while Instant::now() < until {
            n += 1;
            let begun = Instant::now();
            let entry = json!({ "seq": format!("{n}-0"), "fields": [["n", "1"]] });
            quiet.post_json("/xadd", &entry).await.ok();
            worst = worst.max(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (n - first, worst)
    };
    let (refused, (added, worst)) = tokio::join!(filling, working);
    let full = used(&stand).await;
    println!("{} MiB of {MAX_MIB}; {refused} refused; quiet: {added}, worst {worst:?}", full / MIB);
    assert!(full >= MAX_MIB * MIB / 100 * 88, "redis was not filled: {full}");
    assert!(full <= MAX_MIB * MIB / 100 * 97, "the reserve is used up: {full}");
    assert!(refused > 0 && added > 60);
    assert!(worst < Duration::from_secs(2), "the quiet client was slowed down: {worst:?}");
    let log = stand.service.log();
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("redis is nearly full; clients are rate limited"), 1, "{log}");
    assert_eq!(count("client throttled; redis is nearly full"), 2, "once for each: {log}");
    let figures = stand.service.admin().get("/metrics").await.text;
    assert!(figures.lines().any(|line| line == "spoke_hub_reserve_reached 1"), "{figures}");

    stand.redis.command::<u64>(&["DEL", IN]).await;

    eventually_true("the rate limit of all clients to be lifted", async || {
        for (api, clock) in greedy.iter().zip(&clocks) {
            fill(api, clock, Instant::now() + Duration::from_millis(1)).await;
        }
        let log = stand.service.log();
        let over = log.lines().filter(|line| line.contains("client no longer throttled")).count();
        let ended = log
            .lines()
            .find(|line| line.contains("redis has room again; client rate limit lifted"));
        let has_fields =
            |line: &str| line.contains("limited_for_seconds") && line.contains("count");
        ended.is_some_and(has_fields) && over == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limited_agent_keeps_its_session_and_speeds_up_when_memory_is_free() {
    let stand = hub(&[("reserve_kib", "64")]).await;
    let token = admit(&stand.redis, "greedy").await;
    let (mut socket, _) = session(stand.service.address(), &token, hello()).await;
    small_redis(&stand).await;
    // Something else fills Redis up to the reserve.
    let filler = "x".repeat(1024 * 1024);
    while used(&stand).await < MAX_MIB * MIB / 100 * 92 {
        stand.redis.command::<String>(&["XADD", "filler", "*", "x", &filler]).await;
    }
    let batch = Batch::new(1, 1, b"blob", &vec![b'x'; 200 * 1024]);
    let begun = Instant::now();
    let mut ms = now_ms();
    let mut after = Seq::ZERO;
    for _ in 0..WINDOW_BATCHES {
        let claim = Claim { after, ..Claim::at(ms) };
        socket.send(Message::Binary(batch.push(&claim, &[]).into())).await;
        (after, ms) = (Seq::new(ms, 0), ms + 1);
    }
    let mut acks = 0;
    while begun.elapsed() < SPAN {
        if tokio::time::timeout(Duration::from_millis(200), socket.ack()).await.is_ok() {
            acks += 1;
        }
    }
    // At the limited rate 200 KiB take more than three seconds; one second's worth is available at once.
    assert!((1..=3).contains(&acks), "{acks} batches in {SPAN:?}");

    stand.redis.command::<u64>(&["DEL", "filler"]).await;

    while socket.ack().await.seq < after {}
    assert!(begun.elapsed() < 2 * SPAN, "it did not speed up: {:?}", begun.elapsed());
}
