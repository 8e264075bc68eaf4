//! Stream of frames from one agent's WebSocket.
//!
//! Clients are not trusted, so decoding is bounded twice: before the handshake only short frames
//! are decoded, and afterwards long ones are decoded on the CPU pool, since a few threads serve all
//! sockets. Each message is charged to tokio's cooperative budget: otherwise a socket with a
//! constant stream of messages would starve its own timers and other tasks.
//!
//! The memory of a frame is charged to the hub's budget before decoding, and held until its entries
//! are in the copy. Reading pauses while the budget is exhausted or the client exceeds its rate.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::SplitStream};
use spoke_protocol::{
    message::{Features, Frame},
    wire::msgpack::DecodeError,
};
use spoke_service::api_error::ApiError;
use spoke_store::driver::TransportError;
use tokio::task::{JoinError, coop};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::{
    admission::{Admitted, BatchAdmission},
    socket::{ReceivedMessage, ServerSocket, budget_refusal, discard, frame_flood},
};
use crate::{cpu_pool::run_on_cpu_pool, limits::HELLO_BYTES_MAX, memory_budget::MemoryCharge};

/// Frames up to this size are not charged. Pings and acknowledgements are shorter.
const UNCHARGED_BYTES: usize = 64;

/// Stream of decoded frames, or the decoding error.
pub(crate) struct FrameStream<S = SplitStream<ServerSocket>> {
    messages: S,
    /// Features agreed in the handshake; `None` before it.
    agreed: Option<Features>,
    /// Admission of batches; `None` before the handshake.
    admission: Option<BatchAdmission>,
    stage: FrameStage,
}

/// Processing stage of the last message.
enum FrameStage {
    None,
    Charging(BoxFuture<'static, Result<(Bytes, MemoryCharge), ApiError>>),
    Decoding(
        BoxFuture<'static, Result<Result<Frame, DecodeError>, JoinError>>,
        Option<MemoryCharge>,
    ),
    Admitting(BoxFuture<'static, Frame>),
    /// The memory budget is exhausted; the session is about to end.
    Refused,
}

impl<S: Stream<Item = Result<M, Error>> + Unpin, M: Into<ReceivedMessage>> FrameStream<S> {
    /// Creates a stream over the messages of a socket.
    pub(crate) fn new(messages: S) -> Self {
        Self { messages, agreed: None, admission: None, stage: FrameStage::None }
    }

    /// Sets the features agreed in the handshake.
    pub(crate) fn set_features(&mut self, features: Features) {
        self.agreed = Some(features);
    }

    /// Charges and admits frames from now on.
    pub(crate) fn set_admission(&mut self, admission: BatchAdmission) {
        self.admission = Some(admission);
    }

    /// Reads and drops the peer's remaining messages without decoding them.
    pub(crate) async fn discard(&mut self) {
        discard(&mut self.messages).await;
    }

    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<ReceivedMessage, Error>>> {
        let budget = ready!(coop::poll_proceed(cx));
        let message = ready!(self.messages.poll_next_unpin(cx));
        budget.made_progress();
        Poll::Ready(message.map(|message| message.map(Into::into)))
    }

    /// Handles a message. Returns its frame if no further step is needed.
    fn handle_message(
        &mut self,
        incoming: ReceivedMessage,
    ) -> Option<Result<Frame, TransportError>> {
        let ReceivedMessage { message, charge } = incoming;
        match message {
            Message::Binary(bytes) => match &self.admission {
                Some(admission) if bytes.len() > UNCHARGED_BYTES => {
                    match admission.charge(bytes, charge) {
                        Admitted::Now((bytes, charge)) => self.decode(bytes, Some(charge)),
                        Admitted::Later(charging) => {
                            self.stage = FrameStage::Charging(charging);
                            None
                        }
                    }
                }
                Some(_) | None => self.decode(bytes, charge),
            },
            Message::Text(_) => {
                Some(Err(malformed("unexpected text message in a binary protocol")))
            }
            // The library answers control messages.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => None,
        }
    }

    fn handle_error(&mut self, error: Error) -> Option<Result<Frame, TransportError>> {
        if let (Some(refusal), Some(admission)) = (budget_refusal(&error), &self.admission) {
            admission.handle_refused(refusal);
            self.stage = FrameStage::Refused;
            return None;
        }
        Some(Err(match frame_flood(&error) {
            Some(flood) => malformed(flood),
            None if matches!(error, Error::Capacity(_)) => malformed(error),
            None => TransportError::Broken(error.into()),
        }))
    }

    /// Decodes a frame, on the CPU pool if it is long.
    fn decode(
        &mut self,
        bytes: Bytes,
        charge: Option<MemoryCharge>,
    ) -> Option<Result<Frame, TransportError>> {
        let Some(agreed) = self.agreed else {
            if bytes.len() > HELLO_BYTES_MAX {
                return Some(Err(malformed(DecodeError::Bound("length before the handshake"))));
            }
            return Some(Frame::decode(bytes, Features::default()).map_err(malformed));
        };
        if !Frame::is_long_to_decode(&bytes) {
            return self.handle_decoded(Frame::decode(bytes, agreed), charge);
        }
        let decoding = run_on_cpu_pool(move || Frame::decode(bytes, agreed)).boxed();
        self.stage = FrameStage::Decoding(decoding, charge);
        None
    }

    fn handle_decoded(
        &mut self,
        decoded: Result<Frame, DecodeError>,
        charge: Option<MemoryCharge>,
    ) -> Option<Result<Frame, TransportError>> {
        match (decoded, &self.admission) {
            (Ok(Frame::Push(push)), Some(admission)) => match admission.admit(push, charge) {
                Admitted::Now(frame) => Some(Ok(frame)),
                Admitted::Later(admitting) => {
                    self.stage = FrameStage::Admitting(admitting);
                    None
                }
            },
            (decoded, _) => Some(decoded.map_err(malformed)),
        }
    }

    /// Polls the current stage. Returns the frame when it is complete.
    fn poll_stage(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, TransportError>>> {
        match &mut self.stage {
            FrameStage::None => Poll::Ready(None),
            FrameStage::Charging(charging) => {
                let charged = ready!(charging.as_mut().poll(cx));
                self.stage = FrameStage::None;
                match charged {
                    Ok((bytes, charge)) => Poll::Ready(self.decode(bytes, Some(charge))),
                    Err(refusal) => {
                        self.admission
                            .iter()
                            .for_each(|admission| admission.handle_refused(&refusal));
                        self.stage = FrameStage::Refused;
                        Poll::Pending
                    }
                }
            }
            FrameStage::Decoding(decoding, charge) => {
                let decoded = ready!(decoding.poll_unpin(cx));
                let charge = charge.take();
                self.stage = FrameStage::None;
                Poll::Ready(match decoded {
                    Ok(decoded) => self.handle_decoded(decoded, charge),
                    Err(panic) => Some(Err(TransportError::Broken(panic.into()))),
                })
            }
            FrameStage::Admitting(admitting) => {
                let frame = ready!(admitting.as_mut().poll(cx));
                self.stage = FrameStage::None;
                Poll::Ready(Some(Ok(frame)))
            }
            FrameStage::Refused => Poll::Pending,
        }
    }
}

impl<S, M> Stream for FrameStream<S>
where
    S: Stream<Item = Result<M, Error>> + Unpin,
    M: Into<ReceivedMessage>,
{
    type Item = Result<Frame, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(frame) = ready!(self.poll_stage(cx)) {
                return Poll::Ready(Some(frame));
            }
            if !matches!(self.stage, FrameStage::None) {
                continue;
            }
            let frame = match ready!(self.poll_message(cx)) {
                Some(Ok(incoming)) => self.handle_message(incoming),
                Some(Err(error)) => self.handle_error(error),
                None => return Poll::Ready(None),
            };
            if frame.is_some() {
                return Poll::Ready(frame);
            }
        }
    }
}

fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TransportError {
    TransportError::Malformed(error.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, stream};
    use spoke_protocol::{Entry, Seq, limits::DECODE_INLINE_BYTES_MAX, message::Push};

    use super::*;

    /// Returns a socket that always has another message ready.
    fn endless(bytes: Bytes) -> FrameStream<impl Stream<Item = Result<Message, Error>> + Unpin> {
        FrameStream::new(stream::repeat_with(move || Ok(Message::Binary(bytes.clone()))))
    }

    fn push(value_bytes: usize) -> Frame {
        let fields = vec![(Bytes::from_static(b"v"), Bytes::from(vec![7; value_bytes]))];
        let entries = vec![Entry { seq: Seq::new(1, 0), fields }];
        Frame::Push(Push { through: Seq::new(1, 0), entries, ..Push::default() })
    }

    #[tokio::test]
    async fn a_socket_that_always_has_a_frame_yields_to_other_tasks() {
        let mut frames = endless(Frame::Ping.encode(Features(0)));
        frames.set_features(Features(0));
        let flood = async { while frames.next().await.is_some() {} };
        let other = tokio::time::sleep(Duration::from_millis(5));
        tokio::time::timeout(Duration::from_millis(500), async {
            tokio::select! {
                () = flood => unreachable!("the stream is endless"),
                () = other => {}
            }
        })
        .await
        .expect("the other task did not run");
    }

    #[tokio::test]
    async fn before_the_handshake_a_long_frame_is_refused() {
        let bytes = push(HELLO_BYTES_MAX).encode(Features(0));
        let Some(Err(TransportError::Malformed(error))) = endless(bytes.clone()).next().await
        else {
            panic!("the long frame was accepted")
        };
        assert!(error.to_string().contains("before the handshake"), "{error}");
        let mut frames = endless(bytes);
        frames.set_features(Features(0));
        assert!(matches!(frames.next().await, Some(Ok(Frame::Push(_)))));
    }

    #[tokio::test]
    async fn a_packed_frame_is_accepted_only_if_the_handshake_agreed_on_it() {
        let packed = push(10_000).encode(Features::COMPRESSION);
        for (agreed, is_accepted) in [(Features(0), false), (Features::COMPRESSION, true)] {
            let mut frames = endless(packed.clone());
            frames.set_features(agreed);
            assert_eq!(frames.next().await.unwrap().is_ok(), is_accepted, "{agreed:?}");
        }
        assert!(
            endless(packed).next().await.unwrap().is_err(),
            "nothing packed is accepted before the handshake"
        );
    }

    #[tokio::test]
    async fn a_long_frame_is_decoded_on_another_thread_and_stays_in_order() {
        let long = push(DECODE_INLINE_BYTES_MAX + 1);
        let messages = [&long, &Frame::Ping].map(|frame| frame.encode(Features(0)));
        let messages = messages.map(|bytes| Ok(Message::Binary(bytes)));
        let mut frames = FrameStream::new(stream::iter(messages));
        frames.set_features(Features(0));
        assert!(frames.next().now_or_never().is_none(), "it is decoded on another thread");
        assert_eq!(frames.next().await.unwrap().unwrap(), long);
        assert_eq!(frames.next().await.unwrap().unwrap(), Frame::Ping);
    }
}
