//! The cost of an entry on one, two and three primaries of a Redis Cluster, compared with one Redis in the same run.
//!
//! On one machine this shows the cost, and not what several machines carry.

use super::{CLIENTS, Figure, Options, Point, RATES, Run, System, run, servers::PARTITIONS};

const PRIMARIES: [usize; 3] = [1, 2, 3];

/// Measures it.
///
/// # Panics
/// If the hub refuses the load.
pub(crate) async fn measure(options: &Options) -> Vec<Figure> {
    let mut figures = Vec::new();
    for rate in [RATES[0], RATES[2]] {
        let point = Point { clients: CLIENTS, per_second: CLIENTS as u64 * rate };
        let mut measured: Vec<Vec<Shares>> = PRIMARIES.map(|_| Vec::new()).into();
        for _ in 0..options.runs() {
            let one = run(options, &System::Spoke, point).await.expect("the hub takes the load");
            for (primaries, shares) in PRIMARIES.into_iter().zip(&mut measured) {
                let system = System::Partitioned(primaries);
                let many = run(options, &system, point).await.expect("the hub takes the load");
                shares.push(Shares::of(&many, &one));
            }
        }
        for (primaries, shares) in PRIMARIES.into_iter().zip(&measured) {
            let name = |what: &str| {
                format!("{PARTITIONS} partitions on {primaries}, {CLIENTS} × {rate}/s: {what}")
            };
            let all = |share: fn(&Shares) -> f64| shares.iter().map(share).collect::<Vec<_>>();
            let of_one = "of one Redis in the same run";
            figures.push(Figure::new(name("hub"), "×", all(|it| it.hub)).note(of_one));
            figures.push(Figure::new(name("Redis"), "×", all(|it| it.redis)).note(of_one));
            figures.push(Figure::new(name("p99"), "ms", all(|it| it.p99_ms)));
        }
    }
    figures
}

/// The processor time of an entry, compared with one Redis.
struct Shares {
    hub: f64,
    redis: f64,
    p99_ms: f64,
}

impl Shares {
    fn of(many: &Run, one: &Run) -> Self {
        let hub = |run: &Run| run.cpu_us[0].1;
        let redis = |run: &Run| run.cpu_us[1..].iter().map(|(_, us)| us).sum::<f64>();
        Self { hub: hub(many) / hub(one), redis: redis(many) / redis(one), p99_ms: many.p99_ms }
    }
}
