//! Keeps the in stream at about `in_max_len` entries.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use spoke_store::{
    limits::TRIM_REPORT_INTERVAL,
    trim::{Trimmed, trim},
};
use tracing::warn;

use crate::{limits::TRIM_INTERVAL, state::HubState};

/// Trims until shutdown. Several hubs may do so concurrently.
pub(crate) async fn run(hub: Arc<HubState>) {
    let (max_len, min_age) = (hub.config.in_max_len, hub.config.in_min_age_seconds);
    let min_age = Duration::from_secs(min_age);
    let mut unread = UnreadTrims::default();
    loop {
        let trimmed = hub.store_result(trim(&hub.redis, &hub.keys, max_len, min_age).await);
        let trimmed = trimmed.unwrap_or_default();
        hub.metrics.trimmed_unread.add(trimmed.unread);
        if let Some(count) = unread.handle(trimmed, Instant::now()) {
            let help = "raise in_max_len or in_min_age_seconds, or check the group's consumers";
            warn!(count, max_len, help, "unread entries trimmed from the in stream");
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

/// Unread trimmed entries since the last log message.
#[derive(Default)]
struct UnreadTrims {
    count: u64,
    logged_at: Option<Instant>,
}

impl UnreadTrims {
    /// Returns the count to log now.
    fn handle(&mut self, trimmed: Trimmed, now: Instant) -> Option<u64> {
        self.count += trimmed.unread;
        let is_due = self.logged_at.is_none_or(|at| now >= at + TRIM_REPORT_INTERVAL);
        if self.count == 0 || !is_due {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_trims_are_reported_at_once_and_then_once_per_interval() {
        let (mut unread, now) = (UnreadTrims::default(), Instant::now());
        let trimmed = |unread| Trimmed { entries: 100, unread };
        assert_eq!(unread.handle(trimmed(0), now), None);
        assert_eq!(unread.handle(trimmed(5), now), Some(5));
        assert_eq!(unread.handle(trimmed(6), now), None);
        assert_eq!(unread.handle(trimmed(7), now + TRIM_REPORT_INTERVAL), Some(13));
        assert_eq!(unread.handle(trimmed(0), now + 2 * TRIM_REPORT_INTERVAL), None);
    }
}
