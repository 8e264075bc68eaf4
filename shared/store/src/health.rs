//! Whether a Redis takes writes: readiness, metrics and the log go by this.
//!
//! Any command that fails because of Redis as a whole begins an outage. Only a probe ends it: a write that
//! changes nothing, and that Redis refuses whenever it refuses others. Rejected: to end it with any command
//! that succeeds, since reads go well on a replica or at `maxmemory`; and to write something, since a
//! device's disk wears out.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::StoreError;
use spoke_diagnostics::error_chain::error_chain;

/// One Redis's health, as its commands have found it.
pub struct Health {
    of: HealthSubject,
    outage: Mutex<Option<OngoingOutage>>,
    began: Notify,
    /// The connection that last took a probe.
    served: watch::Sender<u64>,
}

/// What is well or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthSubject {
    /// A Redis takes writes.
    Writes,
    /// Writes reach the acknowledgement level.
    Level,
}

#[derive(Debug)]
struct OngoingOutage {
    since: Instant,
    failed: u64,
    /// The latest error with its causes.
    problem: String,
    /// It began with a Redis that has no memory left.
    is_full: bool,
}

/// An outage that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EndedOutage {
    down_for: Duration,
    failed: u64,
    was_full: bool,
}

impl Health {
    /// Well, as long as nothing fails.
    pub(super) fn new(of: HealthSubject) -> Self {
        let served = watch::Sender::new(0);
        Self { of, outage: Mutex::default(), began: Notify::new(), served }
    }

    /// Counts a failed command; one that says nothing of Redis as a whole is passed over.
    pub(super) fn handle_error(&self, error: &StoreError) {
        if !error.is_outage() {
            return;
        }
        let problem = error_chain(error);
        let is_full = error.is_full();
        let is_first = begin(&mut self.lock(), (problem.clone(), is_full), Instant::now());
        if is_first {
            let help = error.mend();
            match (self.of, is_full) {
                (HealthSubject::Writes, true) => {
                    warn!(error = problem, help, "redis is full and refuses writes");
                }
                (HealthSubject::Writes, false) => {
                    warn!(error = problem, help, "redis request failed")
                }
                (HealthSubject::Level, _) => {
                    warn!(error = problem, help, "acknowledgement level not reached");
                }
            }
            self.began.notify_one();
        }
    }

    /// A probe was taken on the connection of this generation.
    pub(super) fn handle_success(&self, generation: u64) {
        if let Some(over) = end(&mut self.lock(), Instant::now()) {
            let EndedOutage { down_for, failed, was_full } = over;
            let down_for_seconds = down_for.as_secs_f64();
            match (self.of, was_full) {
                (HealthSubject::Writes, true) => {
                    info!(down_for_seconds, failed, "redis has room again and accepts writes");
                }
                (HealthSubject::Writes, false) => {
                    info!(down_for_seconds, failed, "redis recovered")
                }
                (HealthSubject::Level, _) => {
                    info!(down_for_seconds, failed, "acknowledgement level reached again");
                }
            }
        }
        self.served.send_if_modified(|served| std::mem::replace(served, generation) != generation);
    }

    /// Why it cannot be used now; none where it can.
    pub fn problem(&self) -> Option<String> {
        self.lock().as_ref().map(|outage| outage.problem.clone())
    }

    /// Resolves when an outage begins. For one task.
    pub(super) async fn began(&self) {
        self.began.notified().await;
    }

    /// Changes when probes are taken on a new connection: all other connections are to follow it.
    pub(super) fn served(&self) -> watch::Receiver<u64> {
        self.served.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Option<OngoingOutage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is the first failure of this outage.
fn begin(
    outage: &mut Option<OngoingOutage>,
    (problem, is_full): (String, bool),
    now: Instant,
) -> bool {
    let is_first = outage.is_none();
    let known = outage.as_ref().map(|outage| (outage.since, outage.failed, outage.is_full));
    let (since, failed, is_full) = known.unwrap_or((now, 0, is_full));
    *outage = Some(OngoingOutage { since, failed: failed + 1, problem, is_full });
    is_first
}

fn end(outage: &mut Option<OngoingOutage>, now: Instant) -> Option<EndedOutage> {
    let OngoingOutage { since, failed, is_full, .. } = outage.take()?;
    Some(EndedOutage { down_for: now.duration_since(since), failed, was_full: is_full })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_once_and_its_end_has_its_length_and_its_failures() {
        let begun = Instant::now();
        let mut outage = None;
        assert_eq!(end(&mut outage, begun), None);
        let words = ["OOM", "LOADING", "OOM"];
        let firsts = words.map(|word| begin(&mut outage, (word.to_owned(), word == "OOM"), begun));
        assert_eq!(firsts, [true, false, false]);
        assert_eq!(outage.as_ref().unwrap().problem, "OOM", "the latest is told");
        let down_for = Duration::from_secs(9);
        let over = EndedOutage { down_for, failed: 3, was_full: true };
        assert_eq!(
            end(&mut outage, begun + down_for),
            Some(over),
            "its end goes with its beginning"
        );
        assert!(begin(&mut outage, ("LOADING".to_owned(), false), begun), "it is another one");
    }
}
