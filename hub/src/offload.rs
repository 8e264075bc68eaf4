//! Work that is too long for a thread that serves sockets.
//!
//! It runs on threads of its own, half as many as there are cores: with more of them the threads that
//! serve sockets would have to wait for a core.

use std::{sync::LazyLock, thread::available_parallelism};

use tokio::{sync::Semaphore, task::JoinError};

static THREADS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, usize::from);
    Semaphore::new(cores.div_ceil(2))
});

/// Does it on such a thread, in the order of the calls.
///
/// # Errors
/// Where it panicked, or the process ends.
pub async fn offload<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let _permit = THREADS.acquire().await.ok();
    tokio::task::spawn_blocking(work).await
}
