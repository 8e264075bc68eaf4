//! How a Redis does: how long its answers take, and which it did not give.

use std::time::Duration;

use super::StoreError;
use spoke_diagnostics::metrics::{CounterVec, Histogram, REDIS_SCALE};

/// The figures of one Redis.
#[derive(Debug)]
pub struct RedisStats {
    /// From commands sent together to the last of their answers.
    pub seconds: Histogram,
    /// Commands that were not done, by what was wrong.
    pub errors: CounterVec,
}

impl Default for RedisStats {
    fn default() -> Self {
        Self { seconds: Histogram::new(REDIS_SCALE), errors: CounterVec::new(StoreError::WORDS) }
    }
}

impl RedisStats {
    /// Commands that were sent together were answered.
    pub(super) fn handle_answers(&self, took: Duration) {
        self.seconds.observe(took);
    }

    /// One of them was not done.
    pub(super) fn handle_error(&self, error: &StoreError) {
        self.errors.add(error.word(), 1);
    }
}
