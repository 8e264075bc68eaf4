//! A Redis that may be rewound to an older state.

use std::collections::VecDeque;

use rand::{Rng, rngs::StdRng};

use super::model_redis::ModelRedis;
use crate::entry::Direction;

/// A Redis with the older states to which it may be rewound.
pub(super) struct Server {
    pub(super) current: ModelRedis,
    snapshots: VecDeque<ModelRedis>,
}

const SNAPSHOTS_MAX: usize = 6;

impl Server {
    pub(super) fn of(clients: usize, direction: Direction, identity: u8) -> Self {
        let current = ModelRedis::of(clients, direction, identity);
        Self { snapshots: VecDeque::from([current.clone()]), current }
    }

    pub(super) fn take_snapshot(&mut self) {
        self.snapshots.push_back(self.current.clone());
        if self.snapshots.len() > SNAPSHOTS_MAX {
            self.snapshots.pop_front();
        }
    }

    /// Drops the states after the one that it goes back to.
    pub(super) fn rewind(&mut self, rng: &mut StdRng) {
        let at = rng.random_range(0..self.snapshots.len());
        self.snapshots.truncate(at + 1);
        self.current = self.snapshots[at].clone();
    }

    pub(super) fn wipe(&mut self) {
        let ModelRedis { clients, direction, identity, .. } = &self.current;
        *self = Self::of(clients.len(), *direction, identity.wrapping_add(1));
    }
}
