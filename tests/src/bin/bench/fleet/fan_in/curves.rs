//! The curves: latency by the number of clients, and by the rate.

use std::fmt::Write;

use super::{Run, plot, plot::Panel, servers::System};
use crate::figure::Figure;

/// A curve ends where p99 is above this.
const LIMIT_MS: f64 = 100.0;

/// A number of clients, and the entries a second of all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    pub(super) clients: usize,
    pub(super) per_second: u64,
}

/// All runs, by point and system.
#[derive(Debug, Default)]
pub(super) struct Curves {
    measured: Vec<(&'static str, Point, Vec<Run>)>,
}

impl Curves {
    /// Adds a run.
    pub(super) fn add(&mut self, system: &System, point: Point, run: Run) {
        let name = system.name();
        let same = self.measured.iter_mut().find(|(of, at, _)| (*of, *at) == (name, point));
        match same {
            Some((.., runs)) => runs.push(run),
            None => self.measured.push((name, point, vec![run])),
        }
    }

    /// The runs of a system at a point.
    pub(super) fn runs(&self, system: &System, point: Point) -> &[Run] {
        self.runs_of(system.name(), point)
    }

    fn runs_of(&self, system: &str, point: Point) -> &[Run] {
        let found = self.measured.iter().find(|(of, at, _)| (*of, *at) == (system, point));
        found.map_or(&[], |(.., runs)| runs)
    }

    /// Returns whether the system carried everything at this point within the limit of the curves.
    pub(super) fn is_within_limit(&self, system: &System, point: Point) -> bool {
        let runs = self.runs(system, point);
        !runs.is_empty()
            && median(runs, |run| run.p99_ms) <= LIMIT_MS
            && runs.iter().all(|run| run.carried >= 1.0)
    }

    /// The figures of all points but those that have others.
    pub(super) fn figures(&self, described: &[Point]) -> Vec<Figure> {
        let others = self.measured.iter().filter(|(_, point, _)| !described.contains(point));
        let figures = others.flat_map(|(system, point, runs)| {
            let (clients, rate) = (grouped(point.clients as u64), grouped(point.per_second));
            let name =
                |what| format!("fan-in curve, {clients} clients, {rate}/s, {system}: {what}");
            let all = |figure: fn(&Run) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
            let cpu = runs[0].cpu_us.iter().map(|(name, us)| format!("{name} {us:.1} µs"));
            let cpu = cpu.collect::<Vec<_>>().join(", ");
            let (carried, loader) = (100.0 * runs[0].carried, runs[0].loader_us);
            let note =
                format!("carried {carried:.1} %; CPU an entry: {cpu}, loader {loader:.1} µs");
            [
                Figure::new(name("p50"), "ms", all(|run| run.p50_ms)),
                Figure::new(name("p99"), "ms", all(|run| run.p99_ms)).note(note),
            ]
        });
        figures.collect()
    }

    /// The same as a table with a column for each system.
    pub(super) fn table(&self) -> String {
        let systems = self.systems();
        let mut text = String::from("| clients | entries/s |");
        for system in &systems {
            let _ = write!(text, " {system}: p50; p99 ms |");
        }
        let _ = writeln!(text, "\n| --- | --- |{}", " --- |".repeat(systems.len()));
        let mut points: Vec<_> = self.measured.iter().map(|(_, point, _)| *point).collect();
        points.sort_unstable_by_key(|point| (point.per_second, point.clients));
        points.dedup();
        for point in points {
            let (clients, rate) = (grouped(point.clients as u64), grouped(point.per_second));
            let _ = write!(text, "| {clients} | {rate} |");
            for system in &systems {
                let _ = match self.runs_of(system, point) {
                    [] => write!(text, " |"),
                    runs => {
                        let (p50, p99) =
                            (median(runs, |run| run.p50_ms), median(runs, |run| run.p99_ms));
                        write!(text, " {p50:.2}; {p99:.2} |")
                    }
                };
            }
            text.push('\n');
        }
        text
    }

    /// Both curves as a picture: by the rate of this many clients, and by clients at the lowest rate.
    pub(super) fn svg(&self, clients: usize) -> String {
        let rate = self.measured.iter().map(|(_, point, _)| point.per_second).min().unwrap_or(0);
        let by = |is_on: &dyn Fn(&Point) -> bool, x: fn(&Point) -> f64| {
            let curve = |system: &&'static str| {
                let of = self.measured.iter().filter(|(of, at, _)| of == system && is_on(at));
                let mut curve: Vec<_> =
                    of.map(|(_, at, runs)| (x(at), median(runs, |run| run.p99_ms))).collect();
                curve.sort_by(|a, b| a.0.total_cmp(&b.0));
                (*system, curve)
            };
            self.systems().iter().map(curve).collect::<Vec<_>>()
        };
        plot::svg(&[
            Panel {
                title: format!("p99 in ms by entries/s, {} clients", grouped(clients as u64)),
                curves: by(&|at| at.clients == clients, |at| at.per_second as f64),
            },
            Panel {
                title: format!("p99 in ms by clients, {} entries/s", grouped(rate)),
                curves: by(&|at| at.per_second == rate, |at| at.clients as f64),
            },
        ])
    }

    fn systems(&self) -> Vec<&'static str> {
        let mut systems: Vec<&str> = Vec::new();
        for (system, ..) in &self.measured {
            if !systems.contains(system) {
                systems.push(system);
            }
        }
        systems
    }
}

fn median(runs: &[Run], figure: fn(&Run) -> f64) -> f64 {
    Figure::new("", "", runs.iter().map(figure).collect()).median()
}

/// A number with commas between its thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
