//! Chart of the entries a second in both directions over the last minutes.

use std::{collections::VecDeque, fmt::Write};

use crate::limits::{CHART_SPAN, SURVEY_INTERVAL};
use maud::{Markup, html};

use super::layout::rate;

/// Recent sums in order of time.
#[derive(Debug, Clone, Default)]
pub(super) struct RateChart {
    samples: VecDeque<ChartSample>,
}

#[derive(Debug, Clone, Copy)]
struct ChartSample {
    at_ms: u64,
    up: u64,
    down: u64,
}

/// Entries a second at one time; `None` after a gap.
type RatePoint = (u64, Option<f64>);

/// Size of the SVG view box.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;
/// Samples further apart than this are not connected.
const GAP_MS: u64 = 15 * SURVEY_INTERVAL.as_millis() as u64;

impl RateChart {
    /// Adds the sums of one moment.
    pub(super) fn add(&mut self, at_ms: u64, up: u64, down: u64) {
        let oldest = at_ms.saturating_sub(CHART_SPAN.as_millis() as u64 + GAP_MS);
        // Drops samples from the future after the clock was set back.
        self.samples.retain(|sample| sample.at_ms < at_ms && sample.at_ms >= oldest);
        self.samples.push_back(ChartSample { at_ms, up, down });
    }

    fn points(&self, sum: impl Fn(&ChartSample) -> u64) -> Vec<RatePoint> {
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        pairs
            .map(|(before, after)| {
                let span_ms = after.at_ms - before.at_ms;
                // A lower sum, for example after a client was removed, counts as no change.
                let added = sum(after).saturating_sub(sum(before));
                let rate = added as f64 * 1000.0 / span_ms as f64;
                (after.at_ms, (span_ms <= GAP_MS).then_some(rate))
            })
            .collect()
    }

    /// Renders the chart with its legend.
    pub(super) fn picture(&self, now_ms: u64) -> Markup {
        let (up, down) = (self.points(|sample| sample.up), self.points(|sample| sample.down));
        let peak = up.iter().chain(&down).filter_map(|point| point.1).fold(0.0, f64::max);
        let top = ceiling(peak);
        let (up_line, down_line) = (line(&up, top, now_ms), line(&down, top, now_ms));
        let last = |points: &[RatePoint]| points.last().and_then(|point| point.1);
        html! {
            figure.chart {
                figcaption {
                    span.key.up { "up " b #rate-up { (rate(last(&up))) } }
                    span.key.down { "down " b #rate-down { (rate(last(&down))) } }
                    span.unit { "entries a second" }
                }
                div.plot {
                    span.top { (rate(Some(top))) }
                    svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                        aria-label="entries a second, up and down, in the last five minutes" {
                        @for height in [1.0, HEIGHT / 2.0, HEIGHT - 1.0] {
                            path.grid d={ "M0 " (height) "H" (WIDTH) } {}
                        }
                        path.area d=(area(&up, top, now_ms)) {}
                        path.line.down d=(down_line) {}
                        path.line.up d=(up_line) {}
                    }
                }
                div.axis { span { "5 minutes ago" } span { "now" } }
            }
        }
    }
}

/// Returns the next of 1, 2, 5, 10, 20, … that is at least the peak.
fn ceiling(peak: f64) -> f64 {
    let mut top = 1.0;
    for step in [2.0, 2.5, 2.0].into_iter().cycle() {
        if top >= peak || top > 1e12 {
            break;
        }
        top *= step;
    }
    top
}

fn place((at_ms, rate): (u64, f64), top: f64, now_ms: u64) -> (f64, f64) {
    let age = now_ms.saturating_sub(at_ms) as f64 / CHART_SPAN.as_millis() as f64;
    (WIDTH * (1.0 - age), HEIGHT - 1.0 - (HEIGHT - 2.0) * (rate / top).min(1.0))
}

/// Splits the points at gaps.
fn runs(points: &[RatePoint]) -> impl Iterator<Item = Vec<(u64, f64)>> {
    points
        .split(|point| point.1.is_none())
        .map(|run| run.iter().filter_map(|(at, rate)| Some((*at, (*rate)?))).collect::<Vec<_>>())
        .filter(|run| !run.is_empty())
}

fn line(points: &[RatePoint], top: f64, now_ms: u64) -> String {
    let mut path = String::new();
    for run in runs(points) {
        for (at, point) in run.into_iter().enumerate() {
            let (x, y) = place(point, top, now_ms);
            let _ = write!(path, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
        }
    }
    path
}

fn area(points: &[RatePoint], top: f64, now_ms: u64) -> String {
    let mut path = String::new();
    for run in runs(points) {
        let at =
            |point: Option<&(u64, f64)>| point.map_or(0.0, |point| place(*point, top, now_ms).0);
        let (first, last) = (at(run.first()), at(run.last()));
        let _ = write!(path, "M{first:.1} {HEIGHT}");
        for point in run {
            let (x, y) = place(point, top, now_ms);
            let _ = write!(path, "L{x:.1} {y:.1}");
        }
        let _ = write!(path, "L{last:.1} {HEIGHT}Z");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_increase_per_second_and_a_gap_has_no_rate() {
        let mut chart = RateChart::default();
        for (at_ms, up) in [(10_000, 5), (12_000, 25), (14_000, 20), (90_000, 500), (92_000, 502)] {
            chart.add(at_ms, up, 0);
        }
        let rates: Vec<_> =
            chart.points(|sample| sample.up).into_iter().map(|point| point.1).collect();
        assert_eq!(rates, [Some(10.0), Some(0.0), None, Some(1.0)]);
        assert_eq!(line(&chart.points(|sample| sample.up), 10.0, 92_000).matches('M').count(), 2);
    }

    #[test]
    fn samples_older_than_the_chart_or_ahead_of_the_clock_are_dropped() {
        let mut chart = RateChart::default();
        for at_ms in (0..1_000_000).step_by(2000) {
            chart.add(at_ms, at_ms, 0);
        }
        assert!(chart.samples.len() <= 170, "{}", chart.samples.len());
        chart.add(500_000, 0, 0);
        assert!(chart.samples.iter().all(|sample| sample.at_ms <= 500_000));
        assert_eq!(
            [0.0, 1.0, 1.5, 3.0, 99.0, 1234.0].map(ceiling),
            [1.0, 1.0, 2.0, 5.0, 100.0, 2000.0]
        );
    }
}
