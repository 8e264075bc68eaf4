//! The writes that wait while others are on their way, and which of them go next.
//!
//! A large batch holds Redis for milliseconds, so small ones do not wait behind more than one of them. The writes of
//! one client keep their order.

use std::collections::VecDeque;

use super::group::{Group, QueuedWrite};
use crate::{
    append_call::AppendBatch,
    limits::{COMMIT_LARGE_BYTES, COMMIT_LARGE_ENTRIES, COMMITS_MAX},
};

/// The waiting writes, by size, each in order of arrival.
#[derive(Default)]
pub(super) struct WaitingWrites {
    small: VecDeque<QueuedWrite>,
    large: VecDeque<QueuedWrite>,
}

impl WaitingWrites {
    pub(super) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    /// Returns whether no more writes should be taken from the queue.
    pub(super) fn is_full(&self) -> bool {
        self.small.len() + self.large.len() >= COMMITS_MAX
    }

    pub(super) fn push(&mut self, write: QueuedWrite) {
        let is_large = |batch: &AppendBatch| {
            batch.count >= COMMIT_LARGE_ENTRIES
                || batch.bytes() >= COMMIT_LARGE_BYTES
                || self.large.iter().any(|it| it.is_of(batch))
        };
        match &write {
            QueuedWrite::Batch { batch, .. } if is_large(batch) => self.large.push_back(write),
            _ => self.small.push_back(write),
        }
    }

    /// Takes the next writes: small ones as one group, then a large batch, or two if nothing else waits.
    pub(super) fn take(&mut self) -> Vec<Group> {
        let mut small = Group::default();
        while let Some(write) = self.small.pop_front_if(|write| small.has_room(write)) {
            small.add(write);
        }
        let larges = if small.is_empty() { 2 } else { 1 };
        let mut groups = Vec::with_capacity(1 + larges);
        if !small.is_empty() {
            groups.push(small);
        }
        for _ in 0..larges {
            let small = &self.small;
            let follows = |write: &QueuedWrite| match write {
                QueuedWrite::Batch { batch, .. } => !small.iter().any(|it| it.is_of(batch)),
                QueuedWrite::Command { .. } => true,
            };
            let Some(write) = self.large.pop_front_if(|write| follows(write)) else { break };
            let mut large = Group::default();
            large.add(write);
            groups.push(large);
        }
        groups
    }
}

impl QueuedWrite {
    /// Returns whether it is of the same client as `other`.
    fn is_of(&self, other: &AppendBatch) -> bool {
        matches!(self, Self::Batch { batch, .. } if batch.client == other.client)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::{Rng, SeedableRng, rngs::StdRng};
    use spoke_protocol::{Direction, Epoch};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{append_call::BatchJoin, keys::CopyStreams, limits::COMMIT_ENTRIES_MAX};

    /// A batch of `client` with this many entries; `details` tells the batches of a test apart.
    fn write(client: usize, count: usize, n: u32) -> QueuedWrite {
        let streams = CopyStreams {
            stream: "in".to_owned(),
            ledger: "lost".to_owned(),
            direction: Direction::Up,
        };
        let batch = AppendBatch {
            state: String::new(),
            generation: String::new(),
            epoch: Epoch(1),
            client: format!("dev{client}").parse().unwrap(),
            join: BatchJoin::Check(n.to_be_bytes().to_vec()),
            entries: Vec::new(),
            count,
        };
        let (answer, _) = oneshot::channel();
        QueuedWrite::Batch { streams: Arc::new(streams), batch: Box::new(batch), answer }
    }

    /// The client and number of each batch, by group.
    fn taken(waiting: &mut WaitingWrites) -> Vec<Vec<(String, u32)>> {
        let number = |batch: &AppendBatch| {
            let BatchJoin::Check(n) = &batch.join else { panic!("made above") };
            (batch.client.to_string(), u32::from_be_bytes(n.as_slice().try_into().unwrap()))
        };
        let groups = waiting.take();
        groups.iter().map(|group| group.each_batch().map(number).collect()).collect()
    }

    fn dev(client: usize, n: u32) -> (String, u32) {
        (format!("dev{client}"), n)
    }

    #[test]
    fn small_batches_go_in_one_call_before_one_large_batch() {
        let mut waiting = WaitingWrites::default();
        for (client, count, n) in [(1, 1000, 0), (2, 1, 1), (3, 1000, 2), (4, 64, 3), (5, 3, 4)] {
            waiting.push(write(client, count, n));
        }
        assert_eq!(
            taken(&mut waiting),
            [vec![dev(2, 1), dev(5, 4)], vec![dev(1, 0)]],
            "64 entries are large"
        );
        assert_eq!(taken(&mut waiting), [[dev(3, 2)], [dev(4, 3)]], "two if nothing else waits");
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_small_batch_stays_behind_the_large_one_of_its_client_and_a_large_one_behind_a_small() {
        let mut waiting = WaitingWrites::default();
        waiting.push(write(1, 1000, 0));
        waiting.push(write(1, 1, 1));
        assert_eq!(taken(&mut waiting), [[dev(1, 0)], [dev(1, 1)]]);

        let first = COMMIT_ENTRIES_MAX / 32;
        for n in 0..=first as u32 {
            waiting.push(write(n as usize, 31, n));
        }
        waiting.push(write(first, 1000, 99));
        assert_eq!(taken(&mut waiting).len(), 1, "the client's small batch found no room");
        assert_eq!(taken(&mut waiting), [[dev(first, first as u32)], [dev(first, 99)]]);
    }

    #[test]
    fn each_clients_batches_keep_their_order_whatever_their_sizes() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut waiting = WaitingWrites::default();
            let (mut sent, mut seen) = (0, Vec::new());
            while sent < 300 || !waiting.is_empty() {
                for _ in 0..random.random_range(0..20) {
                    if sent < 300 && !waiting.is_full() {
                        let count = [1, 30, 64, 500][random.random_range(0..4)];
                        waiting.push(write(random.random_range(0..6), count, sent));
                        sent += 1;
                    }
                }
                seen.extend(taken(&mut waiting).concat());
            }
            assert_eq!(seen.len(), 300, "seed {seed}");
            for client in 0..6 {
                let name = format!("dev{client}");
                let own: Vec<_> = seen.iter().filter(|it| it.0 == name).map(|it| it.1).collect();
                assert!(own.is_sorted(), "seed {seed}, {name}: {own:?}");
            }
        }
    }
}
