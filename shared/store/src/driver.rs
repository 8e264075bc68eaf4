//! The driver of one established session, the same at both ends and over every transport.
//!
//! It waits for an event (`Driver::next_event`), hands it to the [`Session`] (`Driver::apply`), and does the
//! work that the session then asks for (`Driver::start_work`); it decides nothing. Sending is one of the things
//! it waits for, so that two ends with much to send never wait for each other to receive. There is no queue: a
//! frame waits in the session until the socket takes it.

mod append_queue;
mod loss_log;
mod outbox;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt, Sink, Stream, StreamExt,
    future::{BoxFuture, FusedFuture},
    stream::FuturesUnordered,
};
use tokio::time::Sleep;

pub use self::loss_log::log_loss;
use self::{append_queue::AppendQueue, loss_log::LossLog, outbox::Outbox};
use crate::{
    StoreError,
    copy::CopyStore,
    hints::KeyWatch,
    limits::GOODBYE_TIMEOUT,
    origin::{OriginStore, TaskResult},
};
use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::{
    Epoch,
    message::{Frame, Goaway, GoawayReason},
    sync::{Append, AppendResult, OriginTask, Session, SessionEnd, SessionEnding, SessionWork},
};

/// The streams of this side of a session.
#[derive(Clone, Copy)]
pub struct SessionStores<'a> {
    /// The out stream.
    pub origin: &'a OriginStore,
    /// The in stream.
    pub copy: &'a CopyStore,
    /// Resolves when the out stream has new entries.
    pub news: &'a KeyWatch,
    /// The epoch of the out stream in this session.
    pub epoch: Epoch,
    /// Returns the wait to ask of the peer when this side's Redis fails.
    pub return_wait: &'a (dyn Fn() -> Duration + Sync),
}

/// The transport failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The peer sent bytes that are not a valid frame.
    #[error("received an invalid frame")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a session ended outside of the protocol.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// This side's Redis failed.
    #[error("this side's redis failed")]
    Store(#[source] StoreError),
    /// The transport failed.
    #[error("the link failed")]
    Transport(#[source] TransportError),
    /// The peer closed the connection without a GOAWAY.
    #[error("the peer closed the connection without a GOAWAY")]
    Closed,
}

/// What the driver reports of a session.
#[derive(Clone, Copy)]
pub enum SessionEvent<'a> {
    /// Work that is about to start at a store.
    Work(&'a SessionWork),
    /// The session after an event.
    Session(&'a Session),
    /// A stream of this side cannot be used; the other direction continues.
    Unusable(StreamSide, &'a StoreError),
    /// The stream can be used again.
    Usable(StreamSide),
}

/// One of this side's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamSide {
    /// The out stream.
    Out,
    /// The in stream.
    In,
}

/// The result of a session.
pub struct SessionOutcome {
    /// Why it ended.
    pub end: Result<SessionEnd, SessionError>,
    /// Its last state, for the metrics.
    pub session: Box<Session>,
}

impl SessionOutcome {
    /// Returns what the end says about the path. A newer session of the same client means that the path of this one
    /// broke unnoticed.
    pub fn parting(&self) -> SessionEnding {
        match &self.end {
            Err(SessionError::Transport(_) | SessionError::Closed)
            | Ok(SessionEnd::IdleTimeout(_) | SessionEnd::AckTimeout) => SessionEnding::Broken,
            Ok(SessionEnd::Closed(goaway)) if goaway.reason == GoawayReason::Superseded => {
                SessionEnding::Broken
            }
            Err(SessionError::Store(_))
            | Ok(SessionEnd::Closed(_) | SessionEnd::ClosedByPeer(_)) => SessionEnding::Closed,
        }
    }
}

/// Runs a session to its end.
///
/// `leave` resolves when this side wants to stop: the batch in progress is finished and acknowledged, then its GOAWAY
/// is sent. When this side's Redis fails, GOAWAY `unavailable` is sent. `report` gets each piece of work before
/// it begins, and the session after each event. `last_received` returns when the peer's last byte came.
///
/// An idle session costs little more than this future: rare and large values are boxed.
pub async fn drive(
    session: Box<Session>,
    stores: SessionStores<'_>,
    frames: impl Stream<Item = Result<Frame, TransportError>> + Unpin,
    outbox: impl Sink<Frame, Error = TransportError> + Unpin,
    last_received: impl Fn() -> Instant,
    leave: impl Future<Output = Goaway>,
    report: impl FnMut(SessionEvent<'_>),
) -> SessionOutcome {
    let leave = pin!(leave.fuse());
    let timer = Box::pin(tokio::time::sleep_until(session.poll_timeout().into()));
    let mut driver = Driver {
        session,
        stores,
        frames,
        outbox: Outbox::new(outbox),
        last_received,
        leave,
        report,
        timer,
        tasks: FuturesUnordered::new(),
        appends: AppendQueue::default(),
        losses: LossLog::default(),
    };
    let failure = loop {
        driver.start_work();
        if driver.session.end().is_some() {
            break None;
        }
        let event = driver.next_event().await;
        if let Err(failure) = driver.apply(event) {
            break Some(failure);
        }
    };
    Box::pin(driver.finish(failure)).await
}

/// One session with everything that it waits for.
struct Driver<'a, F, O, T, L, R> {
    session: Box<Session>,
    stores: SessionStores<'a>,
    frames: F,
    outbox: Outbox<O>,
    last_received: T,
    leave: Pin<&'a mut L>,
    report: R,
    /// Fires at the session's next deadline, or earlier: it is not moved while the deadline moves away.
    timer: Pin<Box<Sleep>>,
    /// Tasks at the origin, at most one of each kind.
    tasks: FuturesUnordered<BoxFuture<'a, FinishedWork>>,
    appends: AppendQueue<BoxFuture<'a, Result<AppendResult, StoreError>>>,
    losses: LossLog,
}

/// An event that a driver waits for.
enum DriverEvent {
    Sent(Result<(), TransportError>),
    Frame(Option<Result<Frame, TransportError>>),
    Finished(FinishedWork),
    Appended(Result<AppendResult, StoreError>),
    News,
    Leave(Goaway),
    Timeout,
}

/// Finished work at a store, other than an append.
enum FinishedWork {
    Task(OriginTask, Result<TaskResult, StoreError>),
    Probe(Result<(), StoreError>),
}

impl<'a, F, O, T, L, R> Driver<'a, F, O, T, L, R>
where
    F: Stream<Item = Result<Frame, TransportError>> + Unpin,
    O: Sink<Frame, Error = TransportError> + Unpin,
    T: Fn() -> Instant,
    L: FusedFuture<Output = Goaway>,
    R: FnMut(SessionEvent<'_>),
{
    /// Starts all work that the session asks for.
    fn start_work(&mut self) {
        while let Some(work) = self.session.poll_work(Instant::now()) {
            self.losses.handle_work(&work, Instant::now());
            (self.report)(SessionEvent::Work(&work));
            let stores = self.stores;
            match work {
                SessionWork::Origin(task) => self.tasks.push(perform(stores, task).boxed()),
                SessionWork::Probe => self.tasks.push(probe(stores).boxed()),
                SessionWork::Append(append) => self.appends.push(add(stores.copy, append).boxed()),
            }
        }
        (self.report)(SessionEvent::Session(&self.session));
    }

    /// Waits for the next event. Cancel safe: work in progress is kept in `tasks`, `appends` and `outbox`.
    async fn next_event(&mut self) -> DriverEvent {
        let deadline = self.session.poll_timeout().into();
        if deadline < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(deadline);
        }
        let (outbox, session) = (&mut self.outbox, &mut self.session);
        let is_sending = outbox.is_busy(session);
        tokio::select! {
            progress = poll_fn(|cx| outbox.poll(session, cx)), if is_sending => {
                DriverEvent::Sent(progress)
            }
            frame = self.frames.next() => DriverEvent::Frame(frame),
            Some(finished) = self.tasks.next(), if !self.tasks.is_empty() => {
                DriverEvent::Finished(finished)
            }
            appended = self.appends.next(), if !self.appends.is_empty() => {
                DriverEvent::Appended(appended)
            }
            () = self.stores.news.changed() => DriverEvent::News,
            goaway = &mut self.leave => DriverEvent::Leave(goaway),
            () = self.timer.as_mut() => DriverEvent::Timeout,
        }
    }

    /// Hands an event to the session.
    ///
    /// # Errors
    /// [`SessionError`] if the session cannot continue.
    fn apply(&mut self, event: DriverEvent) -> Result<(), SessionError> {
        match event {
            DriverEvent::Sent(sent) => return sent.map_err(SessionError::Transport),
            DriverEvent::Frame(Some(Ok(frame))) => {
                self.session.handle_frame(frame, Instant::now());
            }
            DriverEvent::Frame(Some(Err(TransportError::Malformed(error)))) => {
                let message = error_chain(error.as_ref());
                let reason = GoawayReason::Protocol;
                self.session.handle_close(Goaway { reason, message, wait_ms: 0 });
            }
            DriverEvent::Frame(Some(Err(error))) => return Err(SessionError::Transport(error)),
            DriverEvent::Frame(None) => return Err(SessionError::Closed),
            DriverEvent::Finished(FinishedWork::Task(task, result)) => {
                return self.apply_task(task, result);
            }
            DriverEvent::Finished(FinishedWork::Probe(result)) => return self.apply_probe(result),
            DriverEvent::Appended(result) => return self.apply_append(result),
            DriverEvent::News => self.session.handle_news(),
            DriverEvent::Leave(goaway) => self.session.handle_close(goaway),
            DriverEvent::Timeout => {
                self.session.handle_received((self.last_received)());
                self.session.handle_timeout(Instant::now());
            }
        }
        Ok(())
    }

    fn apply_task(
        &mut self,
        task: OriginTask,
        result: Result<TaskResult, StoreError>,
    ) -> Result<(), SessionError> {
        match result {
            Ok(_) if self.session.sender().is_retried(&task) => {
                (self.report)(SessionEvent::Usable(StreamSide::Out));
                self.session.handle_origin_readable();
            }
            Ok(TaskResult::Read(read)) => {
                self.session.handle_read(read, Instant::now());
                self.stores.news.handle_read_through(self.session.sender().read_through());
            }
            Ok(TaskResult::OriginChanged) => self.session.handle_origin_changed(),
            Ok(TaskResult::DeadLettered) => self.session.handle_dead_lettered(),
            Ok(TaskResult::LossesRecorded) => self.session.handle_losses_recorded(),
            Ok(TaskResult::AckRecorded) => self.session.handle_ack_recorded(),
            Err(error) if error.is_stream_fault() => {
                (self.report)(SessionEvent::Unusable(StreamSide::Out, &error));
                self.session.handle_origin_unreadable(task, self.retry_at());
            }
            Err(error) => return Err(self.fail(error)),
        }
        Ok(())
    }

    fn apply_probe(&mut self, result: Result<(), StoreError>) -> Result<(), SessionError> {
        match result {
            Ok(()) => {
                (self.report)(SessionEvent::Usable(StreamSide::In));
                self.session.handle_copy_probed(Ok(()));
            }
            Err(error) if error.is_stream_fault() => {
                self.session.handle_copy_probed(Err(self.retry_at()))
            }
            Err(error) => return Err(self.fail(error)),
        }
        Ok(())
    }

    fn apply_append(
        &mut self,
        result: Result<AppendResult, StoreError>,
    ) -> Result<(), SessionError> {
        match result {
            Ok(appended) => self.session.handle_appended(&appended),
            Err(error) if error.is_stream_fault() => {
                (self.report)(SessionEvent::Unusable(StreamSide::In, &error));
                self.session.handle_copy_unwritable(self.retry_at());
            }
            Err(error) => return Err(self.fail(error)),
        }
        Ok(())
    }

    /// Returns when a stream that cannot be used is tried again: spread, since all clients of a hub share its in
    /// stream.
    fn retry_at(&self) -> Instant {
        Instant::now() + (self.stores.return_wait)()
    }

    fn fail(&mut self, error: StoreError) -> SessionError {
        self.session.handle_store_failure(unavailable((self.stores.return_wait)()));
        SessionError::Store(error)
    }

    /// Sends the last frames, closes the connection and records the last acknowledgement.
    async fn finish(mut self, failure: Option<SessionError>) -> SessionOutcome {
        self.losses.log_counts();
        // A peer that does not read them within this time counts as gone.
        let closing = self.outbox.close(&mut self.session);
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, closing).await;
        if !matches!(failure, Some(SessionError::Store(_)))
            && let Some(task) = self.session.poll_final_record()
        {
            let record = self.stores.origin.perform(self.stores.epoch, &task, unix_ms());
            // If it fails, the next handshake searches a longer range.
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, record).await;
        }
        let end = match failure {
            Some(failure) => Err(failure),
            None => Ok(self.session.end().cloned().unwrap_or(SessionEnd::AckTimeout)),
        };
        SessionOutcome { end, session: self.session }
    }
}

async fn add(copy: &CopyStore, append: Append) -> Result<AppendResult, StoreError> {
    copy.append(&append, unix_ms()).await
}

async fn perform(stores: SessionStores<'_>, task: OriginTask) -> FinishedWork {
    let result = stores.origin.perform(stores.epoch, &task, unix_ms()).await;
    FinishedWork::Task(task, result)
}

async fn probe(stores: SessionStores<'_>) -> FinishedWork {
    FinishedWork::Probe(stores.copy.probe().await)
}

/// Returns the GOAWAY for a peer while the Redis of this side is unavailable.
pub fn unavailable(return_wait: Duration) -> Goaway {
    Goaway {
        reason: GoawayReason::Unavailable,
        message: "redis is unavailable on this side".to_owned(),
        wait_ms: return_wait.as_millis() as u64,
    }
}
