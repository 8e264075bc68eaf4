//! A device's own secret, and the bounded pool of threads that hashes it.
//!
//! bcrypt takes a core for a quarter of a second at its default cost, so it runs on blocking threads
//! of which there are only so many, with a line before them of which there is only so much. Who
//! finds the line full is told when to come back. Every answer that an outsider should not tell
//! apart from another costs one run: where there is nothing to compare with, a stand-in is compared.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use spoke_shared::{
    exposition::{Counter, HASH_SCALE, Histogram},
    limits::SECRET_BYTES,
    repeats::Repeated,
    store::session::digest,
};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tracing::warn;

/// A secret of a form that can be hashed: 24 to 72 bytes, none of them NUL.
#[derive(Clone, Debug)]
pub struct DeviceSecret(SecretString);

/// Why a text is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Too easily guessed, or longer than bcrypt reads.
    #[error("a secret has {} to {} bytes", SECRET_BYTES.0, SECRET_BYTES.1)]
    Length,
    /// bcrypt repeats its input with a NUL between, so secrets that hold one can be taken for others.
    #[error("a secret has no NUL byte")]
    Nul,
}

impl DeviceSecret {
    /// Checks what a device sent.
    ///
    /// # Errors
    /// `BadSecret` says what is wrong, never with what.
    pub fn new(text: SecretString) -> Result<Self, BadSecret> {
        let bytes = text.expose_secret().as_bytes();
        if !(SECRET_BYTES.0..=SECRET_BYTES.1).contains(&bytes.len()) {
            return Err(BadSecret::Length);
        }
        if bytes.contains(&0) {
            return Err(BadSecret::Nul);
        }
        Ok(Self(text))
    }

    /// Tells most other secrets from this one without a bcrypt run: 16 bits of its digest, of at least
    /// 192 that nobody can guess.
    pub fn tag(&self) -> String {
        let mut tag = digest(self.0.expose_secret());
        tag.truncate(4);
        tag
    }

    /// Whether both are the same, in a time that depends on their lengths only.
    pub fn is_same(&self, other: &Self) -> bool {
        let [one, other] = [self, other].map(|secret| secret.0.expose_secret().as_bytes());
        one.ct_eq(other).into()
    }

    /// What is hashed when nothing depends on it.
    fn stand_in() -> Self {
        Self("a stand-in, as long as most are!".into())
    }

    fn hash(&self, cost: u32) -> bcrypt::BcryptResult<String> {
        let text = self.0.expose_secret();
        if text.len() < SECRET_BYTES.1 {
            bcrypt::non_truncating_hash(text, cost)
        } else {
            // The non-truncating call wants a NUL behind the secret and so takes 71 bytes at most.
            // All 72 are read here, and a longer one never comes this far.
            bcrypt::hash(text, cost)
        }
    }

    fn is_behind(&self, hash: &str) -> bcrypt::BcryptResult<bool> {
        let text = self.0.expose_secret();
        if text.len() < SECRET_BYTES.1 {
            bcrypt::non_truncating_verify(text, hash)
        } else {
            bcrypt::verify(text, hash)
        }
    }
}

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
    line: Arc<Mutex<Line>>,
    figures: Arc<Figures>,
    odd_hashes: Arc<Repeated<()>>,
}

/// Who runs and who waits.
#[derive(Clone)]
struct Line {
    workers: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Threads, and places before them.
    size: (usize, usize),
}

/// How the pool does.
#[derive(Debug)]
pub struct Figures {
    /// From the place in the line to the answer.
    pub seconds: Histogram,
    /// Who found the line full.
    pub full: Counter,
}

impl Pool {
    /// A pool of `workers` threads with `queue` places before it. Hashes once, to have the stand-in
    /// and to know how long a run takes.
    ///
    /// # Errors
    /// When bcrypt refuses the cost.
    pub fn new(cost: u32, workers: usize, queue: usize) -> Result<Self, PoolError> {
        let begun = Instant::now();
        let stand_in = DeviceSecret::stand_in().hash(cost).map_err(PoolError::Bcrypt)?;
        let line = Arc::new(Mutex::new(Line::new(workers, queue)));
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

    /// So many threads and places from now on. Who is in the old line stays in it, so for as long as that
    /// takes there may be more runs at a time.
    pub fn resize(&self, workers: usize, queue: usize) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.size != (workers, queue) {
            *line = Line::new(workers, queue);
        }
    }

    /// The hash of a secret, to be stored.
    ///
    /// # Errors
    /// `PoolError::Full` at once when the line is full.
    pub async fn hash(&self, secret: DeviceSecret) -> Result<SecretString, PoolError> {
        let cost = self.cost;
        let hash = self.run(move || secret.hash(cost)).await?;
        hash.map(SecretString::from).map_err(PoolError::Bcrypt)
    }

    /// Whether this is the secret behind a stored hash. Without one, or with a secret that can be
    /// nobody's, the answer is no, after the same time.
    ///
    /// # Errors
    /// `PoolError::Full` at once when the line is full.
    pub async fn is_behind(
        &self,
        secret: Option<DeviceSecret>,
        hash: Option<SecretString>,
    ) -> Result<bool, PoolError> {
        let (stand_in, odd_hashes) = (Arc::clone(&self.stand_in), Arc::clone(&self.odd_hashes));
        self.run(move || {
            let (Some(secret), Some(hash)) = (secret, hash) else {
                return DeviceSecret::stand_in().is_behind(&stand_in).map(|_| false);
            };
            secret.is_behind(hash.expose_secret()).or_else(|error| {
                if odd_hashes.handle(()) {
                    warn!(%error, "a client's stored secret is no bcrypt hash");
                }
                secret.is_behind(&stand_in).map(|_| false)
            })
        })
        .await?
        .map_err(PoolError::Bcrypt)
    }

    /// Runs under way and waiting.
    pub fn in_hand(&self) -> usize {
        let line = self.line();
        line.room() - line.places.available_permits()
    }

    fn line(&self) -> Line {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there may be of them: threads, and those with the places in the line.
    pub fn room(&self) -> (usize, usize) {
        let line = self.line();
        (line.size.0, line.room())
    }

    /// Stored secrets that are none, for the log.
    pub fn odd_hashes(&self) -> &Repeated<()> {
        &self.odd_hashes
    }

    /// How it does.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (begun, line) = (Instant::now(), self.line());
        let Line { workers, places, .. } = line.clone();
        let place = places.try_acquire_owned().map_err(|_| {
            self.figures.full.add(1);
            PoolError::Full { retry_after: self.run_time * line.rounds() }
        })?;
        let worker = workers.acquire_owned().await.map_err(|_| PoolError::Stopped)?;
        // The permits go with the work: a caller who hangs up does not free a thread that still runs.
        let figures = Arc::clone(&self.figures);
        let work = tokio::task::spawn_blocking(move || {
            let _held = (place, worker);
            let done = work();
            figures.seconds.observe(begun.elapsed());
            done
        });
        work.await.map_err(|_| PoolError::Stopped)
    }
}

impl Line {
    fn new(workers: usize, queue: usize) -> Self {
        let places = Arc::new(Semaphore::new(workers + queue));
        Self { workers: Arc::new(Semaphore::new(workers)), places, size: (workers, queue) }
    }

    fn room(&self) -> usize {
        self.size.0 + self.size.1
    }

    /// How many runs one after the other it takes to work it off.
    fn rounds(&self) -> u32 {
        u32::try_from(self.room().div_ceil(self.size.0.max(1))).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: u32 = 4;

    fn secret(text: &str) -> DeviceSecret {
        DeviceSecret::new(text.into()).unwrap()
    }

    async fn until_in_hand(pool: &Pool, count: usize) {
        let reached = async {
            while pool.in_hand() < count {
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, reached).await.expect("the line fills up");
    }

    #[test]
    fn a_secret_has_24_to_72_bytes_and_no_nul() {
        for (bytes, is_good) in [(23, false), (24, true), (72, true), (73, false)] {
            let made = DeviceSecret::new("s".repeat(bytes).into());
            assert_eq!(made.is_ok(), is_good, "{bytes} bytes");
        }
        let with_nul = DeviceSecret::new(format!("{}\0{}", "a".repeat(20), "b".repeat(20)).into());
        assert_eq!(with_nul.unwrap_err(), BadSecret::Nul);
        // Bytes count, not characters.
        assert!(DeviceSecret::new("é".repeat(12).into()).is_ok());
        assert!(DeviceSecret::new("é".repeat(37).into()).is_err());
    }

    #[tokio::test]
    async fn a_secret_is_behind_its_own_hash_only_to_the_last_byte() {
        let pool = Pool::new(COST, 1, 1).unwrap();
        for bytes in [24, 71, 72] {
            let own = "s".repeat(bytes);
            let other = format!("{}t", &own[1..]);
            let hash = pool.hash(secret(&own)).await.unwrap();
            assert!(pool.is_behind(Some(secret(&own)), Some(hash.clone())).await.unwrap());
            assert!(!pool.is_behind(Some(secret(&other)), Some(hash)).await.unwrap(), "{bytes}");
        }
    }

    #[tokio::test]
    async fn nothing_is_behind_a_hash_that_is_not_there_or_no_hash() {
        let pool = Pool::new(COST, 1, 1).unwrap();
        let stand_in = DeviceSecret::stand_in();
        for hash in [None, Some("".into()), Some("plain text".into())] {
            assert!(!pool.is_behind(Some(stand_in.clone()), hash).await.unwrap());
        }
        let hash = pool.hash(stand_in).await.unwrap();
        assert!(!pool.is_behind(None, Some(hash)).await.unwrap());
    }

    #[tokio::test]
    async fn a_full_line_is_refused_at_once_and_free_again_when_worked_off() {
        let pool = Pool::new(COST, 1, 2).unwrap();
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || held.recv()).await }
        });
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                tokio::spawn({
                    let pool = pool.clone();
                    async move { pool.hash(DeviceSecret::stand_in()).await }
                })
            })
            .collect();
        until_in_hand(&pool, 3).await;

        let refused = pool.hash(DeviceSecret::stand_in()).await;
        assert!(matches!(refused, Err(PoolError::Full { .. })));

        let_go.send(()).unwrap();
        busy.await.unwrap().unwrap().unwrap();
        for one in waiting {
            one.await.unwrap().unwrap();
        }
        assert_eq!(pool.in_hand(), 0);
        pool.hash(DeviceSecret::stand_in()).await.unwrap();
        pool.resize(2, 0);
        assert_eq!((pool.line().room(), pool.line().rounds()), (2, 1));
        pool.hash(DeviceSecret::stand_in()).await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_who_hangs_up_while_waiting_frees_the_place() {
        let pool = Pool::new(COST, 1, 1).unwrap();
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || held.recv()).await }
        });
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.hash(DeviceSecret::stand_in()).await }
        });
        until_in_hand(&pool, 2).await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert_eq!(pool.in_hand(), 1);
        let_go.send(()).unwrap();
        busy.await.unwrap().unwrap().unwrap();
    }
}
