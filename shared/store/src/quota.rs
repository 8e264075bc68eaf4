//! Limits how often one client may cause a search of the copy, and write to the ledger.
//!
//! A search of the copy takes Redis seconds, and a batch of a hundred bytes can cause one. The ledger, which all
//! clients share, keeps a bounded number of lines. So each client has a quota of both, and one search at a time,
//! whose result is kept for its session.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use crate::limits::{LEDGER_LINES, SEARCHES, SEARCHES_AT_ONCE};
use spoke_protocol::{
    Allowance, ClientId, Epoch, Seq,
    sync::{CopyIndex, Deduplicated},
};

/// The quotas of all clients of a hub. Cheap to clone.
#[derive(Clone)]
pub struct ClientQuotas {
    quotas: Arc<Mutex<HashMap<ClientId, ClientQuota>>>,
    searches: Arc<Semaphore>,
}

/// The quota of one client. Cheap to clone.
#[derive(Clone)]
pub struct ClientQuota {
    /// The last search, boxed, since few clients need one. It is locked while the copy is searched.
    pub(super) found: Arc<AsyncMutex<Option<Box<SearchFound>>>>,
    /// None for a device, which has one client only.
    shared: Option<Arc<SharedQuota>>,
}

struct SharedQuota {
    searches: Mutex<Allowance>,
    lines: Mutex<Allowance>,
    at_once: Arc<Semaphore>,
}

/// The result of a search, and the request that it answers.
pub(super) struct SearchFound {
    /// The session, and the epoch of its batch.
    pub(super) searched_for: (Option<u64>, Epoch),
    /// The lowest seq that was searched for.
    pub(super) lowest: Seq,
    /// When the copy was searched.
    pub(super) at: Instant,
    /// The last entry of that epoch that was appended since.
    pub(super) reached: Seq,
    pub(super) index: CopyIndex,
}

impl SearchFound {
    /// Takes note that the batch up to `cursor` is in the copy.
    pub(super) fn handle_done(&mut self, epoch: Epoch, cursor: Seq, batch: Deduplicated) {
        if self.searched_for.1 == epoch {
            self.reached = self.reached.max(cursor);
            self.index.confirm(batch);
        }
    }

    /// Returns whether the result is valid for another session of the same epoch, whose cursor is in
    /// `cursor_epoch` and whose batch follows `after`, so that a link that breaks repeatedly does not cause a search in
    /// each session. It is not valid if the copy has gone back since, and may have other entries now.
    pub(super) fn answers(
        &self,
        (epoch, lowest): (Epoch, Seq),
        (cursor_epoch, after): (Epoch, Option<Seq>),
    ) -> bool {
        let is_at_its_place = after.is_some_and(|after| after >= self.reached);
        let is_of_this_epoch =
            self.searched_for.1 == epoch && cursor_epoch == epoch && is_at_its_place;
        let is_fresh = self.at.elapsed() < SEARCHES.interval;
        self.index.is_known_empty() && is_of_this_epoch && is_fresh && self.lowest <= lowest
    }
}

impl Default for ClientQuotas {
    fn default() -> Self {
        Self { quotas: Arc::default(), searches: Arc::new(Semaphore::new(SEARCHES_AT_ONCE)) }
    }
}

impl ClientQuotas {
    /// Returns the quota of this client.
    pub fn client(&self, client: &ClientId, now: Instant) -> ClientQuota {
        let mut quotas = lock(&self.quotas);
        if !quotas.contains_key(client) && quotas.len().is_multiple_of(1024) {
            quotas.retain(|_, quota| !quota.is_idle(now));
        }
        let allowance = || Mutex::new(Allowance::new(now));
        let shared = || {
            let at_once = self.searches.clone();
            Arc::new(SharedQuota { searches: allowance(), lines: allowance(), at_once })
        };
        let quota = || ClientQuota { found: Arc::default(), shared: Some(shared()) };
        quotas.entry(client.clone()).or_insert_with(quota).clone()
    }
}

impl ClientQuota {
    /// Creates the quota of a device.
    pub fn unlimited() -> Self {
        Self { found: Arc::default(), shared: None }
    }

    /// Takes one search, and waits for a permit.
    ///
    /// # Errors
    /// The time to wait, if the quota is used up.
    pub(super) async fn take_search(&self) -> Result<Option<impl Drop + use<>>, Duration> {
        let Some(shared) = &self.shared else { return Ok(None) };
        lock(&shared.searches).take(1, SEARCHES, Instant::now())?;
        let permit = shared.at_once.clone().acquire_owned().await;
        Ok(Some(permit.expect("it is never closed")))
    }

    /// Takes a number of ledger lines.
    ///
    /// # Errors
    /// The time to wait, if the quota is used up.
    pub(super) fn take_lines(&self, lines: usize) -> Result<(), Duration> {
        let Some(shared) = self.shared.as_ref().filter(|_| lines > 0) else { return Ok(()) };
        lock(&shared.lines).take(lines as u32, LEDGER_LINES, Instant::now())
    }

    /// Returns whether the quota is unused, so that it can be dropped.
    fn is_idle(&self, now: Instant) -> bool {
        let is_full = |shared: &Arc<SharedQuota>| {
            lock(&shared.searches).is_full(now) && lock(&shared.lines).is_full(now)
        };
        Arc::strong_count(&self.found) == 1 && self.shared.as_ref().is_none_or(is_full)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use spoke_protocol::sync::CopiedEntry;

    use super::*;

    fn client(name: &str) -> ClientId {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn searches_and_ledger_lines_are_limited_per_client() {
        let (quotas, now) = (ClientQuotas::default(), Instant::now());
        for _ in 0..SEARCHES.burst {
            // Each request of a client gets its quota from the registry.
            quotas.client(&client("dev1"), now).take_search().await.unwrap();
        }
        let wait = quotas.client(&client("dev1"), now).take_search().await.map(|_| ()).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= SEARCHES.interval, "{wait:?}");
        quotas.client(&client("dev2"), now).take_search().await.unwrap();

        quotas.client(&client("dev1"), now).take_lines(LEDGER_LINES.burst as usize).unwrap();
        assert!(quotas.client(&client("dev1"), now).take_lines(1).is_err());
        quotas.client(&client("dev1"), now).take_lines(0).unwrap();
        quotas.client(&client("dev2"), now).take_lines(1).unwrap();
        ClientQuota::unlimited().take_lines(1_000_000).unwrap();
    }

    #[test]
    fn an_unused_quota_is_dropped() {
        let (quotas, now) = (ClientQuotas::default(), Instant::now());
        let held = quotas.client(&client("dev1"), now);
        quotas.client(&client("dev2"), now);
        quotas.client(&client("dev3"), now).take_lines(5).unwrap();
        lock(&quotas.quotas).retain(|_, quota| !quota.is_idle(Instant::now()));
        let mut left: Vec<_> = lock(&quotas.quotas).keys().map(ToString::to_string).collect();
        left.sort();
        assert_eq!(left, ["dev1", "dev3"]);
        drop(held);
    }

    #[test]
    fn a_search_that_found_nothing_is_reused_only_in_the_same_epoch() {
        let (one, two) = (Epoch(1), Epoch(2));
        let seq = |ms| Seq::new(ms, 0);
        let found = |index| {
            let (searched_for, at) = ((Some(7), two), Instant::now());
            SearchFound { searched_for, lowest: seq(5), at, reached: Seq::ZERO, index }
        };
        let at = |epoch| (epoch, Some(seq(4)));
        let mut nothing_found = found(CopyIndex::new([], true));
        assert!(
            nothing_found.answers((two, seq(5)), at(two))
                && nothing_found.answers((two, seq(9)), at(two))
        );
        assert!(
            !nothing_found.answers((two, seq(4)), at(two)),
            "the search did not reach this far back"
        );
        assert!(
            !nothing_found.answers((two, seq(5)), at(one)),
            "the copy has no cursor in this epoch"
        );
        assert!(!nothing_found.answers((two, seq(5)), (two, None)), "its position is unknown");
        assert!(!nothing_found.answers((Epoch(3), seq(5)), at(Epoch(3))), "another epoch");
        assert!(
            !found(CopyIndex::new([], false)).answers((two, seq(5)), at(two)),
            "the search was incomplete"
        );
        let digest = spoke_protocol::Digest([0; 16]);
        let copied = CopiedEntry { epoch: one, seq: seq(6), digest };
        assert!(!found(CopyIndex::new([copied], true)).answers((two, seq(5)), at(two)));
        let batch = nothing_found.index.deduplicate(Vec::new());
        nothing_found.handle_done(two, seq(8), batch);
        assert!(
            !nothing_found.answers((two, seq(5)), at(two)),
            "a rewound copy may have other entries now"
        );
        assert!(nothing_found.answers((two, seq(9)), (two, Some(seq(8)))));
    }
}
