//! A Redis that may come back with an older state.

use std::collections::VecDeque;

use rand::{Rng, rngs::StdRng};

use super::model_redis::ModelRedis;
use crate::entry::Direction;

/// A Redis with the older states to which it may go back.
pub(super) struct Server {
    pub(super) now: ModelRedis,
    then: VecDeque<ModelRedis>,
}

const STATES_MAX: usize = 6;

impl Server {
    pub(super) fn of(clients: usize, direction: Direction, identity: u8) -> Self {
        let now = ModelRedis::of(clients, direction, identity);
        Self { then: VecDeque::from([now.clone()]), now }
    }

    pub(super) fn keep(&mut self) {
        self.then.push_back(self.now.clone());
        if self.then.len() > STATES_MAX {
            self.then.pop_front();
        }
    }

    /// States after a rewind are dropped: they never come back.
    pub(super) fn rewind(&mut self, rng: &mut StdRng) {
        let at = rng.random_range(0..self.then.len());
        self.then.truncate(at + 1);
        self.now = self.then[at].clone();
    }

    pub(super) fn wipe(&mut self) {
        let ModelRedis { clients, direction, identity, .. } = &self.now;
        *self = Self::of(clients.len(), *direction, identity.wrapping_add(1));
    }
}
