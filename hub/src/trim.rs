//! Keeps the in stream at about `in_max_len` entries.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use spoke_store::{
    limits::TRIM_REPORT_INTERVAL,
    trim::{Trimmed, TrimmedRead, trim, trim_read},
};
use tracing::{info, warn};

use crate::{
    config::InTrim,
    limits::{TRIM_INTERVAL, TRIM_INTERVAL_IDLE},
    partitions::HubPartition,
    state::HubState,
};

/// Trims the in stream of one partition until shutdown. Several hubs may do so concurrently.
pub(crate) async fn run(hub: Arc<HubState>, at: usize) {
    let partition = &hub.partitions.all()[at];
    let mut unread = UnreadTrims::default();
    let mut is_held = false;
    let mut due = TrimDue::new(min_age(&hub));
    loop {
        let received = hub.metrics.traffic.received.entries.get();
        if due.poll(received, Instant::now()) || is_held {
            let has_more = match hub.config.in_trim {
                InTrim::Read => trim_what_is_read(&hub, partition, &mut is_held).await,
                InTrim::All => trim_all(&hub, partition, &mut unread).await,
            };
            if has_more {
                continue;
            }
        }
        tokio::select! {
            () = hub.shutdown.begun() => return,
            () = tokio::time::sleep(TRIM_INTERVAL) => {}
        }
    }
}

/// When to look at the stream: while entries arrive here and until the last of them may be trimmed, and
/// seldom otherwise, for what others have added.
struct TrimDue {
    min_age: Duration,
    received: u64,
    received_at: Option<Instant>,
    polled_at: Option<Instant>,
}

impl TrimDue {
    fn new(min_age: Duration) -> Self {
        Self { min_age, received: 0, received_at: None, polled_at: None }
    }

    fn poll(&mut self, received: u64, now: Instant) -> bool {
        if received != self.received {
            (self.received, self.received_at) = (received, Some(now));
        }
        let within = |at: Option<Instant>, time| at.is_some_and(|at| now < at + time);
        let is_due = within(self.received_at, self.min_age + 2 * TRIM_INTERVAL)
            || !within(self.polled_at, TRIM_INTERVAL_IDLE);
        if is_due {
            self.polled_at = Some(now);
        }
        is_due
    }
}

/// Returns whether there may be more to trim.
async fn trim_what_is_read(hub: &HubState, partition: &HubPartition, is_held: &mut bool) -> bool {
    let max_len = max_len(hub);
    let trimmed = trim_read(partition.redis(), partition.keys(), max_len, min_age(hub)).await;
    let Ok(trimmed) = hub.store_result(trimmed) else { return false };
    let has_more = trimmed.has_more();
    let is_long = !has_more && is_too_long(&trimmed, max_len);
    let TrimmedRead { left, slowest_group, .. } = trimmed;
    let stream = partition.keys().inbound();
    if is_long && !*is_held {
        let group = slowest_group.unwrap_or_else(|| "none".to_owned());
        let help = "read the stream with consumer groups and XACK, delete unused groups (XGROUP \
                    DESTROY), or set in_trim = \"all\"";
        warn!(%group, stream, length = left, max_len, help, "in stream exceeds in_max_len: unread entries are kept");
    } else if *is_held && !is_long && !has_more {
        info!(
            stream,
            length = left,
            max_len,
            "unread entries no longer prevent trimming of the in stream"
        );
    }
    *is_held = is_long || (*is_held && has_more);
    has_more
}

/// Twice the length: readers that are a little behind are no reason to warn.
fn is_too_long(trimmed: &TrimmedRead, max_len: u64) -> bool {
    trimmed.is_held && trimmed.left > max_len.saturating_mul(2)
}

async fn trim_all(hub: &HubState, partition: &HubPartition, unread: &mut UnreadTrims) -> bool {
    let max_len = max_len(hub);
    let trimmed = trim(partition.redis(), partition.keys(), max_len, min_age(hub)).await;
    let trimmed = hub.store_result(trimmed).unwrap_or_default();
    hub.metrics.trimmed_unread.add(trimmed.unread);
    if let Some(count) = unread.handle(trimmed, Instant::now()) {
        let stream = partition.keys().inbound();
        let help = "raise in_max_len or in_min_age_seconds, check the group's consumers, or set \
                    in_trim = \"read\"";
        warn!(stream, count, max_len, help, "unread entries trimmed from the in stream");
    }
    trimmed.has_more()
}

/// Returns the part of one partition.
fn max_len(hub: &HubState) -> u64 {
    hub.config.in_max_len.div_ceil(u64::from(hub.config.partitions))
}

fn min_age(hub: &HubState) -> Duration {
    Duration::from_secs(hub.config.in_min_age_seconds)
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
    fn an_idle_hub_looks_at_the_stream_seldom() {
        let (mut due, start) = (TrimDue::new(Duration::from_secs(60)), Instant::now());
        let mut looks = |received, seconds: std::ops::Range<u64>| {
            seconds.filter(|n| due.poll(received, start + Duration::from_secs(*n))).count()
        };
        assert_eq!(looks(0, 0..60), 2, "nothing has arrived");
        assert_eq!(looks(5, 60..121), 61, "entries have arrived and become old enough");
        assert_eq!(looks(5, 122..182), 2, "nothing has arrived since");
        assert_eq!(looks(6, 182..183), 1);
    }

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
