//! Publishes entries for all devices at an even rate, each device in turn.

use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use redis::{aio::MultiplexedConnection, pipe};
use spoke_store::keys::DeviceKeys;
use spoke_tests::entries::{Stored, fields};

use super::{client::device_keys, stand::name};

/// The field that holds an entry's number.
pub(super) const NUMBER: &str = "n";
/// The interval at which due entries are published.
const TICK: Duration = Duration::from_millis(1);
/// Hex digits of a payload.
const PAYLOAD: usize = 100;

/// The entries to publish.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) clients: usize,
    /// Entries a second for each client.
    pub(super) rate: usize,
    pub(super) seconds: usize,
}

/// The entries that were published.
pub(super) struct Published {
    /// When each entry, by its number, was sent to its device's Redis.
    pub(super) at: Vec<Instant>,
    /// The entries of each client, in order.
    pub(super) by_client: Vec<Vec<Stored>>,
}

impl Load {
    /// The total number of entries.
    pub(super) fn entries(self) -> usize {
        self.clients * self.rate * self.seconds
    }

    fn all_per_second(self) -> f64 {
        (self.clients * self.rate) as f64
    }
}

/// Publishes the load, each client at its own offset within the period.
///
/// # Panics
/// If Redis refuses.
pub(super) async fn publish(mut devices: MultiplexedConnection, load: Load) -> Published {
    let mut turns: Vec<usize> = (0..load.clients).collect();
    turns.shuffle(&mut rand::rng());
    let keys: Vec<DeviceKeys> = (0..load.clients).map(|n| device_keys(&name(n))).collect();
    let mut published =
        Published { at: Vec::with_capacity(load.entries()), by_client: vec![vec![]; load.clients] };
    let began = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    while published.at.len() < load.entries() {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * load.all_per_second()) as usize;
        let part = published.at.len()..due.min(load.entries());
        if part.is_empty() {
            continue;
        }
        let mut pipe = pipe();
        let mut added = Vec::with_capacity(part.len());
        for number in part {
            let client = turns[number % load.clients];
            let entry = fields([(NUMBER, number.to_string()), ("payload", payload())]);
            let xadd = pipe.cmd("XADD").arg(keys[client].out()).arg("*");
            entry.iter().for_each(|(name, value)| {
                xadd.arg(&name[..]).arg(&value[..]);
            });
            added.push((client, entry));
        }
        let now = Instant::now();
        let ids: Vec<String> = pipe.query_async(&mut devices).await.expect("redis takes entries");
        for (id, (client, fields)) in ids.into_iter().zip(added) {
            published.at.push(now);
            published.by_client[client].push(Stored { id, fields });
        }
    }
    published
}

fn payload() -> String {
    let digits = || format!("{:032x}", rand::random::<u128>());
    let mut payload: String = (0..PAYLOAD.div_ceil(32)).map(|_| digits()).collect();
    payload.truncate(PAYLOAD);
    payload
}
