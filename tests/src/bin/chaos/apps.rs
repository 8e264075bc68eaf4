//! The apps: they add entries in bursts until the load is over, and one final entry each.

use std::time::Duration;

use spoke_tests::chaos::load::{Burst, Offer, burst, offer};
use tokio_util::sync::CancellationToken;

use crate::{host::Host, storm::wait, world::World};

/// Entries per round trip.
const PIPELINE: usize = 50;
/// The pause before an app retries an entry that Redis refused.
const RETRY: Duration = Duration::from_millis(100);

/// The out stream of one app.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// The one of this client on its device.
    Device(usize),
    /// The one in the cloud for this client.
    Cloud(usize),
}

/// One place for each origin.
pub(crate) fn places(world: &World) -> Vec<Place> {
    let clients = 0..world.clients.len();
    clients.flat_map(|n| [Place::Device(n), Place::Cloud(n)]).collect()
}

impl Place {
    /// The Redis, and the index of the out stream in it.
    pub(crate) fn host(self, world: &World) -> (&Host, usize) {
        match self {
            Self::Device(n) => {
                let client = &world.clients[n];
                (&world.devices[client.device].redis, client.index)
            }
            Self::Cloud(n) => (&world.cloud, n),
        }
    }

    /// The name, such as `dev1.up`.
    pub(crate) fn name(self, world: &World) -> String {
        let (host, which) = self.host(world);
        host.origins[which].book().origin.clone()
    }
}

/// How an app adds entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// In bursts of up to some hundred, with occasional pauses of seconds.
    Bursts,
    /// One at a time, so that the arrival of entries is noticed at once.
    Steady,
    /// In small bursts with long pauses, for hundreds of apps.
    Sparse,
}

/// The pause between two entries of a steady app.
const STEADY_PAUSE_MS: u64 = 50;
/// The most entries at once of a sparse app, and the pause that is added to each of its own: three entries a second.
const SPARSE: (u64, u64) = (20, 3000);

/// Adds entries until the load is over; returns the number of the next entry.
pub(crate) async fn run(
    world: &World,
    place: Place,
    (seed, pace): (u64, Pace),
    over: &CancellationToken,
) -> u64 {
    let (host, which) = place.host(world);
    let name = place.name(world);
    let mut number = 0;
    for turn in 0.. {
        let burst = match pace {
            Pace::Bursts => burst(seed, &name, turn),
            Pace::Steady => Burst { entries: 1, pause_ms: STEADY_PAUSE_MS },
            Pace::Sparse => {
                let Burst { entries, pause_ms } = burst(seed, &name, turn);
                Burst { entries: entries.min(SPARSE.0), pause_ms: pause_ms + SPARSE.1 }
            }
        };
        let numbers: Vec<_> = (number..number + burst.entries).collect();
        number += burst.entries;
        for part in numbers.chunks(PIPELINE) {
            let offers = part.iter().map(|number| offer(seed, &name, *number)).collect();
            add(host, which, offers, over).await;
        }
        wait(burst.pause_ms, over).await;
        if over.is_cancelled() {
            break;
        }
    }
    number
}

async fn add(host: &Host, which: usize, mut offers: Vec<Offer>, over: &CancellationToken) {
    while !offers.is_empty() && !over.is_cancelled() {
        offers = host.add(which, offers).await;
        if !offers.is_empty() {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Adds the final entry, once every fault is over, and returns its number. A copy that holds it has
/// received everything before it.
pub(crate) async fn add_final_entry(world: &World, place: Place, seed: u64, from: u64) -> u64 {
    let (host, which) = place.host(world);
    let name = place.name(world);
    let entry = (from..).map(|number| offer(seed, &name, number)).find(|offer| !offer.is_poison);
    let entry = entry.expect("most entries are no poison");
    let number = entry.number;
    let mut offers = vec![entry];
    while !offers.is_empty() {
        offers = host.add(which, offers).await;
        tokio::time::sleep(RETRY).await;
    }
    number
}
