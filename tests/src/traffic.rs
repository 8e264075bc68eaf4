//! Entries that were added at both ends of one device, and their comparison with the copies.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use crate::{
    checker::{assert_same, expected, from_device, from_hub},
    cloud, device,
    entries::{Fields, Stored},
    redis::{RedisServer, add_all},
    wait::eventually,
};

/// The device's first epoch. Nothing takes its Redis back, so that there is no second.
const EPOCH: u64 = 1;

/// How entries are added: how many at a time, and the pause after them.
pub type FeedPace = (usize, Duration);

/// All entries that were added, oldest first.
pub struct Traffic {
    client: &'static str,
    entry: fn(usize) -> Fields,
    up: Vec<Stored>,
    down: Vec<Stored>,
}

impl Traffic {
    /// No entries yet, of this device. `entry` makes the one of a number.
    pub fn new(client: &'static str, entry: fn(usize) -> Fields) -> Self {
        Self { client, entry, up: Vec::new(), down: Vec::new() }
    }

    /// The number of entries that were added at each end.
    pub fn count(&self) -> usize {
        self.up.len()
    }

    /// Adds entries at both ends.
    ///
    /// # Panics
    /// If Redis fails.
    pub async fn feed(
        &mut self,
        device: &RedisServer,
        cloud: &RedisServer,
        count: usize,
        pace: FeedPace,
    ) {
        let (entry, out) = (self.entry, cloud::out(self.client));
        tokio::join!(
            feed(device.connection(), device::OUT, &mut self.up, (entry, count, pace)),
            feed(cloud.connection(), &out, &mut self.down, (entry, count, pace)),
        );
    }

    /// Waits until as many entries are in both copies.
    ///
    /// # Panics
    /// If they are not within `limit`, if a copy is not exactly what was added, or a loss is recorded.
    pub async fn assert_carried(&self, device: &RedisServer, cloud: &RedisServer, limit: Duration) {
        let all = (self.up.len(), self.down.len());
        eventually(&format!("(up, down) {all:?} entries in the copies"), limit, async || {
            let found = copy_lengths(device, cloud).await;
            if found.0 >= all.0 && found.1 >= all.1 { Ok(()) } else { Err(found) }
        })
        .await;
        let up = from_device(&cloud.entries(cloud::IN).await, self.client);
        let down = from_hub(&device.entries(device::IN).await);
        assert_same("up", &expected(&self.up, Some(EPOCH)), &up);
        assert_same("down", &expected(&self.down, None), &down);
        for (redis, stream) in
            [(cloud, cloud::LOST), (device, device::LOST), (device, device::DEAD)]
        {
            assert_eq!(redis.length(stream).await, 0, "entries in {stream}");
        }
    }
}

/// The numbers of entries in the copies, up and down.
///
/// # Panics
/// If Redis fails.
pub async fn copy_lengths(device: &RedisServer, cloud: &RedisServer) -> (usize, usize) {
    tokio::join!(cloud.length(cloud::IN), device.length(device::IN))
}

async fn feed(
    connection: MultiplexedConnection,
    stream: &str,
    added: &mut Vec<Stored>,
    (entry, count, (part, pause)): (fn(usize) -> Fields, usize, FeedPace),
) {
    let first = added.len();
    let entries: Vec<_> = (first..first + count).map(entry).collect();
    for part in entries.chunks(part) {
        added.extend(add_all(connection.clone(), stream, part).await);
        sleep(pause).await;
    }
}
