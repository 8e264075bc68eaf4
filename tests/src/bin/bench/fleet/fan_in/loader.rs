//! The loader, a process of one thread: `bench load`. It opens all connections, publishes on a schedule
//! and measures each entry from when it was due until its acknowledgement, so that a server that falls
//! behind cannot hide it. The same for all systems.
//!
//! It prints `ready` once all clients are connected, starts at a line on standard input, prints `begun`
//! when the measured part begins, then its result, and ends when standard input is closed.

use std::{
    io::{self, stdin},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;
use spoke_diagnostics::unix_ms;

use super::{
    connection::Connection,
    poller::Poller,
    publisher::{
        DueEntry, MqttPublisher, NatsPublisher, PayloadPool, Publisher, SESSION_ENDED,
        SpokePublisher, Subscriber, Target,
    },
};
use crate::{fleet::samples::percentile_ms, peers::READ_BYTES};

/// What it prints when all clients are connected, and when the measured part begins.
pub(super) const READY: &str = "ready";
pub(super) const BEGUN: &str = "begun";
/// How often due entries are looked for while nothing arrives.
const TICK: Duration = Duration::from_micros(200);
/// Connections that are opened at a time.
const CONNECTING: usize = 16;
/// The longest wait for acknowledgements after the last entry was due.
const PATIENCE: Duration = Duration::from_secs(20);

/// The system to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Protocol {
    Spoke,
    Nats,
    Mqtt,
}

/// What to publish, and where.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// The system
    #[arg(long)]
    pub(super) protocol: Protocol,
    /// The server's port
    #[arg(long)]
    pub(super) port: u16,
    /// The seed of the tokens
    #[arg(long)]
    pub(super) seed: u64,
    /// The number of clients
    #[arg(long)]
    pub(super) clients: usize,
    /// The number of the first one
    #[arg(long)]
    pub(super) first_client: usize,
    /// Entries a second of all clients together
    #[arg(long)]
    pub(super) per_second: u64,
    /// The time before the measured part, in milliseconds
    #[arg(long)]
    pub(super) warm_up_ms: u64,
    /// The measured time, in milliseconds
    #[arg(long)]
    pub(super) measured_ms: u64,
}

/// The result. Entries without an acknowledgement count with the time that they had waited.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LoadResult {
    /// The median from due to acknowledged.
    pub(super) p50_ms: f64,
    /// The 99th percentile.
    pub(super) p99_ms: f64,
    /// The 99th percentile of the loader's own lateness, included in the others.
    pub(super) late_ms: f64,
    /// The time from the beginning of the measured part to its last acknowledgement.
    pub(super) seconds: f64,
    /// All entries that were due, with those of the warm-up.
    pub(super) due: u64,
    /// The number of those that were acknowledged.
    pub(super) acknowledged: u64,
    /// The number of entries of the measured part.
    pub(super) measured: u64,
    /// The number of sessions that the server ended, and that were resumed.
    pub(super) resumed: u64,
    /// What the subscriber got, where there is one: different entries, and repetitions.
    pub(super) subscribed: Option<(u64, u64)>,
}

/// Runs the loader. If the system refuses the load, it prints why instead of a result.
pub(crate) fn load(load: &Load) {
    let run = match load.protocol {
        Protocol::Spoke => run::<SpokePublisher>,
        Protocol::Nats => run::<NatsPublisher>,
        Protocol::Mqtt => run::<MqttPublisher>,
    };
    match run(load) {
        Ok(result) => println!("{}", json!(result)),
        Err(error) => println!("{error}"),
    }
    let _ = stdin().lines().map_while(Result::ok).last();
}

/// When entries are due: each client at its own offset within the period.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    began: Instant,
    began_ms: u64,
    per_second: u64,
}

impl Schedule {
    fn due(self, number: u64) -> Instant {
        self.began + Duration::from_nanos(number * 1_000_000_000 / self.per_second)
    }

    fn entry(self, number: u64) -> DueEntry {
        DueEntry { number, due_ms: self.began_ms + number * 1000 / self.per_second }
    }
}

/// The measurements of one run.
struct Samples {
    schedule: Schedule,
    /// Entries before this one belong to the warm-up.
    first: u64,
    latencies: Vec<Duration>,
    lateness: Vec<Duration>,
    acknowledged: u64,
    resumed: u64,
    last: Instant,
}

impl Samples {
    fn handle_acknowledged(&mut self, number: u64) {
        self.acknowledged += 1;
        if number >= self.first {
            self.last = Instant::now();
            self.latencies.push(self.last - self.schedule.due(number));
        }
    }
}

fn run<P: Publisher>(load: &Load) -> io::Result<LoadResult> {
    let target = Target { port: load.port, seed: load.seed };
    let mut subscriber = P::subscribe(target)?;
    let mut connections = connect_all::<P>(target, load)?;
    let mut poller = Poller::new(TICK)?;
    for (n, connection) in connections.iter().enumerate() {
        poller.add(connection.stream(), n)?;
    }
    if let Some(subscriber) = &subscriber {
        poller.add(subscriber.stream(), connections.len())?;
    }
    println!("{READY}");
    stdin().read_line(&mut String::new())?;
    let mut samples = samples(load);
    let due = drive(load, &mut connections, subscriber.as_mut(), &mut poller, &mut samples)?;
    result(&connections, subscriber.as_ref(), samples, due)
}

fn samples(load: &Load) -> Samples {
    let (began, per_second) = (Instant::now(), load.per_second);
    let schedule = Schedule { began, began_ms: unix_ms(), per_second };
    let measured = (load.measured_ms * per_second / 1000) as usize;
    Samples {
        schedule,
        first: load.warm_up_ms * per_second / 1000,
        latencies: Vec::with_capacity(measured),
        lateness: Vec::with_capacity(measured),
        acknowledged: 0,
        resumed: 0,
        last: began,
    }
}

/// Opens all connections, several at a time.
fn connect_all<P: Publisher>(target: Target, load: &Load) -> io::Result<Vec<Connection<P>>> {
    let clients = load.clients;
    let numbers: Vec<usize> = (load.first_client..).take(clients).collect();
    thread::scope(|scope| {
        let connect = |part: &[usize]| -> io::Result<Vec<Connection<P>>> {
            part.iter().map(|n| Connection::new(P::connect(target, *n)?)).collect()
        };
        let parts = numbers.chunks(clients.div_ceil(CONNECTING));
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || connect(part))).collect();
        let mut all = Vec::with_capacity(clients);
        for thread in threads {
            all.extend(thread.join().expect("connecting does not panic")?);
        }
        Ok(all)
    })
}

/// Publishes until all is acknowledged, or too late; returns the number of entries that were due.
fn drive<P: Publisher>(
    load: &Load,
    connections: &mut [Connection<P>],
    mut subscriber: Option<&mut Subscriber>,
    poller: &mut Poller,
    samples: &mut Samples,
) -> io::Result<u64> {
    let schedule = samples.schedule;
    let target = Target { port: load.port, seed: load.seed };
    let total = samples.first + load.measured_ms * load.per_second / 1000;
    let deadline = schedule.due(total) + PATIENCE;
    let (mut payloads, mut scratch) = (PayloadPool::new(), vec![0; READ_BYTES]);
    let (mut next, mut blocked, mut ended) = (0, Vec::new(), Vec::new());
    loop {
        let now = Instant::now();
        while next < total && schedule.due(next) <= now {
            if next == samples.first {
                println!("{BEGUN}");
            }
            if next >= samples.first {
                samples.lateness.push(now - schedule.due(next));
            }
            let n = next as usize % connections.len();
            connections[n].add(schedule.entry(next));
            connections[n].send(&mut payloads)?;
            if connections[n].is_blocked() && !blocked.contains(&n) {
                blocked.push(n);
            }
            next += 1;
        }
        let received = subscriber.as_ref().map_or(total, |subscriber| subscriber.counts().0);
        if (samples.acknowledged == total && received == total) || now > deadline {
            return Ok(total);
        }
        for n in std::mem::take(&mut blocked) {
            connections[n].send(&mut payloads)?;
            if connections[n].is_blocked() {
                blocked.push(n);
            }
        }
        for n in poller.wait()? {
            let Some(connection) = connections.get_mut(n) else {
                subscriber.as_mut().map_or(Ok(()), |subscriber| subscriber.read())?;
                continue;
            };
            let mut acknowledged = |number| samples.handle_acknowledged(number);
            match connection.read(&mut scratch, &mut acknowledged) {
                Err(error) if error.kind() == SESSION_ENDED => {
                    connection.reconnect((target, load.first_client + n), &mut acknowledged)?;
                    ended.push(n);
                }
                other => other?,
            }
            connection.send(&mut payloads)?;
            if connection.is_blocked() && !blocked.contains(&n) {
                blocked.push(n);
            }
        }
        samples.resumed += ended.len() as u64;
        for n in ended.drain(..) {
            poller.add(connections[n].stream(), n)?;
        }
        if let Some(subscriber) = &mut subscriber {
            subscriber.flush()?;
        }
    }
}

fn result<P: Publisher>(
    connections: &[Connection<P>],
    subscriber: Option<&Subscriber>,
    mut samples: Samples,
    due: u64,
) -> io::Result<LoadResult> {
    let now = Instant::now();
    let missing = connections.iter().flat_map(Connection::unacknowledged);
    let waited = missing.filter(|number| *number >= samples.first);
    samples.latencies.extend(waited.map(|number| now - samples.schedule.due(number)));
    let measured = due - samples.first;
    if samples.latencies.len() as u64 != measured {
        return Err(io::Error::other("an entry was acknowledged twice, or never"));
    }
    Ok(LoadResult {
        p50_ms: percentile_ms(&mut samples.latencies, 50.0),
        p99_ms: percentile_ms(&mut samples.latencies, 99.0),
        late_ms: percentile_ms(&mut samples.lateness, 99.0),
        seconds: (samples.last - samples.schedule.due(samples.first)).as_secs_f64(),
        due,
        acknowledged: samples.acknowledged,
        resumed: samples.resumed,
        measured,
        subscribed: subscriber.map(Subscriber::counts),
    })
}
