//! Keeps the in stream at about `in_max_len` entries.

use std::time::{Duration, Instant};

use spoke_store::{
    limits::TRIM_REPORT_INTERVAL,
    trim::{Trimmed, trim},
};
use tracing::warn;

use crate::{hub::Hub, limits::TRIM_INTERVAL};

/// Trims until the shutdown begins. Any number of hubs may do so at once.
pub async fn keep(hub: Hub) {
    let (max_len, min_age) = (hub.config.in_max_len, hub.config.in_min_age_seconds);
    let min_age = Duration::from_secs(min_age);
    let mut unsaid = Unsaid::default();
    loop {
        let trimmed = hub.checked(trim(&hub.redis, &hub.keys, max_len, min_age).await);
        let trimmed = trimmed.unwrap_or_default();
        hub.metrics.trimmed_unread.add(trimmed.unread);
        if let Some(count) = unsaid.handle(trimmed, Instant::now()) {
            warn!(
                count,
                max_len,
                "entries that a consumer group had not read were trimmed from the in stream; raise \
                 in_max_len or in_min_age_seconds, or look at the group's consumers"
            );
        }
        if trimmed.is_full() {
            continue;
        }
        tokio::select! {
            () = hub.shutdown.begun() => return,
            () = tokio::time::sleep(TRIM_INTERVAL) => {}
        }
    }
}

/// What was trimmed unread since it was last said.
#[derive(Default)]
struct Unsaid {
    count: u64,
    said_at: Option<Instant>,
}

impl Unsaid {
    /// How many to tell of now.
    fn handle(&mut self, trimmed: Trimmed, now: Instant) -> Option<u64> {
        self.count += trimmed.unread;
        let is_due = self.said_at.is_none_or(|at| now >= at + TRIM_REPORT_INTERVAL);
        if self.count == 0 || !is_due {
            return None;
        }
        self.said_at = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_trimmed_unread_is_said_at_once_and_then_once_in_a_while() {
        let (mut unsaid, now) = (Unsaid::default(), Instant::now());
        let trimmed = |unread| Trimmed { entries: 100, unread };
        assert_eq!(unsaid.handle(trimmed(0), now), None);
        assert_eq!(unsaid.handle(trimmed(5), now), Some(5));
        assert_eq!(unsaid.handle(trimmed(6), now), None);
        assert_eq!(unsaid.handle(trimmed(7), now + TRIM_REPORT_INTERVAL), Some(13));
        assert_eq!(unsaid.handle(trimmed(0), now + 2 * TRIM_REPORT_INTERVAL), None);
    }
}
