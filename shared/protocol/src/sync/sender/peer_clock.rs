//! The peer's clock.

use std::time::{Duration, Instant};

use crate::seq::Seq;

/// The time that a frame may have travelled.
const TRAVEL_TIME_MAX: Duration = Duration::from_secs(60);

/// The peer's clock, as it was last received.
#[derive(Debug, Clone, Copy)]
pub struct PeerClock {
    /// The time that the peer sent, in milliseconds since 1970.
    pub unix_ms: u64,
    /// When it was received.
    pub received_at: Instant,
}

impl PeerClock {
    /// Returns the last seq that the peer certainly accepts.
    pub(super) fn ceiling(&self, now: Instant) -> Seq {
        let passed = now.saturating_duration_since(self.received_at).as_millis() as u64;
        let travel = TRAVEL_TIME_MAX.as_millis() as u64;
        Seq::ceiling((self.unix_ms + passed).saturating_sub(travel))
    }
}
