//! The figures of each attack with their bounds, as a table and as JSON.

use std::{collections::BTreeMap, fs, io, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{attack::Attack, victim::Seen};

/// The bound on a good client's p99 during an attack.
const VICTIM_P99_MAX: Duration = Duration::from_millis(50);
/// The p50 at rest on the machine that the bounds were set on. On a slower machine they are scaled.
const REST_P50: Duration = Duration::from_micros(1100);
/// A generous p99 on a machine without other load.
const CALM_P99: Duration = Duration::from_millis(10);
/// The bound on a health check during an attack.
const HEALTH_MAX: Duration = Duration::from_millis(100);
/// The bound on the hub's peak memory.
const PEAK_MIB_MAX: u64 = 512;
/// The bound on the memory that it keeps afterwards.
const KEPT_MIB_MAX: u64 = 64;
/// The number of commands that may exceed the limit, or one in this many of those above a millisecond:
/// Redis's times include those in which the kernel ran other processes. The time of a call itself is
/// checked by `tests/cost/scripts.rs`.
const LONG_COMMANDS_MAX: usize = 3;
const LONG_COMMANDS_SHARE: usize = 10;
/// How many percent more CPU the hub may use after the attack than before it.
pub(crate) const BUSY_PERCENT_MAX: u64 = 30;
/// The most lines that it may log for one attack.
const LOG_LINES_MAX: usize = 300;

/// The figures of one attack.
pub(crate) struct Figure {
    /// The attack.
    pub(crate) attack: Attack,
    /// The good client over HTTP before the attack.
    pub(crate) calm: Seen,
    /// The good client over HTTP during the attack.
    pub(crate) http: Seen,
    /// The good client over a WebSocket during the attack.
    pub(crate) websocket: Seen,
    /// `/healthz`.
    pub(crate) health: Seen,
    /// The hub's memory before, at its peak and after, in MiB.
    pub(crate) memory_mib: (u64, u64, u64),
    /// The hub's CPU use in percent before, during and after.
    pub(crate) busy_percent: (u64, u64, u64),
    /// The longest time that one command may hold its Redis.
    pub(crate) command_max: Duration,
    /// The longest commands of its Redis.
    pub(crate) commands: Vec<Duration>,
    /// The number of log lines.
    pub(crate) log_lines: usize,
    /// How often the attacker got each answer.
    pub(crate) answers: BTreeMap<String, u64>,
    /// Other faults.
    pub(crate) faults: Vec<String>,
}

/// The figures of all attacks.
pub(crate) struct Report {
    figures: Vec<Figure>,
    failed: Vec<Attack>,
}

impl Figure {
    /// Returns whether every figure is within its bound.
    pub(crate) fn is_good(&self) -> bool {
        self.faults().is_empty()
    }

    /// The figures above their bounds.
    pub(crate) fn faults(&self) -> Vec<String> {
        let slower = self.slower();
        let mut faults = self.faults.clone();
        let mut bound = |is_kept: bool, fault: String| {
            if !is_kept {
                faults.push(fault);
            }
        };
        for (name, seen) in [("http", &self.http), ("websocket", &self.websocket)] {
            let p99 = seen.percentile(99);
            bound(p99 <= VICTIM_P99_MAX.mul_f64(slower), format!("{name} p99 {p99:.0?}"));
            bound(seen.failures.is_empty(), format!("{name} failed: {:?}", seen.failures));
        }
        let health = self.health.percentile(100);
        bound(health <= HEALTH_MAX.mul_f64(slower), format!("healthz {health:.0?}"));
        bound(self.health.failures.is_empty(), format!("healthz: {:?}", self.health.failures));
        let (before, peak, after) = self.memory_mib;
        bound(peak <= PEAK_MIB_MAX, format!("peak {peak} MiB"));
        bound(after <= before + KEPT_MIB_MAX, format!("keeps {after} MiB of {before}"));
        let (calm, _, busy) = self.busy_percent;
        bound(busy <= calm + BUSY_PERCENT_MAX, format!("uses {busy} % CPU afterwards"));
        let most = self.command_max.mul_f64(slower);
        let long = self.commands.iter().filter(|took| **took > most).count();
        let longest = self.longest_command();
        bound(
            long <= LONG_COMMANDS_MAX.max(self.commands.len() / LONG_COMMANDS_SHARE),
            format!("redis held {longest:.1?}, {long} times too long"),
        );
        bound(self.log_lines <= LOG_LINES_MAX, format!("{} log lines", self.log_lines));
        faults
    }

    /// How much slower this machine is now; at least 1.0.
    fn slower(&self) -> f64 {
        (self.calm.percentile(50).as_secs_f64() / REST_P50.as_secs_f64()).max(1.0)
    }

    fn longest_command(&self) -> Duration {
        self.commands.iter().copied().max().unwrap_or_default()
    }

    fn median_command(&self) -> Duration {
        let mut sorted = self.commands.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn row(&self) -> String {
        let Self { http, websocket, health, memory_mib: (before, peak, after), .. } = self;
        let faults = self.faults();
        let mut verdict = if faults.is_empty() { "ok".to_owned() } else { faults.join("; ") };
        if self.slower() > 1.5 {
            verdict
                .push_str(&format!(" (bounds scaled by {:.1} for a slow machine)", self.slower()));
        }
        let calm = self.calm.percentile(99);
        if calm > CALM_P99 {
            verdict.push_str(&format!(" (the machine is busy: p99 {} ms before)", ms(calm)));
        }
        format!(
            "| {:<16} | {} / {} | {} / {} | {} | {before} / {peak} / {after} | {} | {} | {verdict} |",
            self.attack.name(),
            ms(http.percentile(50)),
            ms(http.percentile(99)),
            ms(websocket.percentile(50)),
            ms(websocket.percentile(99)),
            ms(health.percentile(100)),
            ms(self.longest_command()),
            self.log_lines,
        )
    }

    fn json(&self) -> Value {
        let of = |seen: &Seen| {
            let [p50, p99, max] = [50, 99, 100].map(|of| seen.percentile(of).as_secs_f64() * 1e3);
            json!({ "p50": p50, "p99": p99, "max": max, "failures": seen.failures })
        };
        let (before, peak, after) = self.memory_mib;
        let (calm, busy, still_busy) = self.busy_percent;
        json!({
            "attack": self.attack.name(),
            "victim_http_before_ms": of(&self.calm),
            "victim_http_ms": of(&self.http),
            "victim_websocket_ms": of(&self.websocket),
            "healthz_ms": of(&self.health),
            "hub_mib": { "before": before, "peak": peak, "after": after },
            "hub_busy_percent": { "before": calm, "during": busy, "after": still_busy },
            "redis_commands_above_1_ms": self.commands.len(),
            "redis_longest_ms": self.longest_command().as_secs_f64() * 1e3,
            "redis_median_of_those_ms": self.median_command().as_secs_f64() * 1e3,
            "log_lines": self.log_lines,
            "answers": self.answers,
            "faults": self.faults(),
        })
    }
}

impl Report {
    /// An empty report; prints the head of the table.
    pub(crate) fn new() -> Self {
        println!(
            "| attack | http p50 / p99 | websocket p50 / p99 | healthz max | hub MiB before / peak \
             / after | redis longest | log lines | verdict |\n|{}",
            " --- |".repeat(8)
        );
        Self { figures: Vec::new(), failed: Vec::new() }
    }

    /// Adds one and prints its row, so that a long run shows where it is.
    pub(crate) fn add(&mut self, figure: Figure) {
        println!("{}", figure.row());
        self.figures.push(figure);
    }

    /// Records an attack that could not be measured.
    pub(crate) fn add_failed(&mut self, attack: Attack) {
        println!("| {:<16} | not measured, see above |", attack.name());
        self.failed.push(attack);
    }

    /// Returns whether every attack was measured and every figure is within its bound.
    pub(crate) fn is_good(&self) -> bool {
        self.failed.is_empty() && self.figures.iter().all(Figure::is_good)
    }

    /// Prints the bounds, and how many attacks exceeded one.
    pub(crate) fn print_summary(&self) {
        let above = self.figures.iter().filter(|figure| !figure.is_good()).count();
        println!(
            "siege: {} attacks; {above} above a bound, {} not measured. Times in ms. Bounds, wider on a \
             slower machine: p99 {} ms and no refusal for a good client, healthz {} ms, a peak of \
             {PEAK_MIB_MAX} MiB and {KEPT_MIB_MAX} MiB more afterwards",
            self.figures.len() + self.failed.len(),
            self.failed.len(),
            VICTIM_P99_MAX.as_millis(),
            HEALTH_MAX.as_millis(),
        );
    }

    /// Writes the report as JSON.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let figures: Vec<_> = self.figures.iter().map(Figure::json).collect();
        let failed: Vec<_> = self.failed.iter().map(|attack| attack.name()).collect();
        fs::write(path, format!("{:#}\n", json!({ "attacks": figures, "failed": failed })))
    }
}

fn ms(took: Duration) -> String {
    format!("{:.1}", took.as_secs_f64() * 1e3)
}
