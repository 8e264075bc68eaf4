//! The bounded pool of threads that hashes secrets.
//!
//! bcrypt takes a core for a quarter of a second at its default cost, so it runs on blocking threads
//! of which there are only so many, with a line before them of which there is only so much (`line`). A
//! request that finds no place is told when to come back. Every answer that an outsider should not tell
//! apart from another costs one run: where there is nothing to compare with, a stand-in is compared.

mod line;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use spoke_diagnostics::{
    error_chain::error_chain,
    log_limit::SharedLogLimiter,
    metrics::{Counter, HASH_SCALE, Histogram},
};
use tokio::sync::oneshot;
use tracing::warn;

pub use line::Party;

use crate::secret::DeviceSecret;
use line::Line;

/// Why the pool gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// As many are waiting as may wait.
    #[error("all hashing threads are busy and the waiting line is full")]
    Full {
        /// How long the line takes to be worked off.
        retry_after: Duration,
    },
    /// The service is going down.
    #[error("the hashing threads have stopped")]
    Stopped,
    /// bcrypt refused a cost or found no random bytes.
    #[error("failed to hash a secret")]
    Bcrypt(#[source] bcrypt::BcryptError),
}

/// The threads that hash, and the line before them. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    cost: u32,
    /// The hash that stands in for one that is not there.
    stand_in: Arc<str>,
    /// How long one run takes.
    run_time: Duration,
    line: SharedLine,
    figures: Arc<Figures>,
    odd_hashes: Arc<SharedLogLimiter<()>>,
}

/// How the pool does.
#[derive(Debug)]
pub struct Figures {
    /// From the place in the line to the answer.
    pub seconds: Histogram,
    /// Requests that found no place in the line, or lost it to another address or client.
    pub full: Counter,
}

#[derive(Clone)]
struct SharedLine(Arc<Mutex<Line<oneshot::Sender<Thread>>>>);

/// A thread that may be used; it is passed on when this is dropped.
struct Thread(SharedLine);

/// A place in the line; it is given up when this is dropped.
struct Place {
    line: SharedLine,
    party: Party,
    number: u64,
    granted: oneshot::Receiver<Thread>,
}

impl Pool {
    /// A pool of `workers` threads, with `queue` places before it for those who are likely to be let in
    /// and as many for strangers. Hashes once, to have the stand-in and to know how long a run takes.
    ///
    /// # Errors
    /// When bcrypt refuses the cost.
    pub fn new(cost: u32, workers: usize, queue: usize) -> Result<Self, PoolError> {
        let begun = Instant::now();
        let stand_in = DeviceSecret::stand_in().hash(cost).map_err(PoolError::Bcrypt)?;
        let line = SharedLine(Arc::new(Mutex::new(Line::new(workers, queue))));
        let (seconds, full) = (Histogram::new(HASH_SCALE), Counter::default());
        Ok(Self {
            cost,
            stand_in: stand_in.into(),
            run_time: begun.elapsed(),
            line,
            figures: Arc::new(Figures { seconds, full }),
            odd_hashes: Arc::default(),
        })
    }

    /// So many threads and places from now on. What runs and waits goes on.
    pub fn resize(&self, workers: usize, queue: usize) {
        self.line.lock().resize(workers, queue);
        self.line.hand_out();
    }

    /// The hash of a secret, to be stored.
    ///
    /// # Errors
    /// `PoolError::Full` when there is no place in the line.
    pub async fn hash(
        &self,
        party: &Party,
        secret: DeviceSecret,
    ) -> Result<SecretString, PoolError> {
        let cost = self.cost;
        let hash = self.run(party, move || secret.hash(cost)).await?;
        hash.map(SecretString::from).map_err(PoolError::Bcrypt)
    }

    /// Whether this is the secret behind a stored hash. Without one, or with a secret that can be
    /// nobody's, the answer is no, after the same time.
    ///
    /// # Errors
    /// `PoolError::Full` when there is no place in the line.
    pub async fn is_behind(
        &self,
        party: &Party,
        secret: Option<DeviceSecret>,
        hash: Option<SecretString>,
    ) -> Result<bool, PoolError> {
        let (stand_in, odd_hashes) = (Arc::clone(&self.stand_in), Arc::clone(&self.odd_hashes));
        self.run(party, move || {
            let (Some(secret), Some(hash)) = (secret, hash) else {
                return DeviceSecret::stand_in().is_behind(&stand_in).map(|_| false);
            };
            secret.is_behind(hash.expose_secret()).or_else(|error| {
                if odd_hashes.record(()) {
                    warn!(
                        error = error_chain(&error),
                        "a client's stored secret is not a bcrypt hash"
                    );
                }
                secret.is_behind(&stand_in).map(|_| false)
            })
        })
        .await?
        .map_err(PoolError::Bcrypt)
    }

    /// Runs under way and waiting.
    pub fn in_hand(&self) -> usize {
        self.line.lock().in_hand()
    }

    /// How many there may be of them: threads, and those with the places in the line.
    pub fn room(&self) -> (usize, usize) {
        let line = self.line.lock();
        (line.workers(), line.room())
    }

    /// Stored secrets that are none, for the log.
    pub fn odd_hashes(&self) -> &SharedLogLimiter<()> {
        &self.odd_hashes
    }

    /// How it does.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    async fn run<T: Send + 'static>(
        &self,
        party: &Party,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let begun = Instant::now();
        let thread = match self.line.enter(party) {
            Some(place) => place.granted().await,
            None => None,
        };
        let thread = thread.ok_or_else(|| self.full())?;
        // The thread goes with the work: a caller who hangs up does not free one that still runs.
        let figures = Arc::clone(&self.figures);
        let work = tokio::task::spawn_blocking(move || {
            let done = work();
            figures.seconds.observe(begun.elapsed());
            drop(thread);
            done
        });
        work.await.map_err(|_| PoolError::Stopped)
    }

    fn full(&self) -> PoolError {
        self.figures.full.add(1);
        PoolError::Full { retry_after: self.run_time * self.line.lock().rounds() }
    }
}

impl SharedLine {
    fn lock(&self) -> MutexGuard<'_, Line<oneshot::Sender<Thread>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, or none when there is none to be had.
    fn enter(&self, party: &Party) -> Option<Place> {
        let (grant, granted) = oneshot::channel();
        let (number, evicted) = self.lock().enter(party, grant).ok()?;
        // It is told by this, outside of the lock.
        drop(evicted);
        self.hand_out();
        Some(Place { line: self.clone(), party: party.clone(), number, granted })
    }

    /// Hands threads that are free to those whose turn it is.
    fn hand_out(&self) {
        loop {
            let Some(grant) = self.lock().next() else { return };
            // One that has hung up gives it back at once.
            let _ = grant.send(Thread(self.clone()));
        }
    }
}

impl Place {
    /// Resolves to a thread, or to none when the place was lost to another.
    async fn granted(mut self) -> Option<Thread> {
        (&mut self.granted).await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let given_up = self.line.lock().leave(&self.party, self.number);
        drop(given_up);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.lock().handle_done();
        self.0.hand_out();
    }
}

#[cfg(test)]
mod tests;
