//! Batch size that the link to each device can carry, kept across sessions.
//!
//! A client is listed only while its link carries less than usual, or while it is unknown whether
//! the last batch arrived. Each hub measures this itself: it takes a few sessions, and the link
//! changes when a device moves. After a restart the hub measures again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::limits::PATHS_MAX;
use spoke_diagnostics::SharedLogLimiter;
use spoke_protocol::{
    ClientId, Epoch, Seq,
    sync::{LinkPath, SessionEnding, SessionSummary, StuckEntry},
};
use spoke_service::{Shutdown, sum_up};
use tracing::{field, info, warn};

/// Link state of all clients.
#[derive(Debug, Default)]
pub(crate) struct LinkPaths {
    weak: Mutex<HashMap<ClientId, RecentLink>>,
    /// Logged at most once a minute per client: an entry can seem stuck as often as the client
    /// asks.
    stuck: SharedLogLimiter<ClientId>,
    unstuck: SharedLogLimiter<ClientId>,
}

#[derive(Debug)]
struct RecentLink {
    path: LinkPath,
    used_at: Instant,
}

/// Number of clients with a weak link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct WeakLinkCounts {
    /// Clients that get smaller batches.
    pub limited: usize,
    /// Clients whose link fails with a single entry.
    pub stuck: usize,
}

impl LinkPaths {
    /// Returns the link state of a client whose session or request starts at this position.
    pub(crate) fn begin(&self, client: &ClientId, at: (Epoch, Seq), now: Instant) -> LinkPath {
        self.change(client, now, |path| {
            path.handle_start(at);
        })
    }

    /// Handles an acknowledgement up to this seq.
    pub(crate) fn handle_acked(&self, client: &ClientId, acked: Seq, now: Instant) {
        self.change(client, now, |path| path.handle_acked(acked));
    }

    /// Handles the end of a session, or an answer whose arrival is unknown.
    pub(crate) fn end(
        &self,
        client: &ClientId,
        trip: &SessionSummary,
        parting: SessionEnding,
        now: Instant,
    ) {
        self.change(client, now, |path| path.handle_end(trip, parting));
    }

    /// Returns the number of weak links.
    pub(crate) fn weak(&self) -> WeakLinkCounts {
        let paths = self.lock();
        let count =
            |is: fn(&LinkPath) -> bool| paths.values().filter(|kept| is(&kept.path)).count();
        WeakLinkCounts {
            limited: count(|path| path.limit().is_some()),
            stuck: count(|path| path.stuck().is_some()),
        }
    }

    fn change(
        &self,
        client: &ClientId,
        now: Instant,
        change: impl FnOnce(&mut LinkPath),
    ) -> LinkPath {
        let mut paths = self.lock();
        let mut path = paths.get(client).map(|kept| kept.path).unwrap_or_default();
        let before = path.stuck();
        change(&mut path);
        if path.is_default() {
            paths.remove(client);
        } else {
            make_room(&mut paths, client);
            paths.insert(client.clone(), RecentLink { path, used_at: now });
        }
        drop(paths);
        self.log_change(client, before, path.stuck());
        path
    }

    /// Logs the counts of repeated events once a minute, until shutdown.
    pub(crate) async fn log_repeats(&self, shutdown: &Shutdown) {
        let log_stuck = |client: Option<&ClientId>, count| {
            let client = client.map(field::display);
            warn!(client, count, "more entries do not get through their links");
        };
        let log_unstuck = |client: Option<&ClientId>, count| {
            let client = client.map(field::display);
            info!(client, count, "more links carry their entries again");
        };
        tokio::join!(
            sum_up(&self.stuck, shutdown, log_stuck),
            sum_up(&self.unstuck, shutdown, log_unstuck),
        );
    }

    fn log_change(&self, client: &ClientId, before: Option<StuckEntry>, after: Option<StuckEntry>) {
        match (before, after) {
            (None, Some(StuckEntry { seq, bytes, sessions })) => {
                if self.stuck.record(client.clone()) {
                    warn!(%client, %seq, bytes, sessions, "entry does not get through the link");
                }
            }
            (Some(StuckEntry { seq, .. }), None) => {
                if self.unstuck.record(client.clone()) {
                    info!(%client, %seq, "entries get through the link again");
                }
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClientId, RecentLink>> {
        self.weak.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evicts the least recently used client.
fn make_room(paths: &mut HashMap<ClientId, RecentLink>, client: &ClientId) {
    if paths.len() < PATHS_MAX || paths.contains_key(client) {
        return;
    }
    let oldest = paths.iter().min_by_key(|(_, kept)| kept.used_at);
    if let Some(oldest) = oldest.map(|(client, _)| client.clone()) {
        paths.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use spoke_protocol::sync::{PathLimit, UnackedAtEnd};

    use super::*;

    fn broken_session(acked: u64) -> SessionSummary {
        let (first, through) = (Seq::new(acked + 1, 0), Seq::new(acked + 8, 0));
        let unacked = Some(UnackedAtEnd { first, through, entries: 8, bytes: 8000 });
        let begun = (Epoch::FIRST, Seq::new(acked, 0));
        SessionSummary { start: begun, acked: begun.1, limit: None, unacked }
    }

    #[test]
    fn only_clients_with_a_weak_path_are_remembered() {
        let (paths, now) = (LinkPaths::default(), Instant::now());
        let client: ClientId = "dev1".parse().unwrap();
        let at = |acked| (Epoch::FIRST, Seq::new(acked, 0));
        assert!(paths.begin(&client, at(0), now).is_default());
        paths.end(&client, &broken_session(0), SessionEnding::Broken, now);
        assert_eq!(paths.weak(), WeakLinkCounts::default(), "the entries may have arrived");
        assert!(paths.begin(&client, at(8), now).is_default());
        assert!(paths.lock().is_empty());
        paths.end(&client, &broken_session(8), SessionEnding::Broken, now);
        let limit = Some(PathLimit { entries: 2, bytes: 2000 });
        assert_eq!(paths.begin(&client, at(8), now).limit(), limit);
        assert_eq!(paths.weak(), WeakLinkCounts { limited: 1, stuck: 0 });
    }

    #[test]
    fn over_the_limit_the_client_that_was_away_longest_is_forgotten() {
        let (paths, begin) = (LinkPaths::default(), Instant::now());
        let client = |n: usize| format!("dev{n}").parse::<ClientId>().unwrap();
        for n in 0..=PATHS_MAX {
            let now = begin + Duration::from_secs(n as u64);
            paths.end(&client(n), &broken_session(0), SessionEnding::Broken, now);
        }
        let paths = paths.lock();
        assert_eq!(paths.len(), PATHS_MAX);
        assert!(!paths.contains_key(&client(0)) && paths.contains_key(&client(1)));
    }
}
