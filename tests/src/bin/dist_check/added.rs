//! The entries that were added at both ends, and their comparison with the copies.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use spoke_tests::{
    checker::{assert_same, expected, from_device, from_hub},
    cloud, device,
    entries::{Fields, Stored, every_byte, fields},
    redis::add_all,
    wait::eventually,
};
use tokio::time::sleep;

use crate::deployment::{CLIENT, Deployment};

/// The device's first epoch. The checks take nothing back in its Redis, so that there is no second.
const EPOCH: u64 = 1;
/// Entries that are added at a time, with this pause after them, where something happens meanwhile.
const SLOW: (usize, Duration) = (10, Duration::from_millis(1));

/// All entries that were added, oldest first.
#[derive(Default)]
pub(crate) struct Added {
    up: Vec<Stored>,
    down: Vec<Stored>,
}

impl Added {
    /// Adds entries at both ends.
    pub(crate) async fn extend(&mut self, deployment: &Deployment, count: usize) {
        self.extend_in_parts(deployment, count, (count, Duration::ZERO)).await;
    }

    /// Adds entries at both ends, over as long as it takes to interfere.
    pub(crate) async fn extend_slowly(&mut self, deployment: &Deployment, count: usize) {
        self.extend_in_parts(deployment, count, SLOW).await;
    }

    async fn extend_in_parts(
        &mut self,
        deployment: &Deployment,
        count: usize,
        (part, pause): (usize, Duration),
    ) {
        let (device, cloud) = (deployment.device.connection(), deployment.cloud.connection());
        let out = cloud::out(CLIENT);
        tokio::join!(
            feed(device, device::OUT, &mut self.up, count, (part, pause)),
            feed(cloud, &out, &mut self.down, count, (part, pause)),
        );
    }

    /// Waits until as many entries are in both copies.
    ///
    /// # Panics
    /// If they are not within `limit`, if a copy is not exactly what was added, or a loss is recorded.
    pub(crate) async fn carried(&self, deployment: &Deployment, limit: Duration) {
        let all = (self.up.len(), self.down.len());
        eventually(&format!("(up, down) {all:?} entries in the copies"), limit, async || {
            let found = deployment.copy_lengths().await;
            if found.0 >= all.0 && found.1 >= all.1 { Ok(()) } else { Err(found) }
        })
        .await;
        let up = from_device(&deployment.cloud.entries(cloud::IN).await, CLIENT);
        let down = from_hub(&deployment.device.entries(device::IN).await);
        assert_same("up", &expected(&self.up, Some(EPOCH)), &up);
        assert_same("down", &expected(&self.down, None), &down);
        let records = [
            (&deployment.cloud, cloud::LOST),
            (&deployment.device, device::LOST),
            (&deployment.device, device::DEAD),
        ];
        for (redis, stream) in records {
            assert_eq!(redis.length(stream).await, 0, "entries in {stream}");
        }
    }
}

async fn feed(
    connection: MultiplexedConnection,
    stream: &str,
    added: &mut Vec<Stored>,
    count: usize,
    (part, pause): (usize, Duration),
) {
    let first = added.len();
    let entries: Vec<_> = (first..first + count).map(entry).collect();
    for part in entries.chunks(part) {
        added.extend(add_all(connection.clone(), stream, part).await);
        sleep(pause).await;
    }
}

fn entry(number: usize) -> Fields {
    let payload = every_byte(100 + number % 100);
    fields([
        ("topic", b"test".to_vec()),
        ("n", number.to_string().into_bytes()),
        ("payload", payload),
    ])
}
