//! The apps: they add entries in bursts until the load is over, and one last word each.

use std::time::Duration;

use spoke_tests::chaos::load::{Burst, Offer, burst, offer};
use tokio_util::sync::CancellationToken;

use crate::{host::Host, storm::hold, world::World};

/// Entries of one round trip.
const PIPELINE: usize = 50;
/// Before an app tries again what Redis refused.
const RETRY: Duration = Duration::from_millis(100);

/// Where one app adds: a Redis and which of its out streams.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// On this device.
    Device(usize),
    /// In the cloud, for this device.
    Cloud(usize),
}

/// One for each origin.
pub(crate) fn places(world: &World) -> Vec<Place> {
    let devices = 0..world.devices.len();
    devices.flat_map(|n| [Place::Device(n), Place::Cloud(n)]).collect()
}

impl Place {
    /// The Redis, and which of its out streams.
    pub(crate) fn host(self, world: &World) -> (&Host, usize) {
        match self {
            Self::Device(n) => (&world.devices[n].redis, 0),
            Self::Cloud(n) => (&world.cloud, n),
        }
    }

    /// Such as `dev1.up`.
    pub(crate) fn name(self, world: &World) -> String {
        let (host, which) = self.host(world);
        host.origins[which].book().origin.clone()
    }
}

/// How an app adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// In bursts of some hundred, and now and then nothing for seconds.
    Bursts,
    /// One at a time, so that it shows at once when they arrive.
    Steady,
}

/// Between two entries of a steady app.
const STEADY_PAUSE_MS: u64 = 50;

/// Adds until the load is over; gives the number of the entry that would come next.
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
        };
        let numbers: Vec<_> = (number..number + burst.entries).collect();
        number += burst.entries;
        for part in numbers.chunks(PIPELINE) {
            let offers = part.iter().map(|number| offer(seed, &name, *number)).collect();
            add(host, which, offers, over).await;
        }
        hold(burst.pause_ms, over).await;
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

/// Adds one more entry, once every fault is over, and gives its number. It is the end of the stream: who
/// has it has heard of all that came before.
pub(crate) async fn last_word(world: &World, place: Place, seed: u64, from: u64) -> u64 {
    let (host, which) = place.host(world);
    let name = place.name(world);
    let word = (from..).map(|number| offer(seed, &name, number)).find(|offer| !offer.is_poison);
    let word = word.expect("most entries are no poison");
    let number = word.number;
    let mut offers = vec![word];
    while !offers.is_empty() {
        offers = host.add(which, offers).await;
        tokio::time::sleep(RETRY).await;
    }
    number
}
