//! One fault at a time, and how long after its end everything works again.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use spoke_tests::chaos::fault::Fault;
use tokio_util::sync::CancellationToken;

use crate::{apps::Place, evidence, storm, world::World};

/// From the end of a cause until all that was added since has crossed both ways: what GUARANTEES.md
/// promises.
pub(crate) const PROMISED: Duration = Duration::from_secs(5);
/// Behind that it is called lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the cuts of a fault are waited for: the longest waits of an agent between them.
const CUTS_PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(10);

/// Of each kind of fault, how long everything took to work again.
pub(crate) type Times = BTreeMap<String, Vec<Duration>>;

/// Makes the faults one after the other for so long, while apps go on adding.
pub(crate) async fn rage(
    world: &World,
    faults: Vec<Fault>,
    places: &[Place],
    load: Duration,
) -> Times {
    let begun = Instant::now();
    let mut times = Times::new();
    if !works(world, places).await {
        times.insert("the-beginning".to_owned(), vec![PATIENCE]);
    }
    for fault in faults {
        if begun.elapsed() > load {
            break;
        }
        storm::note_and_make(world, &fault, &CancellationToken::new()).await;
        spent(world).await;
        let ended = Instant::now();
        let has_recovered = works(world, places).await;
        let took = if has_recovered { ended.elapsed() } else { PATIENCE };
        world.journal.note(&format!("{} was over for {} ms", fault.name(), took.as_millis()));
        times.entry(fault.name()).or_default().push(took);
    }
    times
}

/// Waits until the cuts that the fault has planned are made.
async fn spent(world: &World) {
    let links = || world.devices.iter().map(|device| &device.link).chain([&world.auth_link]);
    let is_spent = async {
        while links().any(|link| link.cuts_left() > 0) {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Whoever has no need to connect again is not cut again.
    let _ = tokio::time::timeout(CUTS_PATIENCE, is_spent).await;
}

/// Waits until what the apps add from now on arrives everywhere.
async fn works(world: &World, places: &[Place]) -> bool {
    let arrivals = places.iter().map(|place| evidence::next_arrival(world, *place));
    tokio::time::timeout(PATIENCE, join_all(arrivals)).await.is_ok()
}

/// A line for each, the slowest first.
pub(crate) fn table(times: &Times) -> String {
    let mut rows: Vec<_> =
        times.iter().map(|(name, times)| (name, median_and_worst(times))).collect();
    rows.sort_by_key(|(_, (_, worst))| std::cmp::Reverse(*worst));
    let mut text = String::new();
    for (name, (median, worst)) in rows {
        let count = times[name].len();
        let (median, worst) = (median.as_millis(), worst.as_millis());
        let _ = writeln!(
            text,
            "{name:<24} {count:>3} times  median {median:>5} ms  worst {worst:>5} ms"
        );
    }
    text
}

/// Those that took longer than is promised.
pub(crate) fn late(times: &Times) -> impl Iterator<Item = String> {
    let worst = times.iter().map(|(name, times)| (name, median_and_worst(times).1));
    worst.filter(|(_, worst)| *worst > PROMISED).map(|(name, worst)| {
        format!("after {name} it took {worst:.1?} until everything worked again, and {PROMISED:?} are promised")
    })
}

fn median_and_worst(times: &[Duration]) -> (Duration, Duration) {
    let mut sorted = times.to_vec();
    sorted.sort();
    (sorted[sorted.len() / 2], sorted[sorted.len() - 1])
}
