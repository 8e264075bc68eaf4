//! [`Shutdown`]: one value for every task of a process. It signals when to end, and tracks the tasks that run.

use std::{any::Any, fmt, io, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span, debug_span, error, info, info_span};

/// Begins once and stays begun. Cheap to clone; all clones share one shutdown.
///
/// Every task runs in a span, which its log lines bear: [`spawn`](Self::spawn) in `task` with the task's name,
/// [`spawn_one`](Self::spawn_one) in `connection` with the peer. The latter is at debug level: one span for each
/// connection costs memory and time.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Returns a shutdown that only [`begin`](Self::begin) begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a shutdown that also begins with the first SIGTERM or SIGINT. Both are caught from this call on.
    ///
    /// # Errors
    /// [`io::Error`] if the operating system gives no signal handler.
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

    /// Begins the shutdown.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Returns whether the shutdown has begun.
    pub fn is_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves once the shutdown has begun. Cancel safe.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// Returns the token that the shutdown cancels.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs a task that [`finish`](Self::finish) waits for. A panic in it is logged with the task's name and begins
    /// the shutdown: a service that lost one of its tasks is better restarted.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.guard(task, info_span!(parent: None, "task", task = name), move |panic| {
            error!(task = name, panic, "task panicked; shutting down");
            token.cancel();
        });
    }

    /// Runs a task that serves one of many peers, and that [`finish`](Self::finish) waits for. A panic in it is
    /// logged and ends no other task.
    pub fn spawn_one<A, F>(&self, name: &'static str, peer: A, task: F)
    where
        A: fmt::Display + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let span = debug_span!(parent: None, "connection", task = name, %peer);
        self.guard(task, span, move |panic| {
            error!(task = name, %peer, panic, "task panicked; others go on");
        });
    }

    /// Without an async block around the task, which would reserve the task's memory twice.
    fn guard<F>(&self, task: F, span: Span, handle_panic: impl FnOnce(&str) + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = AssertUnwindSafe(task.instrument(span));
        self.tasks.spawn(task.catch_unwind().map(|ended| {
            if let Err(panic) = ended {
                handle_panic(panic_message(&*panic));
            }
        }));
    }

    /// Waits for all tasks. Returns `false` if `limit` passed before the last one ended. Does not begin the shutdown.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }
}

/// Returns the text that a panic was raised with.
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
    async fn all_clones_begin_the_shutdown_together_and_stay_begun() {
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
        shutdown.spawn("panicking", async { panic!("on purpose") });
        tokio::time::timeout(LIMIT, shutdown.begun()).await.unwrap();
        assert!(shutdown.finish(LIMIT).await);
    }

    #[tokio::test]
    async fn a_panic_of_one_of_many_tasks_does_not_begin_the_shutdown() {
        let shutdown = Shutdown::new();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        shutdown.spawn_one("panicking", address, async { panic!("on purpose") });
        assert!(shutdown.finish(LIMIT).await && !shutdown.is_begun());
    }

    #[tokio::test]
    async fn every_task_runs_in_a_span_of_its_own() {
        let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry());
        let (shutdown, (sender, mut names)) = (Shutdown::new(), tokio::sync::mpsc::channel(2));
        let name = |sender: tokio::sync::mpsc::Sender<_>| async move {
            let span = Span::current().metadata().map(|metadata| metadata.name());
            sender.send(span).await.unwrap();
        };
        shutdown.spawn("part", name(sender.clone()));
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        shutdown.spawn_one("one", peer, name(sender));
        assert!(shutdown.finish(LIMIT).await);
        assert_eq!(names.recv().await, Some(Some("task")));
        assert_eq!(names.recv().await, Some(Some("connection")));
    }

    #[test]
    fn the_message_of_a_panic_is_found() {
        assert_eq!(panic_message(&"text"), "text");
        assert_eq!(panic_message(&"text".to_owned()), "text");
        assert_eq!(panic_message(&7), "no message");
    }
}
