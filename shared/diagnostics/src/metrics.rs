//! Metrics, and the page that Prometheus scrapes (text format, version 0.0.4).
//!
//! Rejected: `prometheus-client`, which writes OpenMetrics, where the HELP and TYPE lines of a counter leave out
//! `_total`, so that the text format and promtool's lint find none; and `metrics`, whose registry is global to the
//! process. Label values are fixed words, so their number is bounded. All known ones are exported from the start:
//! Prometheus does not see the growth of a counter that appears later.

use std::{
    fmt::{self, Display, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A metric that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the counter.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one name, with one label whose values are fixed words.
#[derive(Debug)]
pub struct CounterVec(Mutex<Vec<(&'static str, u64)>>);

impl CounterVec {
    /// Creates a counter of 0 for each of these label values.
    pub fn new(words: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Mutex::new(words.into_iter().map(|word| (word, 0)).collect()))
    }

    /// Adds to the counter with this label value.
    pub fn add(&self, word: &'static str, count: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.iter_mut().find(|(known, _)| *known == word) {
            Some((_, counted)) => *counted += count,
            None => counts.push((word, count)),
        }
    }

    /// Returns all label values with their counters.
    pub fn get(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A histogram of durations: the number of values up to each bound, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds_us: &'static [u64],
    /// One more than there are bounds, for values past the last.
    counts: Box<[Counter]>,
    sum_us: Counter,
}

/// Bounds in microseconds for commands to Redis, up to their timeout.
pub const REDIS_SCALE: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    2_500_000, 10_000_000,
];
/// Bounds in microseconds for the round trip of a link, up to its timeout.
pub const LINK_SCALE: &[u64] = &[
    1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];
/// Bounds in microseconds for the age of an entry, from one without delay to one of a device that was offline for a
/// week.
pub const AGE_SCALE: &[u64] = &[
    50_000,
    250_000,
    1_000_000,
    5_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    3_600_000_000,
    21_600_000_000,
    86_400_000_000,
    604_800_000_000,
];
/// Bounds in microseconds for a bcrypt hash with its queueing, from the lowest cost to one that is too high.
pub const HASH_SCALE: &[u64] = &[
    10_000, 50_000, 100_000, 200_000, 300_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

impl Histogram {
    /// Creates an empty histogram. The bounds are in microseconds, in ascending order.
    pub fn new(bounds_us: &'static [u64]) -> Self {
        let counts = (0..=bounds_us.len()).map(|_| Counter::default()).collect();
        Self { bounds_us, counts, sum_us: Counter::default() }
    }

    /// Counts a value.
    pub fn observe(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = self.bounds_us.partition_point(|bound| *bound < took_us);
        self.counts[at].add(1);
        self.sum_us.add(took_us);
    }
}

/// A duration in seconds with up to six decimals, written without floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs())?;
        match self.0.subsec_micros() {
            0 => Ok(()),
            micros => f.write_str(format!(".{micros:06}").trim_end_matches('0')),
        }
    }
}

/// The name and value of a label.
pub type Label<'a> = (&'a str, &'a str);

/// The text of a metrics page, as it is written.
#[derive(Debug, Default)]
pub struct MetricsPage(String);

impl MetricsPage {
    /// Creates a page that begins with the version and start time of the service.
    pub fn new(service: &str, version: &str, started_ms: u64) -> Self {
        let mut page = Self::default();
        let name = format!("{service}_build_info");
        page.head("gauge", &name, "Always 1; the label says which version runs.");
        page.sample(&name, &[("version", version)], &1);
        let started = Seconds(Duration::from_millis(started_ms));
        let help = "When the process started, in seconds since 1970.";
        page.gauge("process_start_time_seconds", help, &started);
        page
    }

    /// Writes a counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.head("counter", name, help);
        self.sample(name, &[], &counter.get());
    }

    /// Writes counters with one label.
    pub fn counters(&mut self, name: &str, help: &str, label: &str, counters: &CounterVec) {
        self.head("counter", name, help);
        for (word, count) in counters.get() {
            self.sample(name, &[(label, word)], &count);
        }
    }

    /// Writes a gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: &dyn Display) {
        self.head("gauge", name, help);
        self.sample(name, &[], value);
    }

    /// Writes histograms of one name, each with its own label.
    pub fn histograms(&mut self, name: &str, help: &str, each: &[(Option<Label<'_>>, &Histogram)]) {
        self.head("histogram", name, help);
        let bucket = format!("{name}_bucket");
        for (label, histogram) in each {
            let mut below = 0;
            let bounds = histogram.bounds_us.iter().map(|us| Duration::from_micros(*us));
            let bounds = bounds.map(|bound| Seconds(bound).to_string());
            for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&histogram.counts) {
                below += count.get();
                let le = ("le", bound.as_str());
                match label {
                    Some(label) => self.sample(&bucket, &[*label, le], &below),
                    None => self.sample(&bucket, &[le], &below),
                }
            }
            let labels = label.as_slice();
            let sum = Seconds(Duration::from_micros(histogram.sum_us.get()));
            self.sample(&format!("{name}_sum"), labels, &sum);
            self.sample(&format!("{name}_count"), labels, &below);
        }
    }

    /// Writes the HELP and TYPE lines of one name.
    pub fn head(&mut self, kind: &str, name: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Writes a sample.
    pub fn sample(&mut self, name: &str, labels: &[Label<'_>], value: &dyn Display) {
        self.0.push_str(name);
        for (at, (label, word)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{word}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// Returns the text of the page.
    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_written_without_trailing_zeros() {
        for (micros, text) in
            [(0, "0"), (250, "0.00025"), (1_500_000, "1.5"), (3_000_000, "3"), (10, "0.00001")]
        {
            assert_eq!(Seconds(Duration::from_micros(micros)).to_string(), text);
        }
    }

    #[test]
    fn a_page_has_help_and_type_before_each_name_and_all_labels_from_the_start() {
        let (sessions, lost) = (Counter::default(), CounterVec::new(["trimmed", "rewound"]));
        sessions.add(3);
        lost.add("rewound", 2);
        let mut page = MetricsPage::new("spoke_x", "1.2.3", 1_500);
        page.counter("spoke_x_sessions_total", "Sessions begun.", &sessions);
        page.counters("spoke_x_lost_entries_total", "Lost.", "cause", &lost);
        page.gauge("spoke_x_connections", "Now.", &7);
        let text = "# HELP spoke_x_build_info Always 1; the label says which version runs.\n\
                    # TYPE spoke_x_build_info gauge\n\
                    spoke_x_build_info{version=\"1.2.3\"} 1\n\
                    # HELP process_start_time_seconds When the process started, in seconds since 1970.\n\
                    # TYPE process_start_time_seconds gauge\n\
                    process_start_time_seconds 1.5\n\
                    # HELP spoke_x_sessions_total Sessions begun.\n\
                    # TYPE spoke_x_sessions_total counter\n\
                    spoke_x_sessions_total 3\n\
                    # HELP spoke_x_lost_entries_total Lost.\n\
                    # TYPE spoke_x_lost_entries_total counter\n\
                    spoke_x_lost_entries_total{cause=\"trimmed\"} 0\n\
                    spoke_x_lost_entries_total{cause=\"rewound\"} 2\n\
                    # HELP spoke_x_connections Now.\n\
                    # TYPE spoke_x_connections gauge\n\
                    spoke_x_connections 7\n";
        assert_eq!(page.into_text(), text);
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_include_their_bound() {
        let histogram = Histogram::new(&[1_000, 10_000]);
        for micros in [1, 1_000, 1_001, 10_000, 20_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut page = MetricsPage::default();
        page.histograms("t_seconds", "Took.", &[(Some(("redis", "redis")), &histogram)]);
        let text = page.into_text();
        for line in [
            "t_seconds_bucket{redis=\"redis\",le=\"0.001\"} 2",
            "t_seconds_bucket{redis=\"redis\",le=\"0.01\"} 4",
            "t_seconds_bucket{redis=\"redis\",le=\"+Inf\"} 5",
            "t_seconds_sum{redis=\"redis\"} 0.032002",
            "t_seconds_count{redis=\"redis\"} 5",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
