//! Thread pool for CPU-bound work that would block a thread serving sockets.
//!
//! Its size is half the number of cores: more threads would make the socket threads wait for a
//! core.

use std::{sync::LazyLock, thread::available_parallelism};

use tokio::{sync::Semaphore, task::JoinError};

static THREADS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Semaphore::new(cores.div_ceil(2))
});

/// Runs the closure on a blocking thread, in the order of the calls.
///
/// # Errors
/// [`JoinError`] if the closure panicked or the runtime shut down.
pub(crate) async fn run_on_cpu_pool<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let _permit = THREADS.acquire().await.ok();
    tokio::task::spawn_blocking(work).await
}
