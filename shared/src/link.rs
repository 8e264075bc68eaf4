//! The driver of one established session, the same at both ends and over every transport.
//!
//! It waits for an event, hands it to the `Session`, and does what that asks for; it decides
//! nothing. Sending has a queue and a future of its own, so that two ends which both have much to
//! say never wait for each other to listen.

use std::{
    future::Future,
    pin::pin,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{
    FutureExt, Sink, SinkExt, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered,
};
use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    heard::Heard,
    limits::{GOODBYE_TIMEOUT, WINDOW_BATCHES},
    retry::unavailable_wait,
    seq::Epoch,
    store::{
        StoreError,
        copy::CopyStore,
        hints::Watch,
        origin::{Done as OriginDone, OriginStore},
    },
    sync::{
        account::Loss,
        receiver::Appended,
        sender::Task,
        session::{End, Session, Work},
    },
    wire::frame::{Frame, Goaway, Reason},
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
    /// In 0.0..1.0: spreads the return of those whom a fault of one Redis sends away together.
    pub random: f64,
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

/// How a session went.
pub struct Outcome {
    /// Why it is over.
    pub end: Result<End, LinkError>,
    /// Its last state, for the figures.
    pub session: Session,
}

/// Milliseconds since 1970 by this machine's clock.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Runs a session to its end.
///
/// `leave` resolves when this side wants to stop: the batch in hand is finished and acknowledged,
/// then its GOAWAY is sent. When this side's Redis fails, GOAWAY `unavailable` is sent. `report`
/// sees the session after each event.
pub async fn drive(
    mut session: Session,
    stores: Stores<'_>,
    mut frames: impl Stream<Item = Result<Frame, TransportError>> + Unpin,
    outbox: impl Sink<Frame, Error = TransportError> + Unpin,
    heard: &Heard,
    leave: impl Future<Output = Goaway>,
    mut report: impl FnMut(&Session),
) -> Outcome {
    // As many as both windows hold: a push waits in the session until the socket takes more.
    let (queue, queued) = mpsc::channel(WINDOW_BATCHES);
    let mut writer = pin!(write(queued, outbox).fuse());
    let mut leave = pin!(leave.fuse());
    // The session asks for one thing of each kind at a time.
    let mut work = FuturesUnordered::new();
    let failure = loop {
        while let Some(next) = session.poll_work() {
            say_losses(&next);
            work.push(perform(stores, next));
        }
        report(&session);
        if session.end().is_some() {
            break None;
        }
        let timeout = tokio::time::sleep_until(session.poll_timeout().into());
        // Cancel safe: what is in hand lives in `work` and `writer`, not in the arms.
        tokio::select! {
            permit = queue.reserve(), if session.has_frame() => {
                let frame = session.poll_frame(Instant::now());
                if let (Ok(permit), Some(frame)) = (permit, frame) {
                    permit.send(frame);
                }
            }
            frame = frames.next(), if session.wants_frame() => match frame {
                Some(Ok(frame)) => session.handle_frame(frame, Instant::now()),
                Some(Err(TransportError::Malformed(error))) => {
                    let message = error.to_string();
                    session.handle_leave(Goaway { reason: Reason::Protocol, message, wait_ms: 0 });
                }
                Some(Err(error)) => break Some(LinkError::Transport(error)),
                None => break Some(LinkError::Closed),
            },
            Some(done) = work.next(), if !work.is_empty() => match done {
                Ok(Done::Origin(OriginDone::Read(read))) => session.handle_read(read),
                Ok(Done::Origin(OriginDone::Rewound)) => session.handle_rewound(),
                Ok(Done::Origin(OriginDone::Buried)) => session.handle_buried(),
                Ok(Done::Origin(OriginDone::Written)) => session.handle_written(),
                Ok(Done::Origin(OriginDone::Recorded)) => session.handle_recorded(),
                Ok(Done::Appended(appended)) => session.handle_appended(&appended),
                Err(error) => {
                    session.handle_failed(unavailable(stores.random));
                    break Some(LinkError::Store(error));
                }
            },
            () = stores.news.news() => session.handle_news(),
            goaway = &mut leave => session.handle_leave(goaway),
            result = &mut writer => {
                break Some(result.map_or_else(LinkError::Transport, |()| LinkError::Closed));
            }
            () = timeout => {
                session.handle_heard(heard.at());
                session.handle_timeout(Instant::now());
            }
        }
    };
    while session.has_frame()
        && let Ok(permit) = queue.try_reserve()
        && let Some(frame) = session.poll_frame(Instant::now())
    {
        permit.send(frame);
    }
    drop(queue);
    // Whoever does not take the last words within this time does not want them.
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, writer).await;
    let end = match failure {
        Some(failure) => Err(failure),
        None => Ok(session.end().cloned().unwrap_or(End::Stalled)),
    };
    Outcome { end, session }
}

enum Done {
    Origin(OriginDone),
    Appended(Appended),
}

fn perform(stores: Stores<'_>, work: Work) -> BoxFuture<'_, Result<Done, StoreError>> {
    let Stores { origin, copy, epoch, .. } = stores;
    async move {
        match work {
            Work::Origin(task) => Ok(Done::Origin(origin.perform(epoch, task, now_ms()).await?)),
            Work::Append(append) => Ok(Done::Appended(copy.append(&append, now_ms()).await?)),
        }
    }
    .boxed()
}

/// Never in silence.
fn say_losses(work: &Work) {
    let losses = match work {
        Work::Origin(Task::Lose(losses, _)) => losses,
        Work::Append(append) => &append.account.losses,
        Work::Origin(_) => return,
    };
    losses.iter().for_each(say_loss);
}

/// Logs one loss.
pub fn say_loss(loss: &Loss) {
    let Loss { epoch, from, to, count, cause } = loss;
    let cause = cause.word();
    let count = count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
    warn!(%epoch, %from, %to, count, cause, "entries were lost; the range is in the loss ledger");
}

async fn write(
    mut queued: mpsc::Receiver<Frame>,
    outbox: impl Sink<Frame, Error = TransportError> + Unpin,
) -> Result<(), TransportError> {
    let mut outbox = outbox;
    while let Some(frame) = queued.recv().await {
        outbox.feed(frame).await?;
        while let Ok(frame) = queued.try_recv() {
            outbox.feed(frame).await?;
        }
        outbox.flush().await?;
    }
    outbox.close().await
}

/// What the other side is told when this side's Redis is in trouble; `random` is in 0.0..1.0.
pub fn unavailable(random: f64) -> Goaway {
    Goaway {
        reason: Reason::Unavailable,
        message: "the redis on this side does not take anything now".to_owned(),
        wait_ms: unavailable_wait(random).as_millis() as u64,
    }
}
