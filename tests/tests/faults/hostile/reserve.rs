//! A Redis with a limit that greedy clients fill: the last part of it is for all.

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
/// Of the Redis that is filled.
const MAX_MIB: u64 = 60;
/// Between two tries of a greedy client that was refused.
const RETRY: Duration = Duration::from_millis(200);
/// For how long the reserve is looked at.
const SPAN: Duration = Duration::from_secs(4);

async fn used(stand: &Stand) -> u64 {
    let info = stand.redis.info("memory").await;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|used| used.trim().parse().ok()).expect("redis says what it uses")
}

async fn small_redis(stand: &Stand) {
    stand.redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    let max = format!("{MAX_MIB}mb");
    stand.redis.command::<()>(&["CONFIG", "SET", "maxmemory", &max]).await;
}

/// Fills over HTTP until the time is up, and gives how often it was refused for its pace.
async fn fill(api: &Api, clock: &AtomicU64, until: Instant) -> usize {
    let mut refused = 0;
    let value = "x".repeat(200_000);
    while Instant::now() < until {
        let ms = clock.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "seq": format!("{ms}-0"), "fields": [["blob", value]] });
        let answer = api.post_json("/xadd", &body).await;
        match answer.status {
            200 | 409 => {}
            429 => {
                assert_eq!(answer.refusal().1, "too-fast", "{answer:?}");
                assert!(answer.retry_after().is_some());
                refused += 1;
                // Far sooner than it is told, but not at once: this is about Redis and not about processors.
                tokio::time::sleep(RETRY).await;
            }
            _ => panic!("redis must not be filled: {answer:?}"),
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn greedy_clients_leave_the_reserve_to_a_quiet_one_and_have_their_pace_until_there_is_room() {
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
    assert!(full >= MAX_MIB * MIB / 100 * 88, "nothing was filled: {full}");
    assert!(full <= MAX_MIB * MIB / 100 * 97, "the reserve is gone: {full}");
    assert!(refused > 0 && added > 60);
    assert!(worst < Duration::from_secs(2), "a quiet client waits for the greedy ones: {worst:?}");
    let log = stand.service.log();
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("redis is nearly full; clients are rate limited"), 1, "{log}");
    assert_eq!(count("client throttled; redis is nearly full"), 2, "once for each: {log}");
    let figures = stand.service.admin().get("/metrics").await.text;
    assert!(figures.lines().any(|line| line == "spoke_hub_reserve_reached 1"), "{figures}");

    stand.redis.command::<u64>(&["DEL", IN]).await;

    eventually_true("all clients to be let through again", async || {
        for (api, clock) in greedy.iter().zip(&clocks) {
            fill(api, clock, Instant::now() + Duration::from_millis(1)).await;
        }
        let log = stand.service.log();
        let over = log.lines().filter(|line| line.contains("client no longer throttled")).count();
        let ended = log
            .lines()
            .find(|line| line.contains("redis has room again; client rate limit lifted"));
        let is_told = |line: &str| line.contains("limited_for_seconds") && line.contains("count");
        ended.is_some_and(is_told) && over == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_held_back_keeps_its_session_and_goes_on_when_there_is_room() {
    let stand = hub(&[("reserve_kib", "64")]).await;
    let token = admit(&stand.redis, "greedy").await;
    let (mut socket, _) = session(stand.service.address(), &token, hello()).await;
    small_redis(&stand).await;
    // The reserve is reached by what others did.
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
    // 200 KiB take more than three seconds at its pace, and there is a second in hand.
    assert!((1..=3).contains(&acks), "{acks} batches in {SPAN:?}");

    stand.redis.command::<u64>(&["DEL", "filler"]).await;

    while socket.ack().await.seq < after {}
    assert!(begun.elapsed() < 2 * SPAN, "it goes on at once: {:?}", begun.elapsed());
}
