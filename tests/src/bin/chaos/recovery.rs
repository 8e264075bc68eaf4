//! Injects one fault at a time, and measures how long recovery takes after its end.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use spoke_tests::chaos::fault::Fault;
use tokio_util::sync::CancellationToken;

use crate::{apps::Place, evidence, storm, world::World};

/// The longest time from the end of a fault until everything added since has crossed both ways, as
/// GUARANTEES.md promises.
pub(crate) const PROMISED: Duration = Duration::from_secs(5);
/// After this, recovery has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait for a fault's planned cuts: an agent's longest retry delays between them.
const CUTS_PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(10);

/// The recovery times by the name of the fault.
pub(crate) type Times = BTreeMap<String, Vec<Duration>>;

/// Injects the faults one after the other while apps add entries, until `load` has passed.
pub(crate) async fn run_one_by_one(
    world: &World,
    faults: Vec<Fault>,
    places: &[Place],
    load: Duration,
) -> Times {
    let begun = Instant::now();
    let mut times = Times::new();
    if !carries_both_ways(world, places).await {
        times.insert("the-beginning".to_owned(), vec![PATIENCE]);
    }
    for fault in faults {
        if begun.elapsed() > load {
            break;
        }
        storm::inject(world, &fault, &CancellationToken::new()).await;
        wait_for_cuts(world).await;
        let ended = Instant::now();
        let has_recovered = carries_both_ways(world, places).await;
        let took = if has_recovered { ended.elapsed() } else { PATIENCE };
        world.journal.note(&format!(
            "everything carries_both_ways {1} ms after {0}",
            fault.name(),
            took.as_millis()
        ));
        times.entry(fault.name()).or_default().push(took);
    }
    times
}

/// Waits until the planned cuts of the fault are made.
async fn wait_for_cuts(world: &World) {
    let links = || world.devices.iter().map(|device| &device.link).chain([&world.auth_link]);
    let cutting = async {
        while links().any(|link| link.cuts_left() > 0) {
            tokio::time::sleep(LOOK).await;
        }
    };
    // A client that does not reconnect is not cut again.
    let _ = tokio::time::timeout(CUTS_PATIENCE, cutting).await;
}

/// Returns whether an entry that each app adds from now on arrives in time.
async fn carries_both_ways(world: &World, places: &[Place]) -> bool {
    let arrivals = places.iter().map(|place| evidence::next_arrival(world, *place));
    tokio::time::timeout(PATIENCE, join_all(arrivals)).await.is_ok()
}

/// A line for each fault, the slowest first.
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

/// A problem for each fault whose recovery took longer than promised.
pub(crate) fn late(times: &Times) -> impl Iterator<Item = String> {
    let worst = times.iter().map(|(name, times)| (name, median_and_worst(times).1));
    worst.filter(|(_, worst)| *worst > PROMISED).map(|(name, worst)| {
        format!("recovery after {name} took {worst:.1?}; {PROMISED:?} are promised")
    })
}

fn median_and_worst(times: &[Duration]) -> (Duration, Duration) {
    let mut sorted = times.to_vec();
    sorted.sort();
    (sorted[sorted.len() / 2], sorted[sorted.len() - 1])
}
