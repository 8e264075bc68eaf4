//! Many clients that each publish a little: the time until an entry is acknowledged, and its cost.
//!
//! The hub, NATS and Mosquitto get the same load in the same run, from the same process: one thread that
//! speaks each protocol by hand, so that its cost is small and known. What each has stored is checked
//! afterwards. Rejected: the agent's sessions with a Redis for all devices, which took most of the
//! machine for themselves.

mod backlog;
mod connection;
mod curves;
mod load_process;
pub(crate) mod partitions;
pub(crate) mod loader;
mod plot;
mod poller;
mod publisher;
mod servers;
mod websocket;

use std::{fs, time::Duration};

use self::{
    curves::{Curves, Point, grouped},
    load_process::LoadProcess,
    loader::Load,
    servers::System,
};
use super::{Figure, Goal, Options, process_usage, stand::raise_file_limit};

/// The number of clients with goals.
const CLIENTS: usize = 1000;
/// Entries a second of each of them.
const RATES: [u64; 3] = [10, 20, 40];
const P50_MS: f64 = 2.0;
const P99_MS: f64 = 5.0;
const HUB_US: f64 = 20.0;
const REDIS_US: f64 = 15.0;
/// The rate until the last acknowledgement, as a share of the offered one.
const KEPT: f64 = 0.98;

/// The measurements of one run.
#[derive(Debug, Clone)]
struct Run {
    p50_ms: f64,
    p99_ms: f64,
    /// The loader's own lateness, p99.
    late_ms: f64,
    /// CPU microseconds for an entry, of each process of the system.
    cpu_us: Vec<(&'static str, f64)>,
    loader_us: f64,
    /// Entries that were acknowledged and stored, of those that were due.
    carried: f64,
    /// Sessions that the server ended, and that were resumed.
    resumed: u64,
    /// Entries a second until the last acknowledgement.
    per_second: f64,
}

pub(super) async fn measure(options: &Options) -> Vec<Figure> {
    raise_file_limit();
    let nats = options.peer("nats-server").map(System::Nats);
    let mosquitto = options.peer("mosquitto").map(System::Mosquitto);
    let systems: Vec<_> = [System::Spoke].into_iter().chain(nats).chain(mosquitto).collect();
    let points = RATES.map(|rate| Point { clients: CLIENTS, per_second: CLIENTS as u64 * rate });
    let mut curves = Curves::default();
    for _ in 0..options.runs() {
        for point in points {
            for system in &systems {
                add_point(options, system, point, &mut curves).await;
            }
        }
    }
    let mut figures = Vec::new();
    for (rate, point) in RATES.into_iter().zip(points) {
        for system in &systems {
            let runs = curves.runs(system, point);
            if !runs.is_empty() {
                figures.extend(describe(system, rate, runs));
            }
        }
        if let Some(nats) = systems.iter().find(|system| matches!(system, System::Nats(_))) {
            let (ours, nats) = (curves.runs(&System::Spoke, point), curves.runs(nats, point));
            if !ours.is_empty() && ours.len() == nats.len() {
                figures.push(of_nats(rate, (ours, nats)));
            }
        }
    }
    figures.extend(backlog::measure(options, curves.runs(&System::Spoke, points[0])).await);
    for system in &systems {
        measure_curves(options, system, &mut curves).await;
    }
    figures.extend(curves.figures(&points));
    println!("\n{}", curves.table());
    if let Err(error) = fs::write(&options.svg, curves.svg(CLIENTS)) {
        eprintln!("bench: failed to write {}: {error}", options.svg.display());
    }
    figures
}

/// Measures the points of both curves that have no goals.
async fn measure_curves(options: &Options, system: &System, curves: &mut Curves) {
    let per_second = CLIENTS as u64 * RATES[0];
    let others = if options.quick { &[10][..] } else { &[10, 100, 10_000] };
    for clients in others {
        add_point(options, system, Point { clients: *clients, per_second }, curves).await;
    }
    let mut per_second = CLIENTS as u64 * RATES[RATES.len() - 1];
    while !options.quick && curves.is_within_limit(system, Point { clients: CLIENTS, per_second }) {
        per_second *= 2;
        add_point(options, system, Point { clients: CLIENTS, per_second }, curves).await;
    }
}

/// Adds a point to the curves. A peer that refuses the load has none there.
///
/// # Panics
/// If the hub refuses it.
async fn add_point(options: &Options, system: &System, point: Point, curves: &mut Curves) {
    match run(options, system, point).await {
        Ok(run) => curves.add(system, point, run),
        Err(error) if *system == System::Spoke => panic!("{error}"),
        Err(error) => eprintln!("bench: {error}"),
    }
}

/// Loads fresh servers, and checks what they have stored.
///
/// # Errors
/// Why the system refused the load.
async fn run(options: &Options, system: &System, point: Point) -> Result<Run, String> {
    let mut servers = system.start(point.clients).await;
    let (protocol, port) = servers.address();
    let mut loader = LoadProcess::start(&Load {
        protocol,
        port,
        seed: servers.seed(),
        clients: point.clients,
        first_client: 0,
        per_second: point.per_second,
        warm_up_ms: options.size(1000, 500) as u64,
        measured_ms: options.size(5000, 2000) as u64,
    })
    .await;
    let processes = servers.processes();
    let cpu = |pids: &[(&'static str, u32)], loader: u32| -> Vec<Duration> {
        let pids = pids.iter().map(|(_, pid)| *pid).chain([loader]);
        pids.map(process_usage::cpu).collect()
    };
    let pid = loader.pid();
    loader.begin().await;
    let before = cpu(&processes, pid);
    let found = loader.result().await;
    let after = cpu(&processes, pid);
    drop(loader);
    let Point { clients, per_second } = point;
    let found = found.map_err(|error| {
        format!("{} refused {per_second} entries/s of {clients} clients: {error}", system.name())
    })?;
    let carried = servers.carried(point.clients, &found).await;
    let us = |(before, after): (&Duration, &Duration)| {
        (*after - *before).as_secs_f64() * 1e6 / found.measured as f64
    };
    let mut spent: Vec<f64> = before.iter().zip(&after).map(us).collect();
    let loader_us = spent.pop().unwrap_or_default();
    Ok(Run {
        p50_ms: found.p50_ms,
        p99_ms: found.p99_ms,
        late_ms: found.late_ms,
        cpu_us: processes.iter().map(|(name, _)| *name).zip(spent).collect(),
        loader_us,
        resumed: found.resumed,
        carried: carried as f64 / found.due as f64,
        per_second: found.measured as f64 / found.seconds,
    })
}

/// The figures of the clients with goals.
fn describe(system: &System, rate: u64, runs: &[Run]) -> Vec<Figure> {
    let name = |what: &str| {
        let (clients, system) = (grouped(CLIENTS as u64), system.name());
        format!("fan-in, {clients} × {rate}/s, {system}: {what}")
    };
    let all = |figure: fn(&Run) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
    let has_goals = |at| *system == System::Spoke && rate == at;
    let with_goal = |figure: Figure, at, goal| match has_goals(at) {
        true => figure.goal(goal),
        false => figure,
    };
    let offered = (CLIENTS as u64 * rate) as f64;
    let kept = runs.iter().map(|run| run.per_second / offered).collect();
    let resumed: u64 = runs.iter().map(|run| run.resumed).sum();
    let latest = all(|run| run.late_ms).into_iter().fold(0.0, f64::max);
    let mut figures = vec![
        with_goal(Figure::new(name("p50"), "ms", all(|run| run.p50_ms)), 10, Goal::AtMost(P50_MS))
            .note("from when an entry was due until its acknowledgement"),
        with_goal(Figure::new(name("p99"), "ms", all(|run| run.p99_ms)), 10, Goal::AtMost(P99_MS))
            .note(format!("the loader itself was at most {latest:.2} ms late, p99")),
        with_goal(Figure::new(name("carried"), "", all(|run| run.carried)), 40, Goal::AtLeast(1.0))
            .note(format!("acknowledged, and stored exactly once; sessions resumed: {resumed}")),
        with_goal(Figure::new(name("rate, of the offered"), "", kept), 40, Goal::AtLeast(KEPT))
            .note("below 1 the system falls behind, and carries the rest later"),
    ];
    for (at, (process, _)) in runs[0].cpu_us.iter().enumerate() {
        let used = runs.iter().map(|run| run.cpu_us[at].1).collect();
        let figure = Figure::new(name(&format!("CPU an entry, {process}")), "µs", used);
        let goal = Goal::AtMost(if at == 0 { HUB_US } else { REDIS_US });
        figures.push(with_goal(figure, 10, goal));
    }
    figures.push(Figure::new(name("CPU an entry, loader"), "µs", all(|run| run.loader_us)));
    figures
}

/// The p99 as a share of that of NATS, run by run.
fn of_nats(rate: u64, (ours, nats): (&[Run], &[Run])) -> Figure {
    let name = format!("fan-in, {} × {rate}/s: p99 of NATS", grouped(CLIENTS as u64));
    let shares = ours.iter().zip(nats).map(|(ours, nats)| ours.p99_ms / nats.p99_ms).collect();
    let figure = Figure::new(name, "", shares);
    match rate {
        20 => figure.goal(Goal::AtMost(1.0)),
        40 => figure.goal(Goal::AtMost(2.0)),
        _ => figure,
    }
}
