//! The bounded pool of threads that run bcrypt.
//!
//! bcrypt takes a core for a quarter of a second at its default cost, so it runs on a bounded number of blocking
//! threads behind a bounded queue ([`queue`]). A request that finds the queue full gets the time to wait. Responses
//! that a peer must not tell apart cost one run each: where there is no hash, a stand-in is compared.

mod queue;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use spoke_diagnostics::{
    SharedLogLimiter, error_chain,
    metrics::{Counter, HASH_SCALE, Histogram},
};
use tokio::sync::oneshot;
use tracing::warn;

pub(crate) use queue::HashCaller;

use crate::device_secret::DeviceSecret;
use queue::FairQueue;

/// The pool could not run bcrypt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HashPoolError {
    /// The queue is full.
    #[error("all hashing threads are busy and the queue is full")]
    Full {
        /// The time that a full queue takes.
        retry_after: Duration,
    },
    /// The service is shutting down.
    #[error("the hashing threads have stopped")]
    Stopped,
    /// bcrypt rejected the cost, or found no random bytes.
    #[error("failed to hash a secret")]
    Bcrypt(#[source] bcrypt::BcryptError),
}

/// The threads that run bcrypt, and their queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HashPool {
    cost: u32,
    /// The hash that is compared where there is none.
    stand_in: Arc<str>,
    /// The time of one run.
    run_time: Duration,
    queue: SharedQueue,
    stats: Arc<HashPoolStats>,
    invalid_hashes: Arc<SharedLogLimiter<()>>,
}

/// The maximums of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HashPoolSize {
    /// Runs in progress.
    pub(crate) workers: usize,
    /// Runs in progress and queued.
    pub(crate) runs: usize,
}

/// Statistics of the pool.
#[derive(Debug)]
pub(crate) struct HashPoolStats {
    /// From entering the queue to the end of the run.
    pub(crate) seconds: Histogram,
    /// Requests that found the queue full, or were evicted from it.
    pub(crate) full: Counter,
}

#[derive(Clone)]
struct SharedQueue(Arc<Mutex<FairQueue<oneshot::Sender<ThreadPermit>>>>);

/// Allows one run; passed on to the next caller when dropped.
struct ThreadPermit(SharedQueue);

/// A place in the queue; given up when dropped.
struct QueueTicket {
    queue: SharedQueue,
    caller: HashCaller,
    number: u64,
    granted: oneshot::Receiver<ThreadPermit>,
}

impl HashPool {
    /// Returns a pool of `workers` threads with a queue of `queue` places for prechecked callers, and as many for
    /// others. Hashes once, for the stand-in and to measure a run.
    ///
    /// # Errors
    /// [`HashPoolError::Bcrypt`] if bcrypt rejects the cost.
    pub(crate) fn new(cost: u32, workers: usize, queue: usize) -> Result<Self, HashPoolError> {
        let begun = Instant::now();
        let stand_in = DeviceSecret::stand_in().hash(cost).map_err(HashPoolError::Bcrypt)?;
        let queue = SharedQueue(Arc::new(Mutex::new(FairQueue::new(workers, queue))));
        let (seconds, full) = (Histogram::new(HASH_SCALE), Counter::default());
        Ok(Self {
            cost,
            stand_in: stand_in.into(),
            run_time: begun.elapsed(),
            queue,
            stats: Arc::new(HashPoolStats { seconds, full }),
            invalid_hashes: Arc::default(),
        })
    }

    /// Changes the maximums. Runs in progress and queued ones go on.
    pub(crate) fn resize(&self, workers: usize, queue: usize) {
        self.queue.lock().resize(workers, queue);
        self.queue.grant();
    }

    /// Returns the hash of a secret.
    ///
    /// # Errors
    /// [`HashPoolError::Full`] if the queue is full.
    pub(crate) async fn hash(
        &self,
        caller: &HashCaller,
        secret: DeviceSecret,
    ) -> Result<SecretString, HashPoolError> {
        let cost = self.cost;
        let hash = self.run(caller, move || secret.hash(cost)).await?;
        hash.map(SecretString::from).map_err(HashPoolError::Bcrypt)
    }

    /// Returns whether the secret matches the hash. `false`, after the same time, where either is `None`.
    ///
    /// # Errors
    /// [`HashPoolError::Full`] if the queue is full.
    pub(crate) async fn verify(
        &self,
        caller: &HashCaller,
        secret: Option<DeviceSecret>,
        hash: Option<SecretString>,
    ) -> Result<bool, HashPoolError> {
        let (stand_in, invalid) = (Arc::clone(&self.stand_in), Arc::clone(&self.invalid_hashes));
        self.run(caller, move || {
            let (Some(secret), Some(hash)) = (secret, hash) else {
                return DeviceSecret::stand_in().verify(&stand_in).map(|_| false);
            };
            secret.verify(hash.expose_secret()).or_else(|error| {
                if invalid.record(()) {
                    let error = error_chain(&error);
                    warn!(error, "stored secret is not a valid bcrypt hash");
                }
                secret.verify(&stand_in).map(|_| false)
            })
        })
        .await?
        .map_err(HashPoolError::Bcrypt)
    }

    /// Returns the number of runs in progress and queued.
    pub(crate) fn in_progress(&self) -> usize {
        self.queue.lock().in_progress()
    }

    /// Returns the maximums.
    pub(crate) fn size(&self) -> HashPoolSize {
        let queue = self.queue.lock();
        HashPoolSize { workers: queue.workers(), runs: queue.runs_max() }
    }

    /// Counts stored secrets that are not bcrypt hashes, for the log.
    pub(crate) fn invalid_hashes(&self) -> &SharedLogLimiter<()> {
        &self.invalid_hashes
    }

    /// Returns the statistics.
    pub(crate) fn stats(&self) -> &HashPoolStats {
        &self.stats
    }

    async fn run<T: Send + 'static>(
        &self,
        caller: &HashCaller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HashPoolError> {
        let begun = Instant::now();
        let permit = match self.queue.enter(caller) {
            Some(ticket) => ticket.granted().await,
            None => None,
        };
        let permit = permit.ok_or_else(|| self.full())?;
        // The permit moves into the thread: a caller that hangs up does not free a thread that still runs.
        let stats = Arc::clone(&self.stats);
        let work = tokio::task::spawn_blocking(move || {
            let result = work();
            stats.seconds.observe(begun.elapsed());
            drop(permit);
            result
        });
        work.await.map_err(|_| HashPoolError::Stopped)
    }

    fn full(&self) -> HashPoolError {
        self.stats.full.add(1);
        HashPoolError::Full { retry_after: self.run_time * self.queue.lock().rounds() }
    }
}

impl SharedQueue {
    fn lock(&self) -> MutexGuard<'_, FairQueue<oneshot::Sender<ThreadPermit>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a place; `None` if the queue is full.
    fn enter(&self, caller: &HashCaller) -> Option<QueueTicket> {
        let (grant, granted) = oneshot::channel();
        let (number, evicted) = self.lock().enter(caller, grant).ok()?;
        // Dropping its sender tells the evicted caller, outside of the lock.
        drop(evicted);
        self.grant();
        Some(QueueTicket { queue: self.clone(), caller: caller.clone(), number, granted })
    }

    /// Grants free threads to the callers whose turn it is.
    fn grant(&self) {
        loop {
            let Some(grant) = self.lock().next() else { return };
            // A caller that has hung up drops the permit at once.
            let _ = grant.send(ThreadPermit(self.clone()));
        }
    }
}

impl QueueTicket {
    /// Resolves to a permit; to `None` if the ticket was evicted.
    async fn granted(mut self) -> Option<ThreadPermit> {
        (&mut self.granted).await.ok()
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        let left = self.queue.lock().leave(&self.caller, self.number);
        drop(left);
    }
}

impl Drop for ThreadPermit {
    fn drop(&mut self) {
        self.0.lock().handle_done();
        self.0.grant();
    }
}

#[cfg(test)]
mod tests;
