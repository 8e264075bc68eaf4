//! The latency of one entry at a time, idle and under load, compared with the peers.

mod reader;
mod sustained;

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use redis::Connection;
use spoke_protocol::Direction;
use tokio::task::block_in_place;

use self::reader::{MARK, Reader};
pub(crate) use self::sustained::measure as measure_sustained;
use crate::{
    Options,
    figure::{Figure, Goal},
    link::{Link, Route, connection},
    load::{Kind, Payloads, entry, feed, packs},
    peers::{mosquitto::Mosquitto, nats::Nats},
    sampler::{SampleEnd, sample},
    samples::percentile_ms,
};

const P50_MS: f64 = 0.5;
const P99_MS: f64 = 2.0;
const OF_NATS: f64 = 1.2;
const P99_UNDER_LOAD_MS: f64 = 10.0;
/// The interval between two batches of the load.
const LOAD_EVERY: Duration = Duration::from_millis(5);
/// The load as a share of the link's highest rate.
const LOAD: f64 = 0.5;
/// Below this share the load was too low for the latency to mean much.
const LOAD_AT_LEAST: f64 = 0.45;

/// The p50 and p99 of each run, in milliseconds.
#[derive(Default)]
struct LatencyRuns {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

pub(crate) async fn measure(options: &Options) -> Vec<Figure> {
    let count = options.size(2000, 100);
    let [mut up, mut down, mut loaded, mut nats, mut mosquitto] =
        [(); 5].map(|()| LatencyRuns::default());
    let (mut loads, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        let mut link = Link::start(Route::Direct, &[]).await;
        let rate = drain_rate(&mut link, options.size(200_000, 20_000)).await;
        up.take(sample_link(&link, Direction::Up, count).await);
        down.take(sample_link(&link, Direction::Down, count).await);
        let (copy, to) = link.copy(Direction::Up);
        let reader = Reader::new(copy, to).await;
        let (samples, load) = under_load(&link, reader, SampleEnd::Count(count / 2), rate * LOAD);
        loaded.take(samples);
        loads.push(load);
        shares.push(load / rate);
        if let Some(program) = options.peer("nats-server") {
            nats.take(Nats::start(&program).await.latency(count));
        }
        if let Some(program) = options.peer("mosquitto") {
            mosquitto.take(Mosquitto::start(&program).await.latency(count));
        }
    }
    let mut figures = up.figures("latency up", Some(P50_MS), Some(P99_MS));
    figures.extend(up.of("latency up: of NATS", &nats));
    figures.extend(down.figures("latency down", Some(P50_MS), Some(P99_MS)));
    figures.extend(down.of("latency down: of NATS", &nats));
    figures.extend(loaded.figures("latency under load", None, Some(P99_UNDER_LOAD_MS)));
    figures.push(Figure::new("latency under load: the load", "entries/s", loads));
    figures.push(
        Figure::new("latency under load: the load, of what the link drains", "", shares)
            .goal(Goal::AtLeast(LOAD_AT_LEAST)),
    );
    figures.extend(nats.figures("NATS leaf to hub: latency", None, None));
    figures.extend(mosquitto.figures("Mosquitto bridge: latency", None, None));
    figures
}

impl LatencyRuns {
    fn take(&mut self, mut samples: Vec<Duration>) {
        self.p50.push(percentile_ms(&mut samples, 50.0));
        self.p99.push(percentile_ms(&mut samples, 99.0));
    }

    /// The figures; none if nothing was measured.
    fn figures(&self, name: &str, p50: Option<f64>, p99: Option<f64>) -> Vec<Figure> {
        let figure = |word, runs: &[f64], goal: Option<f64>| {
            let figure = Figure::new(format!("{name}, {word}"), "ms", runs.to_vec());
            goal.map(Goal::AtMost).into_iter().fold(figure, Figure::goal)
        };
        match self.p50.is_empty() {
            true => Vec::new(),
            false => vec![figure("p50", &self.p50, p50), figure("p99", &self.p99, p99)],
        }
    }

    /// The latency as a share of a peer's, run by run.
    fn of(&self, name: &str, peer: &Self) -> Vec<Figure> {
        let pairs = [("p50", &self.p50, &peer.p50), ("p99", &self.p99, &peer.p99)];
        let measured = pairs.into_iter().filter(|(_, _, peers)| !peers.is_empty());
        let shares = measured.map(|(word, ours, peers)| {
            let runs = ours.iter().zip(peers).map(|(ours, peers)| ours / peers).collect();
            Figure::new(format!("{name}, {word}"), "", runs).goal(Goal::AtMost(OF_NATS))
        });
        shares.collect()
    }
}

/// The rate of a backlog in entries a second; afterwards the agent is connected and idle.
async fn drain_rate(link: &mut Link, count: usize) -> f64 {
    link.fill(Direction::Up, Kind::Noise, count).await;
    count as f64 / link.drain(Direction::Up, count).await.took.as_secs_f64()
}

/// The times from before each XADD until a blocked XREAD at the other end returns the entry.
async fn sample_link(link: &Link, way: Direction, count: usize) -> Vec<Duration> {
    let (copy, to) = link.copy(way);
    let reader = Reader::new(copy, to).await;
    block_in_place(|| sample_with(reader, link, way, SampleEnd::Count(count)))
}

fn sample_with(mut reader: Reader, link: &Link, way: Direction, end: SampleEnd) -> Vec<Duration> {
    let (origin, from) = link.origin(way);
    let mut publisher = connection(origin);
    let mut payloads = Payloads::new(Kind::Noise);
    let publish = |number: u64| {
        let marked = entry(&from, &[(MARK, &number.to_string())], &payloads.next());
        marked.exec(&mut publisher).expect("redis takes an entry");
    };
    sample(end, publish, move || reader.marks())
}

/// The same while the link carries this many other entries a second; also returns the actual rate.
fn under_load(link: &Link, reader: Reader, end: SampleEnd, rate: f64) -> (Vec<Duration>, f64) {
    let (origin, stream) = link.origin(Direction::Up);
    let mut producer = connection(origin);
    let (sampling, until) = mpsc::channel();
    let load = thread::spawn(move || offer(&mut producer, &stream, rate, &until));
    let samples = block_in_place(|| sample_with(reader, link, Direction::Up, end));
    drop(sampling);
    (samples, load.join().expect("the load is offered"))
}

/// Adds this many entries a second until the other end of the channel is dropped; returns the actual
/// rate.
fn offer(producer: &mut Connection, stream: &str, rate: f64, until: &Receiver<()>) -> f64 {
    let mut payloads = Payloads::new(Kind::Noise);
    let begun = Instant::now();
    let mut offered = 0;
    while until.recv_timeout(LOAD_EVERY) == Err(RecvTimeoutError::Timeout) {
        let due = (begun.elapsed().as_secs_f64() * rate) as usize - offered;
        let due_now = (0..due).map(|_| entry(stream, &[], &payloads.next()));
        feed(producer, packs(due_now, due));
        offered += due;
    }
    offered as f64 / begun.elapsed().as_secs_f64()
}
