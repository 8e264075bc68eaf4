//! What one client may make a copy do beside taking its entries: search, and write to the ledger.
//!
//! A search of the copy costs Redis seconds and is asked for with a field of a hundred-byte batch, and
//! the ledger that all clients share keeps a bounded number of lines. So each client has an allowance
//! of both, and one search at a time, whose result its session remembers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use crate::limits::{LEDGER_LINES, SEARCHES, SEARCHES_AT_ONCE};
use spoke_protocol::{
    client_id::ClientId,
    rate::Allowance,
    seq::{Epoch, Seq},
    sync::dedup::{CopyIndex, Deduplicated},
};

/// The guards of all clients of a hub. Cheap to clone.
#[derive(Clone)]
pub struct ClientQuotas {
    guards: Arc<Mutex<HashMap<ClientId, ClientQuota>>>,
    searches: Arc<Semaphore>,
}

/// That of one client. Cheap to clone.
#[derive(Clone)]
pub struct ClientQuota {
    /// Held while the copy is searched.
    pub(super) found: Arc<AsyncMutex<Option<SearchFound>>>,
    /// None where there is only one client.
    shared: Option<Arc<SharedQuota>>,
}

struct SharedQuota {
    searches: Mutex<Allowance>,
    lines: Mutex<Allowance>,
    at_once: Arc<Semaphore>,
}

/// What a search found, and for whom.
pub(super) struct SearchFound {
    /// The session that asked, and the epoch before which it looked.
    pub(super) of: (Option<u64>, Epoch),
    /// From which seq on it looked, and when.
    pub(super) lowest: Seq,
    pub(super) at: Instant,
    /// Up to where the copy took entries of that epoch since.
    pub(super) reached: Seq,
    pub(super) held: CopyIndex,
}

impl SearchFound {
    /// Entries up to `cursor` are in the copy.
    pub(super) fn handle_done(&mut self, epoch: Epoch, cursor: Seq, sifted: Deduplicated) {
        if self.of.1 == epoch {
            self.reached = self.reached.max(cursor);
            self.held.confirm(sifted);
        }
    }

    /// Whether it still tells all of what another session of the same epoch asks, whose cursor is of
    /// `cursor_epoch` and whose batch joins on after `after`: a link that breaks again and again does not
    /// make a search of each session. Not where the copy has gone back since: it may hold others now.
    pub(super) fn answers(
        &self,
        (epoch, lowest): (Epoch, Seq),
        (cursor_epoch, after): (Epoch, Option<Seq>),
    ) -> bool {
        let is_at_its_place = after.is_some_and(|after| after >= self.reached);
        let is_of_this_life = self.of.1 == epoch && cursor_epoch == epoch && is_at_its_place;
        let is_fresh = self.at.elapsed() < SEARCHES.interval;
        self.held.is_known_empty() && is_of_this_life && is_fresh && self.lowest <= lowest
    }
}

impl Default for ClientQuotas {
    fn default() -> Self {
        Self { guards: Arc::default(), searches: Arc::new(Semaphore::new(SEARCHES_AT_ONCE)) }
    }
}

impl ClientQuotas {
    /// The guard of this client.
    pub fn client(&self, client: &ClientId, now: Instant) -> ClientQuota {
        let mut guards = lock(&self.guards);
        if !guards.contains_key(client) && guards.len().is_multiple_of(1024) {
            guards.retain(|_, guard| !guard.is_idle(now));
        }
        let allowance = || Mutex::new(Allowance::new(now));
        let shared = || {
            let at_once = self.searches.clone();
            Arc::new(SharedQuota { searches: allowance(), lines: allowance(), at_once })
        };
        let guard = || ClientQuota { found: Arc::default(), shared: Some(shared()) };
        guards.entry(client.clone()).or_insert_with(guard).clone()
    }
}

impl ClientQuota {
    /// Of the one client that a device has.
    pub fn unlimited() -> Self {
        Self { found: Arc::default(), shared: None }
    }

    /// Takes one search, and waits for its turn.
    ///
    /// # Errors
    /// How long to stay away.
    pub(super) async fn take_search(&self) -> Result<Option<impl Drop + use<>>, Duration> {
        let Some(shared) = &self.shared else { return Ok(None) };
        lock(&shared.searches).take(1, SEARCHES, Instant::now())?;
        let turn = shared.at_once.clone().acquire_owned().await;
        Ok(Some(turn.expect("it is never closed")))
    }

    /// Takes so many lines of the ledger.
    ///
    /// # Errors
    /// How long to stay away.
    pub(super) fn take_lines(&self, lines: usize) -> Result<(), Duration> {
        let Some(shared) = self.shared.as_ref().filter(|_| lines > 0) else { return Ok(()) };
        lock(&shared.lines).take(lines as u32, LEDGER_LINES, Instant::now())
    }

    /// Whether nothing is lost by forgetting it.
    fn is_idle(&self, now: Instant) -> bool {
        let is_whole = |shared: &Arc<SharedQuota>| {
            lock(&shared.searches).is_full(now) && lock(&shared.lines).is_full(now)
        };
        Arc::strong_count(&self.found) == 1 && self.shared.as_ref().is_none_or(is_whole)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use spoke_protocol::sync::dedup::CopiedEntry;

    use super::*;

    fn client(name: &str) -> ClientId {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn a_client_has_its_own_searches_and_lines_and_another_has_others() {
        let (guards, now) = (ClientQuotas::default(), Instant::now());
        for _ in 0..SEARCHES.burst {
            // As each request of the client asks for it.
            guards.client(&client("dev1"), now).take_search().await.unwrap();
        }
        let wait = guards.client(&client("dev1"), now).take_search().await.map(|_| ()).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= SEARCHES.interval, "{wait:?}");
        guards.client(&client("dev2"), now).take_search().await.unwrap();

        guards.client(&client("dev1"), now).take_lines(LEDGER_LINES.burst as usize).unwrap();
        assert!(guards.client(&client("dev1"), now).take_lines(1).is_err());
        guards.client(&client("dev1"), now).take_lines(0).unwrap();
        guards.client(&client("dev2"), now).take_lines(1).unwrap();
        ClientQuota::unlimited().take_lines(1_000_000).unwrap();
    }

    #[test]
    fn whoever_has_taken_nothing_of_late_is_forgotten() {
        let (guards, now) = (ClientQuotas::default(), Instant::now());
        let held = guards.client(&client("dev1"), now);
        guards.client(&client("dev2"), now);
        guards.client(&client("dev3"), now).take_lines(5).unwrap();
        lock(&guards.guards).retain(|_, guard| !guard.is_idle(Instant::now()));
        let mut left: Vec<_> = lock(&guards.guards).keys().map(ToString::to_string).collect();
        left.sort();
        assert_eq!(left, ["dev1", "dev3"]);
        drop(held);
    }

    #[test]
    fn a_search_that_found_nothing_serves_later_sessions_of_the_same_life_and_no_other() {
        let (one, two) = (Epoch(1), Epoch(2));
        let seq = |ms| Seq::new(ms, 0);
        let found = |held| {
            let (of, at) = ((Some(7), two), Instant::now());
            SearchFound { of, lowest: seq(5), at, reached: Seq::ZERO, held }
        };
        let at = |epoch| (epoch, Some(seq(4)));
        let mut void = found(CopyIndex::new([], true));
        assert!(void.answers((two, seq(5)), at(two)) && void.answers((two, seq(9)), at(two)));
        assert!(!void.answers((two, seq(4)), at(two)), "it looked no further down");
        assert!(!void.answers((two, seq(5)), at(one)), "the copy has no cursor of this life");
        assert!(!void.answers((two, seq(5)), (two, None)), "nobody knows where it stands");
        assert!(!void.answers((Epoch(3), seq(5)), at(Epoch(3))), "another life");
        assert!(
            !found(CopyIndex::new([], false)).answers((two, seq(5)), at(two)),
            "not all was looked at"
        );
        let digest = spoke_protocol::entry::Digest([0; 16]);
        let copied = CopiedEntry { epoch: one, seq: seq(6), digest };
        assert!(!found(CopyIndex::new([copied], true)).answers((two, seq(5)), at(two)));
        let sifted = void.held.deduplicate(Vec::new());
        void.handle_done(two, seq(8), sifted);
        assert!(!void.answers((two, seq(5)), at(two)), "a copy that went back may hold others now");
        assert!(void.answers((two, seq(9)), (two, Some(seq(8)))));
    }
}
