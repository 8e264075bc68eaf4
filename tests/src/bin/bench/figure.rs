//! Figures with their goals, as a table and as JSON.

use std::{fs, io, path::Path};

use serde_json::{Value, json};

/// One figure, of which the median of all runs counts.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    runs: Vec<f64>,
    goal: Option<Goal>,
    note: String,
}

/// The goal of a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
}

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    /// The machine and the versions.
    header: Value,
    figures: Vec<Figure>,
    /// Groups that could not be measured.
    failed: Vec<String>,
}

impl Figure {
    /// A figure without a goal, such as a limit to compare with.
    ///
    /// # Panics
    /// If there is no run.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, runs: Vec<f64>) -> Self {
        let name = name.into();
        assert!(!runs.is_empty(), "{name} was not measured");
        Self { name, unit, runs, goal: None, note: String::new() }
    }

    /// Adds a goal.
    pub(crate) fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// Adds a note on how it was measured.
    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// The median of the runs.
    pub(crate) fn median(&self) -> f64 {
        let mut runs = self.runs.clone();
        runs.sort_by(f64::total_cmp);
        let middle = runs.len() / 2;
        match runs.len() % 2 {
            0 => f64::midpoint(runs[middle - 1], runs[middle]),
            _ => runs[middle],
        }
    }

    /// Returns whether it meets its goal; `None` without a goal.
    pub(crate) fn is_met(&self) -> Option<bool> {
        Some(match self.goal? {
            Goal::AtLeast(goal) => self.median() >= goal,
            Goal::AtMost(goal) => self.median() <= goal,
        })
    }

    fn spread(&self) -> (f64, f64) {
        let least = self.runs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.runs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    }

    fn row(&self) -> String {
        let (least, most) = self.spread();
        let goal = match self.goal {
            Some(Goal::AtLeast(goal)) => format!("≥ {}", readable(goal)),
            Some(Goal::AtMost(goal)) => format!("≤ {}", readable(goal)),
            None => String::new(),
        };
        let is_met = match self.is_met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        let measured = format!("{} {}", readable(self.median()), self.unit);
        let spread = match self.runs.len() {
            1 => String::new(),
            _ => format!("{} – {}", readable(least), readable(most)),
        };
        format!("| {} | {measured} | {spread} | {goal} | {is_met} | {} |", self.name, self.note)
    }

    fn json(&self) -> Value {
        let goal = match self.goal {
            Some(Goal::AtLeast(goal)) => json!({ "at_least": goal }),
            Some(Goal::AtMost(goal)) => json!({ "at_most": goal }),
            None => Value::Null,
        };
        json!({
            "name": self.name, "unit": self.unit, "median": self.median(), "runs": self.runs,
            "goal": goal, "is_met": self.is_met(), "note": self.note,
        })
    }
}

impl Report {
    /// A report without figures.
    pub(crate) fn new(header: Value) -> Self {
        Self { header, figures: Vec::new(), failed: Vec::new() }
    }

    /// Adds figures and prints their rows, so that a long run shows where it is.
    pub(crate) fn add(&mut self, figures: Vec<Figure>) {
        if self.figures.is_empty() {
            println!("| figure | measured | spread | goal | | |");
            println!("| --- | --- | --- | --- | --- | --- |");
        }
        figures.iter().for_each(|figure| println!("{}", figure.row()));
        self.figures.extend(figures);
    }

    /// Records a group that could not be measured.
    pub(crate) fn add_failed(&mut self, group: String) {
        self.failed.push(group);
    }

    /// Returns whether every group was measured.
    pub(crate) fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }

    /// Writes the report as JSON.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let figures: Vec<_> = self.figures.iter().map(Figure::json).collect();
        let all = json!({ "header": self.header, "figures": figures, "failed": self.failed });
        fs::write(path, format!("{all:#}\n"))
    }
}

/// Three significant digits.
fn readable(value: f64) -> String {
    match value.abs() {
        size if size >= 100_000.0 => format!("{:.0} k", value / 1000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
