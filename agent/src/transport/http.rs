//! The same frames over plain requests, where a WebSocket cannot be had: HELLO is `POST /session`,
//! PUSH is `POST /xadd` and its answer the ACK, and a long poll of `GET /xread` brings PUSH down.
//!
//! The ACK of what came down is the `seq` of the next poll, so there is one batch under way down,
//! and one after the other go up: requests beside each other would arrive in any order. What
//! goes up and what comes down never wait for each other.
//!
//! Nothing is tried again here, but what stands still for a stream of the hub that cannot be used. A request that fails ends the session, like a WebSocket that
//! breaks, and the handshake sorts out what arrived. No request has a time limit either: the
//! session sees that no byte comes, and drops the line with all that is under way.

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
    backoff::RetryDelay,
    entry::Entry,
    limits::{HEARTBEAT, PROGRESS_TIMEOUT, WINDOW_BATCHES},
    message::{Ack, Features, Frame, Hello, MAJOR, MINOR, Push, Welcome},
    seq::{Epoch, Seq},
    wire::json::{BatchAddedBody, BatchBody, EntryBody, HelloBody, PositionBody, WelcomeBody},
};
use spoke_service::last_activity::LastActivity;
use spoke_store::driver::TransportError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::PollSender;

use self::requests::{Fault, Requests, goaway};
use super::Line;
use crate::{
    http_client::Http,
    limits::{CONNECT_RETRY, CONNECT_SOON},
};

/// The least time from one poll that brings nothing to the next: a hub that stops ends them early.
const POLL_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Frames over requests to the hub, each with the token as it is then. Nothing is sent before HELLO.
pub fn line(http: Http, tokens: watch::Receiver<SecretString>) -> Line {
    let heard = LastActivity::new(Instant::now());
    let (outbox, outgoing) = mpsc::channel(WINDOW_BATCHES);
    let (incoming, mut inbox) = mpsc::channel(WINDOW_BATCHES);
    let requests = Requests { http, tokens, heard: heard.clone() };
    let courier = Courier { requests, incoming };
    let mut carrying = Box::pin(courier.carry(outgoing));
    let mut is_over = false;
    // The courier runs as long as somebody waits for frames, and ends with the line.
    let frames = stream::poll_fn(move |cx| {
        if !is_over && carrying.as_mut().poll(cx).is_ready() {
            is_over = true;
        }
        match inbox.poll_recv(cx) {
            Poll::Pending if is_over => Poll::Ready(None),
            polled => polled,
        }
    });
    let outbox = PollSender::new(outbox).sink_map_err(|error| TransportError::Broken(error.into()));
    Line { frames: frames.boxed(), outbox: Box::pin(outbox), heard }
}

struct Courier {
    requests: Requests,
    incoming: mpsc::Sender<Result<Frame, TransportError>>,
}

impl Courier {
    async fn carry(self, mut outgoing: mpsc::Receiver<Frame>) {
        let Some(Frame::Hello(hello)) = outgoing.recv().await else { return };
        let (welcome, position) = match self.open(*hello).await {
            Ok(opened) => opened,
            Err(fault) => return self.end(fault).await,
        };
        let generation = welcome.generation;
        if !self.deliver(Frame::Welcome(Box::new(welcome))).await {
            return;
        }
        let (pushes, to_push) = mpsc::channel(WINDOW_BATCHES);
        let (acks, acked) = watch::channel((Epoch::UNKNOWN, Seq::ZERO));
        let (holds, held) = watch::channel(false);
        let done = tokio::select! {
            () = self.sort(outgoing, pushes, (acks, holds)) => Ok(()),
            done = self.carry_up(generation, to_push) => done,
            done = self.carry_down(generation, position, acked) => done,
            done = self.stay(held) => done,
        };
        if let Err(fault) = done {
            self.end(fault).await;
        }
    }

    async fn open(&self, hello: Hello) -> Result<(Welcome, PositionBody), Fault> {
        let form = HelloBody {
            version: hello.version,
            origin: hello.origin.into(),
            cursor: hello.cursor.into(),
            instance: Some(hello.instance).filter(|instance| instance.is_known()),
            partner: Some(hello.partner).filter(|partner| partner.is_known()),
        };
        let body = serde_json::to_vec(&form).map_err(Fault::Malformed)?;
        let form: WelcomeBody = self.requests.post("/session", None, body.into()).await?;
        let welcome = Welcome {
            // The forms carry no numbers: they are the ones of this version or they do not parse.
            major: MAJOR,
            minor: MINOR,
            version: form.version,
            generation: form.generation,
            cursor: form.cursor.into(),
            origin: form.origin.into(),
            granted: form.granted.into(),
            heartbeat_ms: HEARTBEAT.as_millis() as u64,
            server_time_ms: form.server_time_ms,
            features: Features::default(),
            partner: form.partner,
        };
        Ok((welcome, form.position))
    }

    /// Takes what the session says to where it belongs. Ends when the session does.
    async fn sort(
        &self,
        mut outgoing: mpsc::Receiver<Frame>,
        pushes: mpsc::Sender<Push>,
        (acks, holds): (watch::Sender<(Epoch, Seq)>, watch::Sender<bool>),
    ) {
        while let Some(frame) = outgoing.recv().await {
            match frame {
                // Its window is no larger than the queue.
                Frame::Push(push) => {
                    if pushes.send(push).await.is_err() {
                        return;
                    }
                }
                Frame::Ack(ack) => {
                    acks.send_replace((ack.epoch, ack.seq));
                }
                Frame::Goaway(_) => return,
                // Nothing that comes down is taken any more, and so none has an ACK.
                Frame::Hold(_) => {
                    holds.send_replace(true);
                }
                // A poll is a ping: on a link that works its answer comes before one is due.
                Frame::Ping | Frame::Hello(_) | Frame::Welcome(_) | Frame::Pong(_) => {}
            }
        }
    }

    async fn carry_up(
        &self,
        generation: u64,
        mut pushes: mpsc::Receiver<Push>,
    ) -> Result<(), Fault> {
        while let Some(Push { epoch, after, through, entries, account, seal }) = pushes.recv().await
        {
            let form = BatchBody {
                epoch: Some(epoch),
                after: Some(after),
                through: Some(through),
                entries: entries.into_iter().map(EntryBody::from).collect(),
                account,
                seal,
            };
            let body = serde_json::to_vec(&form).map_err(Fault::Malformed)?;
            let added = self.add(generation, body.into()).await?;
            let refused = added.refused.into_iter().map(|form| (form.seq, form.reason)).collect();
            let ack = Ack { epoch, seq: added.seq, refused };
            if !self.deliver(Frame::Ack(ack)).await {
                break;
            }
        }
        Ok(())
    }

    /// Where the stream at the hub cannot be used, it is tried again until it can: what comes down goes on
    /// meanwhile.
    async fn add(&self, generation: u64, body: Bytes) -> Result<BatchAddedBody, Fault> {
        let first = self.requests.post("/xadd", Some(generation), body.clone()).await;
        let Err(Fault::Denied(mut denial)) = first else { return first };
        if !denial.is_of_stream() {
            return Err(Fault::Denied(denial));
        }
        self.deliver(Frame::Hold(denial.message.clone().unwrap_or_default())).await;
        let mut retry = unusable_retry();
        loop {
            tokio::time::sleep(retry.next(denial.retry_after, rand::random())).await;
            // The session waits for no answer any more, so nobody else sees that none comes.
            let again = self.requests.post("/xadd", Some(generation), body.clone());
            let again = tokio::time::timeout(PROGRESS_TIMEOUT, again).await;
            match again.map_err(|_| Fault::Silent)? {
                Ok::<BatchAddedBody, _>(_) => return Err(Fault::Recovered),
                Err(Fault::Denied(again)) if again.is_of_stream() => denial = again,
                Err(fault) => return Err(fault),
            }
        }
    }

    /// While no poll does so, small requests show that the link is there.
    async fn stay(&self, mut held: watch::Receiver<bool>) -> Result<(), Fault> {
        // Nobody to hold anything is the end of the session, which is seen elsewhere.
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
    ) -> Result<(), Fault> {
        let PositionBody { epoch, mut after, mut tally, mut joins_after, inherited, loss } =
            position;
        let mut untold = loss;
        let mut retry = unusable_retry();
        loop {
            let asked_at = Instant::now();
            let form = match self.requests.poll(generation, epoch, (after, tally)).await {
                Err(Fault::Denied(denial)) if denial.is_of_stream() => {
                    tokio::time::sleep(retry.next(denial.retry_after, rand::random())).await;
                    continue;
                }
                polled => polled?,
            };
            retry.reset();
            if form.seq <= after {
                let early = POLL_INTERVAL_MIN.saturating_sub(asked_at.elapsed());
                tokio::time::sleep(early).await;
                continue;
            }
            let (epoch, through) = (form.epoch, form.seq);
            let entries = form.entries.into_iter().map(Entry::from).collect();
            let mut account = form.account;
            account.losses.extend(untold.take());
            account.is_inherited |= after < inherited;
            tally = account.tally;
            let push =
                Push { epoch, after: joins_after, through, entries, account, seal: form.seal };
            if !self.deliver(Frame::Push(push)).await {
                return Ok(());
            }
            let is_kept = |ack: &(Epoch, Seq)| *ack >= (epoch, through);
            if acked.wait_for(is_kept).await.is_err() {
                return Ok(());
            }
            (after, joins_after) = (through, through);
        }
    }

    /// Says why it is over, in the words of the protocol where there are any.
    async fn end(&self, fault: Fault) {
        let last = match goaway(&fault) {
            Some(goaway) => Ok(Frame::Goaway(goaway)),
            None => Err(TransportError::Broken(fault.into())),
        };
        // Nobody there to hear it is the same end.
        let _ = self.incoming.send(last).await;
    }

    /// False when nobody waits for frames any more.
    async fn deliver(&self, frame: Frame) -> bool {
        self.incoming.send(Ok(frame)).await.is_ok()
    }
}

/// A person has to mend it.
fn unusable_retry() -> RetryDelay {
    RetryDelay::new(CONNECT_RETRY.0, CONNECT_RETRY.1).with_initial_limit(CONNECT_SOON)
}

#[cfg(test)]
mod tests;
