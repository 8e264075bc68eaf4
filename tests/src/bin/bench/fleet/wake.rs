//! An entry for one client of many: its cost must not depend on the number of clients. The figures
//! include the others' heartbeats, which are few, since the entries follow each other at once.

use std::time::{Duration, Instant};

use redis::{Value, cmd};
use spoke_tests::{cloud::out, entries::fields};

use super::{
    Figure, Goal, Options,
    client::device_keys,
    process_usage,
    samples::percentile_ms,
    stand::{Security, Stand, name},
};

/// How much more an entry may cost with the most clients.
const TIMES: f64 = 1.2;

struct Found {
    hub_us: f64,
    redis_us: f64,
    p50_ms: f64,
}

pub(super) async fn measure(options: &Options) -> Vec<Figure> {
    let fleets = if options.quick { [10, 100, 500] } else { [10, 1000, 10_000] };
    let entries = options.size(5000, 200);
    // By fleet, then by run.
    let mut found: Vec<Vec<Found>> = fleets.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.runs() {
        let mut stand = Stand::start(Security::Plain).await;
        for (clients, found) in fleets.iter().zip(&mut found) {
            stand.grow(*clients).await;
            // The first run warms up both ends.
            wake(&mut stand, *clients, entries / 10).await;
            found.push(wake(&mut stand, *clients, entries).await);
        }
    }
    let mut figures = Vec::new();
    for (clients, found) in fleets.iter().zip(&found) {
        let all = |figure: fn(&Found) -> f64| found.iter().map(figure).collect::<Vec<_>>();
        let name = |what: &str| format!("wake 1 of {clients}: {what}");
        figures.extend([
            Figure::new(name("hub CPU an entry"), "µs", all(|it| it.hub_us)),
            Figure::new(name("hub's Redis CPU an entry"), "µs", all(|it| it.redis_us))
                .note("including its XADD"),
            Figure::new(name("latency p50"), "ms", all(|it| it.p50_ms)),
        ]);
    }
    let (few, many) = (&found[0], &found[fleets.len() - 1]);
    let ratios = |figure: fn(&Found) -> f64| {
        few.iter().zip(many).map(|(few, many)| figure(many) / figure(few)).collect::<Vec<_>>()
    };
    let title = format!("of {} clients ÷ of {}", fleets[fleets.len() - 1], fleets[0]);
    figures.extend([
        Figure::new(format!("wake: hub CPU {title}"), "", ratios(|it| it.hub_us))
            .goal(Goal::AtMost(TIMES)),
        Figure::new(format!("wake: hub's Redis CPU {title}"), "", ratios(|it| it.redis_us))
            .goal(Goal::AtMost(TIMES)),
    ]);
    figures
}

/// Sends entries one after the other, each to a random client.
async fn wake(stand: &mut Stand, clients: usize, entries: usize) -> Found {
    let mut reader = stand.devices.another_connection().await;
    let (hub, redis) = (stand.hub.process().pid(), stand.cloud.pid());
    let before = (process_usage::cpu(hub), process_usage::cpu(redis));
    let mut latencies = Vec::with_capacity(entries);
    for n in 0..entries {
        let client = name(rand::random_range(0..clients));
        let inbound = device_keys(&client).inbound();
        // Waits for what follows the stream's last entry.
        let mut last = cmd("XREVRANGE");
        last.arg(&inbound).arg("+").arg("-").arg("COUNT").arg(1);
        let last: Vec<(String, Value)> = stand.devices.query(&last).await;
        let last = last.first().map_or("0-0", |(id, _)| id);
        let mut read = cmd("XREAD");
        read.arg("BLOCK").arg(10_000).arg("STREAMS").arg(&inbound).arg(last);
        let payload = format!("{:032x}", rand::random::<u128>()).repeat(3);
        let entry = fields([("n", n.to_string()), ("payload", payload)]);
        let out = out(client.as_str());
        let began = Instant::now();
        let added = stand.cloud.add(&out, &entry);
        let (read, _) = tokio::join!(read.query_async::<Value>(&mut reader), added);
        let read = read.expect("redis answers");
        assert_ne!(read, Value::Nil, "an entry for {client} must arrive in time");
        latencies.push(began.elapsed());
    }
    let spent = |before: Duration, after: Duration| {
        (after - before).as_secs_f64() * 1_000_000.0 / entries as f64
    };
    Found {
        hub_us: spent(before.0, process_usage::cpu(hub)),
        redis_us: spent(before.1, process_usage::cpu(redis)),
        p50_ms: percentile_ms(&mut latencies, 50.0),
    }
}
