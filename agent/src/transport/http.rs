//! Frames over plain HTTP requests, for networks without WebSockets. HELLO is `POST /session`, PUSH
//! is `POST /xadd` with the ACK as its response, and a long poll of `GET /xread` receives PUSH.
//!
//! The ACK of received entries is the `seq` of the next poll, so one batch is in flight down.
//! Batches up are sent one after the other: parallel requests would arrive in any order. The two
//! directions never wait for each other.
//!
//! Only requests for a stream of the hub that cannot be used, and batches that exceed the client's
//! rate, are retried. Any other failed request ends the session, as a broken WebSocket does, and the
//! next handshake finds out what arrived.
//! Requests have no time limit: the session detects that no byte arrives, and drops the channel
//! with all requests.

mod requests;

use std::{
    future::Future,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use secrecy::SecretString;
use spoke_protocol::{
    Entry, Epoch, RetryDelay, Seq,
    limits::{HEARTBEAT, PROGRESS_TIMEOUT, WINDOW_BATCHES},
    message::{Ack, Features, Frame, Hello, MAJOR, MINOR, Push, Welcome},
    wire::json::{BatchAddedBody, BatchBody, EntryBody, HelloBody, PositionBody, WelcomeBody},
};
use spoke_service::LastActivity;
use spoke_store::driver::TransportError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::PollSender;

use self::requests::{HubRequestError, HubRequests, goaway};
use super::FrameChannel;
use crate::{
    http_client::HttpClient,
    limits::{CONNECT_RETRY, CONNECT_SOON},
};

/// Minimum time between two polls without entries: a hub that shuts down ends polls early.
const POLL_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Returns frames over requests to the hub, each with the token of its time. Sends nothing before
/// HELLO.
pub(crate) fn http_frames(http: HttpClient, tokens: watch::Receiver<SecretString>) -> FrameChannel {
    let activity = LastActivity::new(Instant::now());
    let (outbox, outgoing) = mpsc::channel(WINDOW_BATCHES);
    let (incoming, mut inbox) = mpsc::channel(WINDOW_BATCHES);
    let requests = HubRequests { http, tokens, activity: activity.clone() };
    let transport = HttpTransport { requests, incoming };
    let mut running = Box::pin(transport.run(outgoing));
    let mut is_over = false;
    // The transport runs while the stream is polled, and ends with the channel.
    let frames = stream::poll_fn(move |cx| {
        if !is_over && running.as_mut().poll(cx).is_ready() {
            is_over = true;
        }
        match inbox.poll_recv(cx) {
            Poll::Pending if is_over => Poll::Ready(None),
            polled => polled,
        }
    });
    let outbox = PollSender::new(outbox).sink_map_err(|error| TransportError::Broken(error.into()));
    FrameChannel { frames: frames.boxed(), outbox: Box::pin(outbox), activity }
}

struct HttpTransport {
    requests: HubRequests,
    incoming: mpsc::Sender<Result<Frame, TransportError>>,
}

impl HttpTransport {
    async fn run(self, mut outgoing: mpsc::Receiver<Frame>) {
        let Some(Frame::Hello(hello)) = outgoing.recv().await else { return };
        let (welcome, position) = match self.open(*hello).await {
            Ok(opened) => opened,
            Err(error) => return self.end(error).await,
        };
        let generation = welcome.generation;
        if !self.deliver(Frame::Welcome(Box::new(welcome))).await {
            return;
        }
        let (pushes, to_push) = mpsc::channel(WINDOW_BATCHES);
        let (acks, acked) = watch::channel((Epoch::UNKNOWN, Seq::ZERO));
        let (holds, held) = watch::channel(false);
        let done = tokio::select! {
            () = self.dispatch(outgoing, pushes, acks, holds) => Ok(()),
            done = self.carry_up(generation, to_push) => done,
            done = self.carry_down(generation, position, acked) => done,
            done = self.keep_alive(held) => done,
        };
        if let Err(error) = done {
            self.end(error).await;
        }
    }

    async fn open(&self, hello: Hello) -> Result<(Welcome, PositionBody), HubRequestError> {
        let hello = HelloBody {
            version: hello.version,
            origin: hello.origin.into(),
            cursor: hello.cursor.into(),
            instance: Some(hello.instance).filter(|instance| instance.is_known()),
            partner: Some(hello.partner).filter(|partner| partner.is_known()),
        };
        let body = serde_json::to_vec(&hello).map_err(HubRequestError::Malformed)?;
        let welcome: WelcomeBody = self.requests.post("/session", None, body.into()).await?;
        let position = welcome.position;
        let welcome = Welcome {
            // The JSON bodies have no version numbers: they have the ones of this version, or they
            // do not parse.
            major: MAJOR,
            minor: MINOR,
            version: welcome.version,
            generation: welcome.generation,
            cursor: welcome.cursor.into(),
            origin: welcome.origin.into(),
            granted: welcome.granted.into(),
            heartbeat_ms: HEARTBEAT.as_millis() as u64,
            server_time_ms: welcome.server_time_ms,
            features: Features::default(),
            partner: welcome.partner,
        };
        Ok((welcome, position))
    }

    /// Dispatches the frames of the session to the requests. Returns when the session ends.
    async fn dispatch(
        &self,
        mut outgoing: mpsc::Receiver<Frame>,
        pushes: mpsc::Sender<Push>,
        acks: watch::Sender<(Epoch, Seq)>,
        holds: watch::Sender<bool>,
    ) {
        while let Some(frame) = outgoing.recv().await {
            match frame {
                // The window of the session is not larger than the queue.
                Frame::Push(push) => {
                    if pushes.send(push).await.is_err() {
                        return;
                    }
                }
                Frame::Ack(ack) => {
                    acks.send_replace((ack.epoch, ack.seq));
                }
                Frame::Goaway(_) => return,
                // No received entry is accepted any more, so none has an ACK.
                Frame::Hold(_) => {
                    holds.send_replace(true);
                }
                // A poll serves as a ping: on a working link its response arrives before a ping is
                // due.
                Frame::Ping | Frame::Hello(_) | Frame::Welcome(_) | Frame::Pong(_) => {}
            }
        }
    }

    async fn carry_up(
        &self,
        generation: u64,
        mut pushes: mpsc::Receiver<Push>,
    ) -> Result<(), HubRequestError> {
        while let Some(Push { epoch, after, through, entries, account, seal }) = pushes.recv().await
        {
            let batch = BatchBody {
                epoch: Some(epoch),
                after: Some(after),
                through: Some(through),
                entries: entries.into_iter().map(EntryBody::from).collect(),
                account,
                seal,
            };
            let body = serde_json::to_vec(&batch).map_err(HubRequestError::Malformed)?;
            let added = self.add(generation, body.into()).await?;
            let refused =
                added.refused.into_iter().map(|entry| (entry.seq, entry.reason)).collect();
            let ack = Ack { epoch, seq: added.seq, refused };
            if !self.deliver(Frame::Ack(ack)).await {
                break;
            }
        }
        Ok(())
    }

    /// Adds a batch. If this client exceeds its rate, waits and repeats it. If the stream at the hub
    /// cannot be used, retries until it can; the other direction continues.
    async fn add(&self, generation: u64, body: Bytes) -> Result<BatchAddedBody, HubRequestError> {
        let mut response = loop {
            let added = self.requests.post("/xadd", Some(generation), body.clone()).await;
            match added {
                Err(HubRequestError::Rejected(response)) if response.is_unusable_stream() => {
                    break response;
                }
                Err(HubRequestError::Rejected(response)) => match response.too_fast_wait() {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(HubRequestError::Rejected(response)),
                },
                added => return added,
            }
        };
        self.deliver(Frame::Hold(response.message.clone().unwrap_or_default())).await;
        let mut retry = unusable_retry();
        loop {
            tokio::time::sleep(retry.next(response.retry_after, rand::random())).await;
            // The session does not wait for a response any more, so a missing one is detected only
            // here.
            let again = self.requests.post("/xadd", Some(generation), body.clone());
            let again = tokio::time::timeout(PROGRESS_TIMEOUT, again).await;
            match again.map_err(|_| HubRequestError::Silent)? {
                Ok::<BatchAddedBody, _>(_) => return Err(HubRequestError::Recovered),
                Err(HubRequestError::Rejected(again)) if again.is_unusable_stream() => {
                    response = again
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// While no poll keeps the link alive, small requests do.
    async fn keep_alive(&self, mut held: watch::Receiver<bool>) -> Result<(), HubRequestError> {
        // A dropped sender is the end of the session, which `run` handles.
        if held.wait_for(|is_held| *is_held).await.is_err() {
            std::future::pending::<()>().await;
        }
        loop {
            self.requests.cursor().await?;
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    async fn carry_down(
        &self,
        generation: u64,
        position: PositionBody,
        mut acked: watch::Receiver<(Epoch, Seq)>,
    ) -> Result<(), HubRequestError> {
        let PositionBody { epoch, mut after, mut tally, mut joins_after, inherited, loss } =
            position;
        let mut unreported = loss;
        let mut retry = unusable_retry();
        loop {
            let started_at = Instant::now();
            let read = match self.requests.poll(generation, epoch, (after, tally)).await {
                Err(HubRequestError::Rejected(response)) if response.is_unusable_stream() => {
                    tokio::time::sleep(retry.next(response.retry_after, rand::random())).await;
                    continue;
                }
                polled => polled?,
            };
            retry.reset();
            if read.seq <= after {
                let early = POLL_INTERVAL_MIN.saturating_sub(started_at.elapsed());
                tokio::time::sleep(early).await;
                continue;
            }
            let (epoch, through) = (read.epoch, read.seq);
            let entries = read.entries.into_iter().map(Entry::from).collect();
            let mut account = read.account;
            account.losses.extend(unreported.take());
            account.is_inherited |= after < inherited;
            tally = account.tally;
            let push =
                Push { epoch, after: joins_after, through, entries, account, seal: read.seal };
            if !self.deliver(Frame::Push(push)).await {
                return Ok(());
            }
            let is_acked = |ack: &(Epoch, Seq)| *ack >= (epoch, through);
            if acked.wait_for(is_acked).await.is_err() {
                return Ok(());
            }
            (after, joins_after) = (through, through);
        }
    }

    /// Ends the stream of frames with the error, as a GOAWAY where the protocol has one.
    async fn end(&self, error: HubRequestError) {
        let last = match goaway(&error) {
            Some(goaway) => Ok(Frame::Goaway(goaway)),
            None => Err(TransportError::Broken(error.into())),
        };
        // A dropped receiver has ended already.
        let _ = self.incoming.send(last).await;
    }

    /// Returns false if the receiver was dropped.
    async fn deliver(&self, frame: Frame) -> bool {
        self.incoming.send(Ok(frame)).await.is_ok()
    }
}

/// Returns the delays for a stream that cannot be used, which an operator has to repair.
fn unusable_retry() -> RetryDelay {
    RetryDelay::new(CONNECT_RETRY.0, CONNECT_RETRY.1).with_initial_limit(CONNECT_SOON)
}

#[cfg(test)]
mod tests;
