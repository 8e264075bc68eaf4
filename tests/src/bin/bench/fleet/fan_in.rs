//! Many clients that each publish a little: everything arrives quickly, exactly once and in order.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use redis::{Value, aio::MultiplexedConnection, cmd};
use spoke_tests::{
    checker::{assert_same, expected, from_device},
    cloud::IN,
    entries::{Stored, stored},
};

use super::{
    Figure, Goal, Options, process_usage,
    published::{Load, NUMBER, Published, publish},
    samples::percentile_ms,
    stand::{Security, Stand, name},
};

/// The longest time without an arrival while entries are outstanding.
const SILENCE_MS: usize = 10_000;
/// Entries of one read.
const READ: usize = 1000;

struct Found {
    p50_ms: f64,
    p99_ms: f64,
    hub_us: f64,
    redis_us: f64,
    publishing: Duration,
}

pub(super) async fn measure(options: &Options) -> Vec<Figure> {
    let load = Load { clients: options.size(1000, 100), rate: 10, seconds: options.size(30, 3) };
    let mut found = Vec::new();
    for _ in 0..options.runs() {
        found.push(run(load).await);
    }
    let all = |figure: fn(&Found) -> f64| found.iter().map(figure).collect::<Vec<_>>();
    let name = |what: &str| format!("fan-in of {} clients: {what}", load.clients);
    let slowest = found.iter().map(|it| it.publishing).max().unwrap_or_default().as_secs_f64();
    vec![
        Figure::new(name("p50"), "ms", all(|it| it.p50_ms)),
        Figure::new(name("p99"), "ms", all(|it| it.p99_ms)).goal(Goal::AtMost(20.0)).note(format!(
            "{} entries, all carried once and in order; published within {slowest:.1} s",
            load.entries()
        )),
        Figure::new(name("hub CPU an entry"), "µs", all(|it| it.hub_us)),
        Figure::new(name("hub's Redis CPU an entry"), "µs", all(|it| it.redis_us)),
    ]
}

async fn run(load: Load) -> Found {
    let mut stand = Stand::start(Security::Plain).await;
    stand.grow(load.clients).await;
    let (hub, redis) = (stand.hub.process().pid(), stand.cloud.pid());
    let before = (process_usage::cpu(hub), process_usage::cpu(redis));
    let began = Instant::now();
    let publishing = async {
        let published = publish(stand.devices.connection(), load).await;
        (published, began.elapsed())
    };
    let reading = read(stand.cloud.another_connection().await, load.entries());
    let ((published, publishing), arrived) = tokio::join!(publishing, tokio::spawn(reading));
    let arrived = arrived.expect("all entries arrive");
    let spent = |before: Duration, after: Duration| {
        (after - before).as_secs_f64() * 1_000_000.0 / load.entries() as f64
    };
    let (hub_us, redis_us) =
        (spent(before.0, process_usage::cpu(hub)), spent(before.1, process_usage::cpu(redis)));
    assert_carried(&published, stand.cloud.entries(IN).await);
    let latency = |(number, at): (usize, Instant)| at - published.at[number];
    let mut latencies: Vec<_> = arrived.into_iter().map(latency).collect();
    let p50_ms = percentile_ms(&mut latencies, 50.0);
    let p99_ms = percentile_ms(&mut latencies, 99.0);
    Found { p50_ms, p99_ms, hub_us, redis_us, publishing }
}

/// The numbers of the entries, each with the time at which a blocked reader received it.
async fn read(mut cloud: MultiplexedConnection, entries: usize) -> Vec<(usize, Instant)> {
    let mut arrived = Vec::with_capacity(entries);
    let mut last = "0-0".to_owned();
    while arrived.len() < entries {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(READ).arg("BLOCK").arg(SILENCE_MS).arg("STREAMS").arg(IN).arg(&last);
        let reply: Option<Vec<(String, Value)>> =
            read.query_async(&mut cloud).await.expect("redis answers");
        let now = Instant::now();
        let Some((_, found)) = reply.and_then(|mut streams| streams.pop()) else {
            panic!(
                "nothing arrived for {SILENCE_MS} ms; {} of {entries} entries have arrived",
                arrived.len()
            );
        };
        for entry in stored(found) {
            let number = entry.text(NUMBER).and_then(|number| number.parse().ok());
            arrived.push((number.expect("an entry has its number"), now));
            last = entry.id;
        }
    }
    arrived
}

/// Asserts that all entries arrived exactly once, in order and unchanged.
fn assert_carried(published: &Published, inbound: Vec<Stored>) {
    let mut copies: HashMap<String, Vec<Stored>> = HashMap::new();
    for entry in inbound {
        let client = entry.text("client").expect("an entry names its client");
        copies.entry(client).or_default().push(entry);
    }
    for (n, added) in published.by_client.iter().enumerate() {
        let client = name(n);
        let copy = copies.remove(client.as_str()).unwrap_or_default();
        let found = from_device(&copy, client.as_str());
        assert_same(client.as_str(), &expected(added, Some(1)), &found);
    }
    assert!(copies.is_empty(), "entries of clients that published none: {:?}", copies.keys());
}
