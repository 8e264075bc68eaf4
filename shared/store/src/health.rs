//! The health of a Redis: whether it accepts writes. Readiness, metrics and the log use it.
//!
//! Any command that fails because of Redis as a whole begins an outage. Only a probe ends it: a write that changes
//! nothing, and that Redis rejects whenever it rejects others. Rejected: ending it with any successful command, since
//! reads succeed on a replica and at `maxmemory`; and writing something, which wears out a device's disk.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::StoreError;
use spoke_diagnostics::error_chain;

/// The health of a Redis, as its commands have found it.
pub struct Health {
    subject: HealthSubject,
    outage: Mutex<Option<OngoingOutage>>,
    began: Notify,
    /// The generation of the connection on which a probe last succeeded.
    probed: watch::Sender<u64>,
}

/// Tells when the connection for commands was replaced by another one that works.
pub(super) struct ReplacementWatch {
    probed: watch::Receiver<u64>,
    current: u64,
}

/// The subject of a [`Health`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthSubject {
    /// Whether a Redis accepts writes.
    Writes,
    /// Whether the part of a cluster that has one slot accepts writes. All parts are logged together.
    Partition,
    /// Whether writes reach the acknowledgement level.
    Level,
}

#[derive(Debug)]
struct OngoingOutage {
    since: Instant,
    count: u64,
    /// The latest error with its causes.
    problem: String,
    /// Whether it began with a full memory.
    is_full: bool,
}

/// An outage that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EndedOutage {
    down_for: Duration,
    count: u64,
    was_full: bool,
}

impl Health {
    /// Creates a health without an outage.
    pub(super) fn new(subject: HealthSubject) -> Self {
        let probed = watch::Sender::new(0);
        Self { subject, outage: Mutex::default(), began: Notify::new(), probed }
    }

    /// Counts a failed command, unless the error says nothing about Redis as a whole.
    pub(super) fn handle_error(&self, error: &StoreError) {
        if !error.is_outage() {
            return;
        }
        let problem = error_chain(error);
        let is_full = error.is_full();
        let is_first = begin(&mut self.lock(), (problem.clone(), is_full), Instant::now());
        if is_first {
            let help = error.help();
            match (self.subject, is_full) {
                (HealthSubject::Writes, true) => {
                    warn!(error = problem, help, "redis is full and refuses writes");
                }
                (HealthSubject::Writes, false) => {
                    warn!(error = problem, help, "redis request failed")
                }
                (HealthSubject::Partition, _) => {}
                (HealthSubject::Level, _) => {
                    warn!(error = problem, help, "acknowledgement level not reached");
                }
            }
            self.began.notify_one();
        }
    }

    /// Takes a successful probe on the connection of this generation.
    pub(super) fn handle_success(&self, generation: u64) {
        if let Some(ended) = end(&mut self.lock(), Instant::now()) {
            let EndedOutage { down_for, count, was_full } = ended;
            let down_for_seconds = down_for.as_secs_f64();
            match (self.subject, was_full) {
                (HealthSubject::Writes, true) => {
                    info!(down_for_seconds, count, "redis accepts writes again");
                }
                (HealthSubject::Writes, false) => {
                    info!(down_for_seconds, count, "redis recovered")
                }
                (HealthSubject::Partition, _) => {}
                (HealthSubject::Level, _) => {
                    info!(down_for_seconds, count, "acknowledgement level reached again");
                }
            }
        }
        self.probed.send_if_modified(|probed| std::mem::replace(probed, generation) != generation);
    }

    /// Returns the problem of the current outage; none if it is healthy.
    pub fn problem(&self) -> Option<String> {
        self.lock().as_ref().map(|outage| outage.problem.clone())
    }

    /// Resolves when an outage begins, for one task.
    pub(super) async fn began(&self) {
        self.began.notified().await;
    }

    /// Returns the generation of the connection on which probes succeed. When it changes, all other connections have to
    /// reconnect.
    pub(super) fn probed(&self) -> watch::Receiver<u64> {
        self.probed.subscribe()
    }

    /// Watches from now on whether probes succeed on another connection: another server may have taken over.
    pub(super) fn watch_replacement(&self) -> ReplacementWatch {
        let mut probed = self.probed();
        let current = *probed.borrow_and_update();
        ReplacementWatch { probed, current }
    }

    fn lock(&self) -> MutexGuard<'_, Option<OngoingOutage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplacementWatch {
    /// Takes note that a connection is made from now on: an earlier replacement does not count.
    pub(super) fn handle_connecting(&mut self) {
        self.current = *self.probed.borrow_and_update();
    }

    /// Resolves when the connection has to be made again. Cancel safe.
    pub(super) async fn replaced(&mut self) {
        // The first probe sets the generation.
        while self.probed.changed().await.is_ok() {
            if std::mem::replace(&mut self.current, *self.probed.borrow_and_update()) != 0 {
                return;
            }
        }
    }
}

/// Counts a failure. Returns whether it is the first of this outage.
fn begin(
    outage: &mut Option<OngoingOutage>,
    (problem, is_full): (String, bool),
    now: Instant,
) -> bool {
    let is_first = outage.is_none();
    let known = outage.as_ref().map(|outage| (outage.since, outage.count, outage.is_full));
    let (since, count, is_full) = known.unwrap_or((now, 0, is_full));
    *outage = Some(OngoingOutage { since, count: count + 1, problem, is_full });
    is_first
}

fn end(outage: &mut Option<OngoingOutage>, now: Instant) -> Option<EndedOutage> {
    let OngoingOutage { since, count, is_full, .. } = outage.take()?;
    Some(EndedOutage { down_for: now.duration_since(since), count, was_full: is_full })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_once_and_its_end_has_the_duration_and_failure_count() {
        let begun = Instant::now();
        let mut outage = None;
        assert_eq!(end(&mut outage, begun), None);
        let problems = ["OOM", "LOADING", "OOM"];
        let firsts = problems
            .map(|problem| begin(&mut outage, (problem.to_owned(), problem == "OOM"), begun));
        assert_eq!(firsts, [true, false, false]);
        assert_eq!(outage.as_ref().unwrap().problem, "OOM", "the latest problem is reported");
        let down_for = Duration::from_secs(9);
        let ended = EndedOutage { down_for, count: 3, was_full: true };
        assert_eq!(
            end(&mut outage, begun + down_for),
            Some(ended),
            "the end belongs to the outage that began"
        );
        assert!(begin(&mut outage, ("LOADING".to_owned(), false), begun), "this is another outage");
    }
}
