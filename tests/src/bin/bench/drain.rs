//! Drains a backlog, up and down, and compares with Redis alone and with the peers.

use std::time::Instant;

use redis::Cmd;
use spoke_protocol::Direction;
use tokio::task::block_in_place;

use crate::{
    Options,
    figure::{Figure, Goal},
    link::{CLIENT, Drained, Link, Route, connection, start_redis},
    load::{Kind, Pack, Payloads, entry, feed, packs},
    peers::{mosquitto::Mosquitto, nats::Nats},
};

/// Pipeline sizes when Redis alone is filled; the best of these counts as its limit.
const PIPELINES: [usize; 3] = [100, 500, 2000];
/// The goals as shares of the rate of Redis alone, and of NATS.
const OF_THE_LIMIT: f64 = 0.5;
const OF_NATS: f64 = 1.3;
/// Mosquitto gets a fraction of the entries, since it is so much slower.
const OF_THE_ENTRIES_FOR_MOSQUITTO: usize = 5;

/// The measurements of all runs in one direction.
#[derive(Default)]
struct DrainRuns {
    rates: Vec<f64>,
    limits: Vec<f64>,
    of_the_limit: Vec<f64>,
    of_nats: Vec<f64>,
    /// CPU seconds per million entries, by process.
    cpu: [(&'static str, Vec<f64>); 4],
}

pub(crate) async fn measure(options: &Options) -> Vec<Figure> {
    let count = options.size(500_000, 20_000);
    let (mut up, mut down) = (DrainRuns::default(), DrainRuns::default());
    let (mut nats_rates, mut mosquitto_rates) = (Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        let nats = match options.peer("nats-server") {
            Some(program) => Some(count as f64 / Nats::start(&program).await.drain(count)),
            None => None,
        };
        nats_rates.extend(nats);
        up.measure(Direction::Up, count, nats).await;
        down.measure(Direction::Down, count, nats).await;
        if let Some(program) = options.peer("mosquitto") {
            let count = count / OF_THE_ENTRIES_FOR_MOSQUITTO;
            let took = Mosquitto::start(&program).await.drain(count);
            mosquitto_rates.push(count as f64 / took);
        }
    }
    let mut figures = up.figures("drain up");
    figures.extend(down.figures("drain down"));
    if !nats_rates.is_empty() {
        let nats = Figure::new("NATS leaf to hub", "messages/s", nats_rates);
        figures.push(nats.note("topic as subject; timed from the creation of the hub's stream"));
    }
    if !mosquitto_rates.is_empty() {
        let bridge = Figure::new("Mosquitto bridge, QoS 1", "messages/s", mosquitto_rates);
        figures
            .push(bridge.note("a fifth of the entries; timed from when the remote broker resumes"));
    }
    figures
}

impl DrainRuns {
    async fn measure(&mut self, way: Direction, count: usize, nats: Option<f64>) {
        let Drained { took, cpu } = drain(way, count).await;
        let rate = count as f64 / took.as_secs_f64();
        let limit = limit(way, count).await;
        self.rates.push(rate);
        self.limits.push(limit);
        self.of_the_limit.push(rate / limit);
        self.of_nats.extend(nats.map(|nats| rate / nats));
        for ((name, runs), (process, time)) in self.cpu.iter_mut().zip(cpu) {
            *name = process;
            runs.push(time.as_secs_f64() * 1e6 / count as f64);
        }
    }

    fn figures(self, name: &str) -> Vec<Figure> {
        let note = "from the start of the agent's process to the last entry in the copy";
        let mut figures = vec![
            Figure::new(name, "entries/s", self.rates).note(note),
            Figure::new(format!("{name}: Redis alone"), "entries/s", self.limits).note(format!(
                "pipelined XADD of the same fields, best of {PIPELINES:?} at a time"
            )),
            Figure::new(format!("{name}: of Redis alone"), "", self.of_the_limit)
                .goal(Goal::AtLeast(OF_THE_LIMIT)),
        ];
        if !self.of_nats.is_empty() {
            let of_nats = Figure::new(format!("{name}: of NATS"), "", self.of_nats);
            figures.push(of_nats.goal(Goal::AtLeast(OF_NATS)));
        }
        figures.extend(self.cpu.into_iter().map(|(process, runs)| {
            Figure::new(format!("{name}: processor time, {process}"), "s a million", runs)
        }));
        figures
    }
}

async fn drain(way: Direction, count: usize) -> Drained {
    let mut link = Link::start(Route::Direct, &[]).await;
    link.fill(way, Kind::Noise, count).await;
    link.drain(way, count).await
}

/// The highest rate at which Redis accepts entries of the copy's form, in entries a second. They are
/// encoded beforehand, so that Redis never waits.
async fn limit(way: Direction, count: usize) -> f64 {
    let mut best = 0.0_f64;
    for pipeline in PIPELINES {
        let made: Vec<Pack> = packs(copies(way, count), pipeline).collect();
        let redis = start_redis().await;
        let mut connection = connection(&redis);
        let took = block_in_place(|| {
            let begun = Instant::now();
            feed(&mut connection, made.into_iter());
            begun.elapsed()
        });
        best = best.max(count as f64 / took.as_secs_f64());
    }
    best
}

/// Commands that add entries with the fields that Spoke prepends.
fn copies(way: Direction, count: usize) -> impl Iterator<Item = Cmd> {
    let mut payloads = Payloads::new(Kind::Noise);
    (0..count).map(move |number| {
        let seq = format!("1700000000000-{number}");
        let front = [("client", CLIENT), ("epoch", "1"), ("seq", &seq)];
        match way {
            Direction::Up => entry("copy", &front, &payloads.next()),
            Direction::Down => entry("copy", &front[2..], &payloads.next()),
        }
    })
}
