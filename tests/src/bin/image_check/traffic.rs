//! The entries that were added at both ends, and their comparison with the copies.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use spoke_tests::{
    checker::{assert_same, expected, from_device, from_hub},
    cloud, device,
    entries::{Stored, numbered},
    redis::{RedisServer, add_all},
    wait::{PATIENCE, eventually},
};
use tokio::time::sleep;

use crate::stack::CLIENT;

/// The device's first epoch. Its Redis takes nothing back, so that there is no second.
const EPOCH: u64 = 1;
/// Entries that are added at a time.
const PART: usize = 10;
/// Between two parts.
const PAUSE: Duration = Duration::from_millis(20);

/// All entries that were added, oldest first.
#[derive(Default)]
pub(crate) struct Traffic {
    up: Vec<Stored>,
    down: Vec<Stored>,
}

impl Traffic {
    /// The number of entries that were added at each end.
    pub(crate) fn len(&self) -> usize {
        self.up.len()
    }

    /// Adds entries at both ends, a few at a time.
    pub(crate) async fn feed(&mut self, device: &RedisServer, cloud: &RedisServer, count: usize) {
        let out = cloud::out(CLIENT);
        tokio::join!(
            feed(device.connection(), device::OUT, &mut self.up, count),
            feed(cloud.connection(), &out, &mut self.down, count),
        );
    }

    /// Waits until as many entries are in both copies.
    ///
    /// # Panics
    /// If they are not in time, if a copy is not exactly what was added, or a loss is recorded.
    pub(crate) async fn assert_carried(&self, device: &RedisServer, cloud: &RedisServer) {
        let all = (self.up.len(), self.down.len());
        eventually(&format!("(up, down) {all:?} entries in the copies"), PATIENCE, async || {
            let found = copy_lengths(device, cloud).await;
            if found.0 >= all.0 && found.1 >= all.1 { Ok(()) } else { Err(found) }
        })
        .await;
        let up = from_device(&cloud.entries(cloud::IN).await, CLIENT);
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
pub(crate) async fn copy_lengths(device: &RedisServer, cloud: &RedisServer) -> (usize, usize) {
    tokio::join!(cloud.length(cloud::IN), device.length(device::IN))
}

async fn feed(
    connection: MultiplexedConnection,
    stream: &str,
    added: &mut Vec<Stored>,
    count: usize,
) {
    let first = added.len();
    let entries: Vec<_> = (first..first + count).map(numbered).collect();
    for part in entries.chunks(PART) {
        added.extend(add_all(connection.clone(), stream, part).await);
        sleep(PAUSE).await;
    }
}
