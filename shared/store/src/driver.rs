//! The driver of one established session, the same at both ends and over every transport.
//!
//! It waits for an event, hands it to the `Session`, and does what that asks for; it decides
//! nothing. To send is one of the things it waits for, so that two ends which both have much to say
//! never wait for each other to listen. There is no queue: a frame waits in the session until the
//! socket takes it.

mod lane;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt, stream::FuturesUnordered};
use tracing::warn;

use self::lane::AppendLane;
use crate::{
    StoreError,
    copy::CopyStore,
    hints::KeyWatch,
    limits::GOODBYE_TIMEOUT,
    origin::{OriginStore, TaskResult},
};
use spoke_diagnostics::{
    clock::unix_ms, error_chain::error_chain, limits::LOG_SUMMARY_INTERVAL, log_limit::LogLimiter,
};
use spoke_protocol::{
    loss::Loss,
    message::{Frame, Goaway, GoawayReason},
    seq::Epoch,
    sync::{
        receiver::{Append, AppendResult},
        sender::{OriginTask, path::SessionEnding},
        session::{Session, SessionEnd, SessionWork},
    },
};

/// What one session works on.
#[derive(Clone, Copy)]
pub struct SessionStores<'a> {
    /// The out stream of this side.
    pub origin: &'a OriginStore,
    /// The in stream of this side.
    pub copy: &'a CopyStore,
    /// Tells when the out stream has news.
    pub news: &'a KeyWatch,
    /// The epoch that the out stream is sent under.
    pub epoch: Epoch,
    /// How long the other side is sent away for when this side's Redis fails.
    pub return_wait: &'a (dyn Fn() -> Duration + Sync),
}

/// The transport failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The other side sent what is no frame.
    #[error("the other side sent what is no frame of this protocol")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What ended a session from outside of the protocol.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// This side's Redis failed.
    #[error("this side's redis failed")]
    Store(#[source] StoreError),
    /// The transport failed.
    #[error("the link failed")]
    Transport(#[source] TransportError),
    /// The other side closed without a word.
    #[error("the other side closed the connection without a word")]
    Closed,
}

/// What the driver shows of a session.
#[derive(Clone, Copy)]
pub enum SessionEvent<'a> {
    /// What is about to be done at a store.
    Work(&'a SessionWork),
    /// The session after an event.
    Session(&'a Session),
    /// A stream of this side cannot be used as it is; what goes the other way goes on.
    Unusable(StreamSide, &'a StoreError),
    /// It can be used again.
    Usable(StreamSide),
}

/// One of this side's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamSide {
    /// What it sends.
    Out,
    /// What it gets.
    In,
}

/// How a session went.
pub struct SessionOutcome {
    /// Why it is over.
    pub end: Result<SessionEnd, SessionError>,
    /// Its last state, for the figures.
    pub session: Box<Session>,
}

impl SessionOutcome {
    /// What the end says of the path. A newer session comes where the last one broke unseen.
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
/// `leave` resolves when this side wants to stop: the batch in hand is finished and acknowledged,
/// then its GOAWAY is sent. When this side's Redis fails, GOAWAY `unavailable` is sent. `report`
/// is shown what is done and the session after each event.
///
/// An idle session is little more than this future: what is rare or large is boxed while it is there.
pub async fn drive(
    mut session: Box<Session>,
    stores: SessionStores<'_>,
    mut frames: impl Stream<Item = Result<Frame, TransportError>> + Unpin,
    outbox: impl Sink<Frame, Error = TransportError> + Unpin,
    last_received: impl Fn() -> Instant,
    leave: impl Future<Output = Goaway>,
    mut report: impl FnMut(SessionEvent<'_>),
) -> SessionOutcome {
    let mut outbox = Outbox { sink: outbox, is_flushed: true, is_broken: false };
    let mut leave = pin!(leave.fuse());
    // The session asks for one thing of each kind at the origin at a time.
    let mut tasks = FuturesUnordered::new();
    let mut appends = AppendLane::default();
    let mut losses = LossLog::default();
    // Spread as those are who are sent away: all clients of a hub have one in stream.
    let again_at = || Instant::now() + (stores.return_wait)();
    let failure = loop {
        while let Some(next) = session.poll_work(Instant::now()) {
            losses.handle_work(&next, Instant::now());
            report(SessionEvent::Work(&next));
            match next {
                SessionWork::Origin(task) => tasks.push(perform(&stores, task).boxed()),
                SessionWork::Probe => tasks.push(probe(&stores).boxed()),
                SessionWork::Append(append) => appends.push(take(stores.copy, append)),
            }
        }
        report(SessionEvent::Session(&session));
        if session.end().is_some() {
            break None;
        }
        let timeout = tokio::time::sleep_until(session.poll_timeout().into());
        let has_frame = session.has_frame();
        // Cancel safe: what is in hand lives in `tasks`, `appends` and `outbox`, not in the arms.
        tokio::select! {
            progress = poll_fn(|cx| outbox.poll(has_frame, cx)), if has_frame || !outbox.is_flushed => {
                let written = match progress {
                    Ok(OutboxProgress::HasRoom) => outbox.put(session.poll_frame(Instant::now())),
                    Ok(OutboxProgress::IsFlushed) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = written {
                    outbox.is_broken = true;
                    break Some(SessionError::Transport(error));
                }
            }
            frame = frames.next() => match frame {
                Some(Ok(frame)) => session.handle_frame(frame, Instant::now()),
                Some(Err(TransportError::Malformed(error))) => {
                    let message = error_chain(error.as_ref());
                    session.handle_close(Goaway { reason: GoawayReason::Protocol, message, wait_ms: 0 });
                }
                Some(Err(error)) => break Some(SessionError::Transport(error)),
                None => break Some(SessionError::Closed),
            },
            Some(finished) = tasks.next(), if !tasks.is_empty() => match finished {
                FinishedWork::Task(task, Ok(_)) if session.sender().is_retried(&task) => {
                    report(SessionEvent::Usable(StreamSide::Out));
                    session.handle_origin_readable();
                }
                FinishedWork::Task(_, Ok(TaskResult::Read(read))) => {
                    session.handle_read(read, Instant::now());
                    stores.news.handle_read_through(session.sender().read_through());
                }
                FinishedWork::Task(_, Ok(TaskResult::OriginChanged)) => session.handle_origin_changed(),
                FinishedWork::Task(_, Ok(TaskResult::DeadLettered)) => session.handle_dead_lettered(),
                FinishedWork::Task(_, Ok(TaskResult::LossesRecorded)) => session.handle_losses_recorded(),
                FinishedWork::Task(_, Ok(TaskResult::AckRecorded)) => session.handle_ack_recorded(),
                FinishedWork::Probe(Ok(())) => {
                    report(SessionEvent::Usable(StreamSide::In));
                    session.handle_copy_probed(Ok(()));
                }
                FinishedWork::Task(task, Err(error)) if error.is_stream_fault() => {
                    report(SessionEvent::Unusable(StreamSide::Out, &error));
                    session.handle_origin_unreadable(task, again_at());
                }
                FinishedWork::Probe(Err(error)) if error.is_stream_fault() => {
                    session.handle_copy_probed(Err(again_at()));
                }
                FinishedWork::Task(_, Err(error)) | FinishedWork::Probe(Err(error)) => {
                    session.handle_store_failure(unavailable((stores.return_wait)()));
                    break Some(SessionError::Store(error));
                }
            },
            appended = appends.next(), if !appends.is_empty() => match appended {
                Ok(appended) => session.handle_appended(&appended),
                Err(error) if error.is_stream_fault() => {
                    report(SessionEvent::Unusable(StreamSide::In, &error));
                    session.handle_copy_unwritable(again_at());
                }
                Err(error) => {
                    session.handle_store_failure(unavailable((stores.return_wait)()));
                    break Some(SessionError::Store(error));
                }
            },
            () = stores.news.changed() => session.handle_news(),
            goaway = &mut leave => session.handle_close(goaway),
            () = timeout => {
                session.handle_received(last_received());
                session.handle_timeout(Instant::now());
            }
        }
    };
    losses.sum_up();
    let last_words = async {
        // A sink that has failed once is not to be used again.
        while !outbox.is_broken
            && session.has_frame()
            && let Some(frame) = session.poll_frame(Instant::now())
        {
            outbox.sink.feed(frame).await?;
        }
        if outbox.is_broken { Ok(()) } else { outbox.sink.close().await }
    };
    // Whoever does not take them within this time does not want them.
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, last_words).await;
    if !matches!(failure, Some(SessionError::Store(_)))
        && let Some(task) = session.poll_final_record()
    {
        let record = stores.origin.perform(stores.epoch, &task, unix_ms());
        // Where it does not succeed, the next handshake looks at more.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, record).await;
    }
    let end = match failure {
        Some(failure) => Err(failure),
        None => Ok(session.end().cloned().unwrap_or(SessionEnd::AckTimeout)),
    };
    SessionOutcome { end, session }
}

struct Outbox<S> {
    sink: S,
    is_flushed: bool,
    is_broken: bool,
}

enum OutboxProgress {
    HasRoom,
    IsFlushed,
}

impl<S: Sink<Frame, Error = TransportError> + Unpin> Outbox<S> {
    /// Room comes first: what is ready leaves together.
    fn poll(
        &mut self,
        has_frame: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<OutboxProgress, TransportError>> {
        if has_frame && let Poll::Ready(room) = self.sink.poll_ready_unpin(cx) {
            return Poll::Ready(room.map(|()| OutboxProgress::HasRoom));
        }
        if self.is_flushed {
            return Poll::Pending;
        }
        ready!(self.sink.poll_flush_unpin(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(OutboxProgress::IsFlushed))
    }

    fn put(&mut self, frame: Option<Frame>) -> Result<(), TransportError> {
        let Some(frame) = frame else { return Ok(()) };
        self.is_flushed = false;
        self.sink.start_send_unpin(frame)
    }
}

async fn take(copy: &CopyStore, append: Append) -> Result<AppendResult, StoreError> {
    copy.append(&append, unix_ms()).await
}

/// What was done at a store, beside appends.
enum FinishedWork {
    Task(OriginTask, Result<TaskResult, StoreError>),
    Probe(Result<(), StoreError>),
}

async fn perform(stores: &SessionStores<'_>, task: OriginTask) -> FinishedWork {
    let done = stores.origin.perform(stores.epoch, &task, unix_ms()).await;
    FinishedWork::Task(task, done)
}

async fn probe(stores: &SessionStores<'_>) -> FinishedWork {
    FinishedWork::Probe(stores.copy.probe().await)
}

/// What is said of the losses of one session, never in silence: the first range of each cause, then how
/// many more there are, since a stream that is trimmed faster than it is carried has one in each batch.
#[derive(Default)]
struct LossLog(Option<Box<LoggedLosses>>);

struct LoggedLosses {
    causes: LogLimiter<&'static str>,
    summed_up_at: Instant,
}

impl LossLog {
    fn handle_work(&mut self, work: &SessionWork, now: Instant) {
        let losses = match work {
            SessionWork::Origin(OriginTask::RecordLosses(losses, _)) => losses,
            SessionWork::Append(append) => &append.account.losses,
            SessionWork::Origin(_) | SessionWork::Probe => return,
        };
        if losses.is_empty() {
            return;
        }
        let begun = || Box::new(LoggedLosses { causes: LogLimiter::default(), summed_up_at: now });
        let said = self.0.get_or_insert_with(begun);
        for loss in losses {
            if said.causes.record(loss.cause.word()) {
                say_loss(loss);
            }
        }
        if now >= said.summed_up_at + LOG_SUMMARY_INTERVAL {
            said.summed_up_at = now;
            self.sum_up();
        }
    }

    fn sum_up(&mut self) {
        for (cause, count) in self.0.iter_mut().flat_map(|said| said.causes.poll_counts()) {
            warn!(cause, count, "more ranges of entries were lost; they are in the loss ledger");
        }
    }
}

/// Logs one loss.
pub fn say_loss(loss: &Loss) {
    let Loss { epoch, from, to, count, cause } = loss;
    let cause = cause.word();
    let count = count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
    warn!(%epoch, %from, %to, count, cause, "entries were lost; the range is in the loss ledger");
}

/// What the other side is told when this side's Redis is in trouble.
pub fn unavailable(return_wait: Duration) -> Goaway {
    Goaway {
        reason: GoawayReason::Unavailable,
        message: "the redis on this side does not take anything now".to_owned(),
        wait_ms: return_wait.as_millis() as u64,
    }
}
