//! The peer's clock.

use std::time::Instant;

use crate::seq::Seq;

/// The other side's clock, as it was once told.
#[derive(Debug, Clone, Copy)]
pub struct PeerClock {
    /// What it told, in milliseconds since 1970.
    pub unix_ms: u64,
    /// When.
    pub received_at: Instant,
}

impl PeerClock {
    /// The last seq that the other side surely takes: a minute is for the way there.
    pub(super) fn ceiling(&self, now: Instant) -> Seq {
        let passed = now.saturating_duration_since(self.received_at).as_millis() as u64;
        Seq::ceiling((self.unix_ms + passed).saturating_sub(60_000))
    }
}
