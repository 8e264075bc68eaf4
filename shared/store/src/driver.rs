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

use self::lane::Lane;
use crate::{
    StoreError,
    copy::CopyStore,
    hints::Watch,
    limits::GOODBYE_TIMEOUT,
    origin::{Done, OriginStore},
};
use spoke_diagnostics::{
    clock::now_ms, error_chain::chain, limits::REPEATS_INTERVAL, log_limit::Repeats,
};
use spoke_protocol::{
    loss::Loss,
    message::{Frame, Goaway, Reason},
    seq::Epoch,
    sync::{
        receiver::{Append, Appended},
        sender::{Task, path::Parting},
        session::{End, Session, Work},
    },
};

/// What one session works on.
#[derive(Clone, Copy)]
pub struct Stores<'a> {
    /// The out stream of this side.
    pub origin: &'a OriginStore,
    /// The in stream of this side.
    pub copy: &'a CopyStore,
    /// Tells when the out stream has news.
    pub news: &'a Watch,
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
pub enum LinkError {
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
pub enum Shown<'a> {
    /// What is about to be done at a store.
    Work(&'a Work),
    /// The session after an event.
    Session(&'a Session),
    /// A stream of this side cannot be used as it is; what goes the other way goes on.
    Unusable(Side, &'a StoreError),
    /// It can be used again.
    Usable(Side),
}

/// One of this side's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What it sends.
    Out,
    /// What it gets.
    In,
}

/// How a session went.
pub struct Outcome {
    /// Why it is over.
    pub end: Result<End, LinkError>,
    /// Its last state, for the figures.
    pub session: Box<Session>,
}

impl Outcome {
    /// What the end says of the path. A newer session comes where the last one broke unseen.
    pub fn parting(&self) -> Parting {
        match &self.end {
            Err(LinkError::Transport(_) | LinkError::Closed)
            | Ok(End::Silent(_) | End::Stalled) => Parting::Broken,
            Ok(End::Ours(goaway)) if goaway.reason == Reason::Superseded => Parting::Broken,
            Err(LinkError::Store(_)) | Ok(End::Ours(_) | End::Told(_)) => Parting::Agreed,
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
    stores: Stores<'_>,
    mut frames: impl Stream<Item = Result<Frame, TransportError>> + Unpin,
    outbox: impl Sink<Frame, Error = TransportError> + Unpin,
    last_received: impl Fn() -> Instant,
    leave: impl Future<Output = Goaway>,
    mut report: impl FnMut(Shown<'_>),
) -> Outcome {
    let mut outbox = Outbox { sink: outbox, is_flushed: true, is_broken: false };
    let mut leave = pin!(leave.fuse());
    // The session asks for one thing of each kind at the origin at a time.
    let mut tasks = FuturesUnordered::new();
    let mut appends = Lane::default();
    let mut losses = Losses::default();
    // Spread as those are who are sent away: all clients of a hub have one in stream.
    let again_at = || Instant::now() + (stores.return_wait)();
    let failure = loop {
        while let Some(next) = session.poll_work(Instant::now()) {
            losses.handle_work(&next, Instant::now());
            report(Shown::Work(&next));
            match next {
                Work::Origin(task) => tasks.push(perform(&stores, task).boxed()),
                Work::Probe => tasks.push(probe(&stores).boxed()),
                Work::Append(append) => appends.push(take(stores.copy, append)),
            }
        }
        report(Shown::Session(&session));
        if session.end().is_some() {
            break None;
        }
        let timeout = tokio::time::sleep_until(session.poll_timeout().into());
        let has_frame = session.has_frame();
        // Cancel safe: what is in hand lives in `tasks`, `appends` and `outbox`, not in the arms.
        tokio::select! {
            progress = poll_fn(|cx| outbox.poll(has_frame, cx)), if has_frame || !outbox.is_flushed => {
                let written = match progress {
                    Ok(Progress::HasRoom) => outbox.put(session.poll_frame(Instant::now())),
                    Ok(Progress::IsFlushed) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = written {
                    outbox.is_broken = true;
                    break Some(LinkError::Transport(error));
                }
            }
            frame = frames.next() => match frame {
                Some(Ok(frame)) => session.handle_frame(frame, Instant::now()),
                Some(Err(TransportError::Malformed(error))) => {
                    let message = chain(error.as_ref());
                    session.handle_leave(Goaway { reason: Reason::Protocol, message, wait_ms: 0 });
                }
                Some(Err(error)) => break Some(LinkError::Transport(error)),
                None => break Some(LinkError::Closed),
            },
            Some(finished) = tasks.next(), if !tasks.is_empty() => match finished {
                Finished::Task(task, Ok(_)) if session.sender().is_retried(&task) => {
                    report(Shown::Usable(Side::Out));
                    session.handle_readable();
                }
                Finished::Task(_, Ok(Done::Read(read))) => {
                    session.handle_read(read, Instant::now());
                    stores.news.handle_known(session.sender().reached());
                }
                Finished::Task(_, Ok(Done::Rewound)) => session.handle_rewound(),
                Finished::Task(_, Ok(Done::Buried)) => session.handle_buried(),
                Finished::Task(_, Ok(Done::Written)) => session.handle_written(),
                Finished::Task(_, Ok(Done::Recorded)) => session.handle_recorded(),
                Finished::Probe(Ok(())) => {
                    report(Shown::Usable(Side::In));
                    session.handle_probed(Ok(()));
                }
                Finished::Task(task, Err(error)) if error.is_of_stream() => {
                    report(Shown::Unusable(Side::Out, &error));
                    session.handle_unreadable(task, again_at());
                }
                Finished::Probe(Err(error)) if error.is_of_stream() => {
                    session.handle_probed(Err(again_at()));
                }
                Finished::Task(_, Err(error)) | Finished::Probe(Err(error)) => {
                    session.handle_failed(unavailable((stores.return_wait)()));
                    break Some(LinkError::Store(error));
                }
            },
            appended = appends.next(), if !appends.is_empty() => match appended {
                Ok(appended) => session.handle_appended(&appended),
                Err(error) if error.is_of_stream() => {
                    report(Shown::Unusable(Side::In, &error));
                    session.handle_unwritable(again_at());
                }
                Err(error) => {
                    session.handle_failed(unavailable((stores.return_wait)()));
                    break Some(LinkError::Store(error));
                }
            },
            () = stores.news.news() => session.handle_news(),
            goaway = &mut leave => session.handle_leave(goaway),
            () = timeout => {
                session.handle_heard(last_received());
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
    if !matches!(failure, Some(LinkError::Store(_)))
        && let Some(task) = session.poll_last_record()
    {
        let record = stores.origin.perform(stores.epoch, &task, now_ms());
        // Where it does not succeed, the next handshake looks at more.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, record).await;
    }
    let end = match failure {
        Some(failure) => Err(failure),
        None => Ok(session.end().cloned().unwrap_or(End::Stalled)),
    };
    Outcome { end, session }
}

struct Outbox<S> {
    sink: S,
    is_flushed: bool,
    is_broken: bool,
}

enum Progress {
    HasRoom,
    IsFlushed,
}

impl<S: Sink<Frame, Error = TransportError> + Unpin> Outbox<S> {
    /// Room comes first: what is ready leaves together.
    fn poll(
        &mut self,
        has_frame: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Progress, TransportError>> {
        if has_frame && let Poll::Ready(room) = self.sink.poll_ready_unpin(cx) {
            return Poll::Ready(room.map(|()| Progress::HasRoom));
        }
        if self.is_flushed {
            return Poll::Pending;
        }
        ready!(self.sink.poll_flush_unpin(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(Progress::IsFlushed))
    }

    fn put(&mut self, frame: Option<Frame>) -> Result<(), TransportError> {
        let Some(frame) = frame else { return Ok(()) };
        self.is_flushed = false;
        self.sink.start_send_unpin(frame)
    }
}

async fn take(copy: &CopyStore, append: Append) -> Result<Appended, StoreError> {
    copy.append(&append, now_ms()).await
}

/// What was done at a store, beside appends.
enum Finished {
    Task(Task, Result<Done, StoreError>),
    Probe(Result<(), StoreError>),
}

async fn perform(stores: &Stores<'_>, task: Task) -> Finished {
    let done = stores.origin.perform(stores.epoch, &task, now_ms()).await;
    Finished::Task(task, done)
}

async fn probe(stores: &Stores<'_>) -> Finished {
    Finished::Probe(stores.copy.probe().await)
}

/// What is said of the losses of one session, never in silence: the first range of each cause, then how
/// many more there are, since a stream that is trimmed faster than it is carried has one in each batch.
#[derive(Default)]
struct Losses(Option<Box<Said>>);

struct Said {
    causes: Repeats<&'static str>,
    summed_up_at: Instant,
}

impl Losses {
    fn handle_work(&mut self, work: &Work, now: Instant) {
        let losses = match work {
            Work::Origin(Task::Lose(losses, _)) => losses,
            Work::Append(append) => &append.account.losses,
            Work::Origin(_) | Work::Probe => return,
        };
        if losses.is_empty() {
            return;
        }
        let begun = || Box::new(Said { causes: Repeats::default(), summed_up_at: now });
        let said = self.0.get_or_insert_with(begun);
        for loss in losses {
            if said.causes.handle(loss.cause.word()) {
                say_loss(loss);
            }
        }
        if now >= said.summed_up_at + REPEATS_INTERVAL {
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
        reason: Reason::Unavailable,
        message: "the redis on this side does not take anything now".to_owned(),
        wait_ms: return_wait.as_millis() as u64,
    }
}
