//! The agent's size, its memory and its idle processor time.

use std::{fs, time::Duration};

use spoke_protocol::Direction;
use spoke_tests::{binaries, process_usage};
use tokio::time::{Instant, sleep};

use crate::{
    Options,
    figure::{Figure, Goal},
    link::{Link, Route},
    load::Kind,
};

const BINARY_MB: f64 = 6.0;
const IDLE_MB: f64 = 8.0;
const PEAK_MB: f64 = 24.0;
/// Rounds to 0 %: a single tick is 0.1 % of the measured time.
const IDLE_PERCENT: f64 = 0.5;
/// After this, nothing of the connection's start or of a backlog is still running.
const SETTLING: Duration = Duration::from_secs(2);

/// The measurements of all runs.
#[derive(Default)]
struct AgentRuns {
    connect_ms: Vec<f64>,
    idle_mb: Vec<f64>,
    private_mb: Vec<f64>,
    idle_percent: Vec<f64>,
    peak_mb: Vec<f64>,
    after_mb: Vec<f64>,
}

pub(crate) async fn measure(options: &Options) -> Vec<Figure> {
    let program = binaries::path_of("spoke-agent");
    let size = fs::metadata(program).expect("the program was built").len();
    let mut runs = AgentRuns::default();
    for _ in 0..options.runs() {
        runs.measure(options).await;
    }
    let built = if cfg!(debug_assertions) { "a debug build, NOT stripped" } else { "stripped" };
    vec![
        Figure::new("agent: program", "MB", vec![mb(size)])
            .goal(Goal::AtMost(BINARY_MB))
            .note(built),
        Figure::new("agent: from start to connected", "ms", runs.connect_ms)
            .note("already enrolled; until its log message, to within 2 ms"),
        Figure::new("agent: memory idle", "MB", runs.idle_mb)
            .goal(Goal::AtMost(IDLE_MB))
            .note("resident (VmRSS), including the program's own pages"),
        Figure::new("agent: memory idle, private", "MB", runs.private_mb)
            .note("not backed by a file (Private_Dirty)"),
        Figure::new("agent: memory at full drain", "MB", runs.peak_mb)
            .goal(Goal::AtMost(PEAK_MB))
            .note("peak resident (VmHWM)"),
        Figure::new("agent: memory idle after a drain", "MB", runs.after_mb).note("VmRSS"),
        Figure::new("agent: processor idle", "%", runs.idle_percent)
            .goal(Goal::AtMost(IDLE_PERCENT))
            .note("in ticks of 10 ms"),
    ]
}

impl AgentRuns {
    async fn measure(&mut self, options: &Options) {
        let mut link = Link::start(Route::Direct, &[]).await;
        self.connect_ms.push(link.connect().await.as_secs_f64() * 1000.0);
        sleep(SETTLING).await;
        let pid = link.device.agent().pid();
        let (before, begun) = (process_usage::cpu(pid), Instant::now());
        sleep(Duration::from_secs(options.size(10, 2) as u64)).await;
        let used = process_usage::cpu(pid) - before;
        self.idle_percent.push(100.0 * used.as_secs_f64() / begun.elapsed().as_secs_f64());
        self.idle_mb.push(mb(process_usage::resident_bytes(pid)));
        self.private_mb.push(mb(process_usage::private_bytes(pid)));
        link.disconnect().await;

        let count = options.size(500_000, 20_000);
        link.fill(Direction::Up, Kind::Noise, count).await;
        link.drain(Direction::Up, count).await;
        let pid = link.device.agent().pid();
        self.peak_mb.push(mb(process_usage::resident_bytes_max(pid)));
        sleep(SETTLING).await;
        self.after_mb.push(mb(process_usage::resident_bytes(pid)));
    }
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
