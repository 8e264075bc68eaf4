//! One value, handed down to everything that runs: it says when to end, and knows who has not yet.

use std::{any::Any, fmt, io, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

/// Begins once and stays begun. Cheap to clone; all clones are the same shutdown.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Begins by `begin` only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins with the first SIGTERM or SIGINT, too. Both are caught from this moment on.
    ///
    /// # Errors
    /// When the operating system gives no signal handler.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let this = shutdown.clone();
        shutdown.spawn("signals", async move {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                () = this.begun() => return,
            };
            info!(signal, "shutting down");
            this.begin();
        });
        Ok(shutdown)
    }

    /// Everybody ends now.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether it has begun.
    pub fn is_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves once it has begun. Cancel safe.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// The same, for what takes a token.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs a task that `finish` waits for. A panic in it is logged with its name and begins the
    /// shutdown: a service that lost a part of itself is better restarted.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.guard(task, move |panic| {
            error!(task = name, panic, "a task panicked; shutting down");
            token.cancel();
        });
    }

    /// The same for a task that serves one of many: a panic in it is logged and ends nobody else.
    pub fn spawn_one<A, F>(&self, name: &'static str, address: A, task: F)
    where
        A: fmt::Display + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.guard(task, move |panic| {
            error!(task = name, %address, panic, "a task panicked; only this one ends");
        });
    }

    /// Without an async block around the task, which would have room for it twice.
    fn guard<F>(&self, task: F, handle_panic: impl FnOnce(&str) + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(AssertUnwindSafe(task).catch_unwind().map(|ended| {
            if let Err(panic) = ended {
                handle_panic(panic_message(&*panic));
            }
        }));
    }

    /// Waits for all tasks; false when `limit` passed before the last one ended. It does not begin the
    /// shutdown.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }
}

/// What a panic was called with, if it was a text.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn all_clones_begin_at_once_and_stay_begun() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        assert!(!clone.is_begun());
        shutdown.begin();
        clone.begun().await;
        clone.begun().await;
        assert!(clone.is_begun() && clone.token().is_cancelled());
    }

    #[tokio::test]
    async fn finish_waits_for_tasks_and_for_those_that_they_spawn() {
        let shutdown = Shutdown::new();
        let (done, mut is_done) = tokio::sync::oneshot::channel();
        let this = shutdown.clone();
        shutdown.spawn("parent", async move {
            this.begun().await;
            let child = this.clone();
            child.spawn("child", async move {
                tokio::task::yield_now().await;
                done.send(()).unwrap();
            });
        });
        assert!(!shutdown.finish(Duration::ZERO).await);
        shutdown.begin();
        assert!(shutdown.finish(LIMIT).await);
        is_done.try_recv().unwrap();
    }

    #[tokio::test]
    async fn finish_gives_up_on_a_task_that_never_ends() {
        let shutdown = Shutdown::new();
        shutdown.spawn("stuck", std::future::pending());
        shutdown.begin();
        assert!(!shutdown.finish(Duration::from_millis(10)).await);
    }

    #[tokio::test]
    async fn a_panic_begins_the_shutdown() {
        let shutdown = Shutdown::new();
        shutdown.spawn("unlucky", async { panic!("on purpose") });
        tokio::time::timeout(LIMIT, shutdown.begun()).await.unwrap();
        assert!(shutdown.finish(LIMIT).await);
    }

    #[tokio::test]
    async fn a_panic_of_one_of_many_ends_nobody_else() {
        let shutdown = Shutdown::new();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        shutdown.spawn_one("unlucky", address, async { panic!("on purpose") });
        assert!(shutdown.finish(LIMIT).await && !shutdown.is_begun());
    }

    #[test]
    fn the_message_of_a_panic_is_found() {
        assert_eq!(panic_message(&"text"), "text");
        assert_eq!(panic_message(&"text".to_owned()), "text");
        assert_eq!(panic_message(&7), "no message");
    }
}
