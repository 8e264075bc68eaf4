//! Latency and errors of a Redis.

use std::time::Duration;

use super::StoreError;
use spoke_diagnostics::metrics::{CounterVec, Histogram, REDIS_SCALE};

/// The metrics of one Redis.
#[derive(Debug)]
pub struct RedisStats {
    /// The time from sending commands together to the last of their replies.
    pub seconds: Histogram,
    /// The number of failed commands, by [`StoreError::word`].
    pub errors: CounterVec,
}

impl Default for RedisStats {
    fn default() -> Self {
        Self { seconds: Histogram::new(REDIS_SCALE), errors: CounterVec::new(StoreError::WORDS) }
    }
}

impl RedisStats {
    /// Counts the replies to commands that were sent together.
    pub(super) fn handle_answers(&self, took: Duration) {
        self.seconds.observe(took);
    }

    /// Counts a failed command.
    pub(super) fn handle_error(&self, error: &StoreError) {
        self.errors.add(error.word(), 1);
    }
}
