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
    admission::Intake,
    socket::{Incoming, Socket, busy, discard, flood},
};
use crate::{cpu_pool::offload, limits::HELLO_BYTES_MAX, memory_budget::Charge};

/// Frames up to this size are not charged. Pings and acknowledgements are shorter.
const UNCHARGED_BYTES: usize = 64;

/// Stream of decoded frames, or the decoding error.
pub struct Frames<S = SplitStream<Socket>> {
    messages: S,
    /// Features agreed in the handshake; `None` before it.
    agreed: Option<Features>,
    /// Admission of batches; `None` before the handshake.
    intake: Option<Intake>,
    step: Step,
}

/// Processing stage of the last message.
enum Step {
    None,
    Charging(BoxFuture<'static, Result<(Bytes, Charge), ApiError>>),
    Decoding(BoxFuture<'static, Result<Result<Frame, DecodeError>, JoinError>>, Option<Charge>),
    Admitting(BoxFuture<'static, Frame>),
    /// The memory budget is exhausted; the session is about to end.
    Refused,
}

impl<S: Stream<Item = Result<M, Error>> + Unpin, M: Into<Incoming>> Frames<S> {
    /// Creates a stream over the messages of a socket.
    pub fn new(messages: S) -> Self {
        Self { messages, agreed: None, intake: None, step: Step::None }
    }

    /// Sets the features agreed in the handshake.
    pub fn agree(&mut self, features: Features) {
        self.agreed = Some(features);
    }

    /// Charges and admits frames from now on.
    pub fn take_in(&mut self, intake: Intake) {
        self.intake = Some(intake);
    }

    /// Reads and drops the peer's remaining messages without decoding them.
    pub async fn discard(mut self) {
        discard(&mut self.messages).await;
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Incoming, Error>>> {
        let budget = ready!(coop::poll_proceed(cx));
        let message = ready!(self.messages.poll_next_unpin(cx));
        budget.made_progress();
        Poll::Ready(message.map(|message| message.map(Into::into)))
    }

    /// Handles a message. Returns its frame if no further step is needed.
    fn handle_message(&mut self, incoming: Incoming) -> Option<Result<Frame, TransportError>> {
        let Incoming { message, charge } = incoming;
        match message {
            Message::Binary(bytes) => match &self.intake {
                Some(intake) if bytes.len() > UNCHARGED_BYTES => {
                    self.step = Step::Charging(intake.charge(bytes, charge));
                    None
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
        if let (Some(refusal), Some(intake)) = (busy(&error), &self.intake) {
            intake.handle_refused(refusal);
            self.step = Step::Refused;
            return None;
        }
        Some(Err(match flood(&error) {
            Some(flood) => malformed(flood),
            None if matches!(error, Error::Capacity(_)) => malformed(error),
            None => TransportError::Broken(error.into()),
        }))
    }

    /// Decodes a frame, on the CPU pool if it is long.
    fn decode(
        &mut self,
        bytes: Bytes,
        charge: Option<Charge>,
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
        let decoding = offload(move || Frame::decode(bytes, agreed)).boxed();
        self.step = Step::Decoding(decoding, charge);
        None
    }

    fn handle_decoded(
        &mut self,
        decoded: Result<Frame, DecodeError>,
        charge: Option<Charge>,
    ) -> Option<Result<Frame, TransportError>> {
        match (decoded, &self.intake) {
            (Ok(Frame::Push(push)), Some(intake)) => {
                self.step = Step::Admitting(intake.admit(push, charge));
                None
            }
            (decoded, _) => Some(decoded.map_err(malformed)),
        }
    }

    /// Polls the current stage. Returns the frame when it is complete.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, TransportError>>> {
        match &mut self.step {
            Step::None => Poll::Ready(None),
            Step::Charging(charging) => {
                let charged = ready!(charging.as_mut().poll(cx));
                self.step = Step::None;
                match charged {
                    Ok((bytes, charge)) => Poll::Ready(self.decode(bytes, Some(charge))),
                    Err(refusal) => {
                        self.intake.iter().for_each(|intake| intake.handle_refused(&refusal));
                        self.step = Step::Refused;
                        Poll::Pending
                    }
                }
            }
            Step::Decoding(decoding, charge) => {
                let decoded = ready!(decoding.poll_unpin(cx));
                let charge = charge.take();
                self.step = Step::None;
                Poll::Ready(match decoded {
                    Ok(decoded) => self.handle_decoded(decoded, charge),
                    Err(panic) => Some(Err(TransportError::Broken(panic.into()))),
                })
            }
            Step::Admitting(admitting) => {
                let frame = ready!(admitting.as_mut().poll(cx));
                self.step = Step::None;
                Poll::Ready(Some(Ok(frame)))
            }
            Step::Refused => Poll::Pending,
        }
    }
}

impl<S, M> Stream for Frames<S>
where
    S: Stream<Item = Result<M, Error>> + Unpin,
    M: Into<Incoming>,
{
    type Item = Result<Frame, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(frame) = ready!(self.poll_step(cx)) {
                return Poll::Ready(Some(frame));
            }
            if !matches!(self.step, Step::None) {
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
    use spoke_protocol::{entry::Entry, limits::DECODE_INLINE_BYTES_MAX, message::Push, seq::Seq};

    use super::*;

    /// A socket that always has another message ready.
    fn endless(bytes: Bytes) -> Frames<impl Stream<Item = Result<Message, Error>> + Unpin> {
        Frames::new(stream::repeat_with(move || Ok(Message::Binary(bytes.clone()))))
    }

    fn push(value_bytes: usize) -> Frame {
        let fields = vec![(Bytes::from_static(b"v"), Bytes::from(vec![7; value_bytes]))];
        let entries = vec![Entry { seq: Seq::new(1, 0), fields }];
        Frame::Push(Push { through: Seq::new(1, 0), entries, ..Push::default() })
    }

    #[tokio::test]
    async fn a_socket_that_always_has_a_frame_lets_others_have_their_turn() {
        let mut frames = endless(Frame::Ping.encode(Features(0)));
        frames.agree(Features(0));
        let flood = async { while frames.next().await.is_some() {} };
        let other = tokio::time::sleep(Duration::from_millis(5));
        tokio::time::timeout(Duration::from_millis(500), async {
            tokio::select! {
                () = flood => unreachable!("it has no end"),
                () = other => {}
            }
        })
        .await
        .expect("the other has its turn");
    }

    #[tokio::test]
    async fn before_the_handshake_a_long_frame_is_not_looked_at() {
        let bytes = push(HELLO_BYTES_MAX).encode(Features(0));
        let Some(Err(TransportError::Malformed(error))) = endless(bytes.clone()).next().await
        else {
            panic!("it is refused")
        };
        assert!(error.to_string().contains("before the handshake"), "{error}");
        let mut frames = endless(bytes);
        frames.agree(Features(0));
        assert!(matches!(frames.next().await, Some(Ok(Frame::Push(_)))));
    }

    #[tokio::test]
    async fn a_packed_frame_is_taken_only_where_the_handshake_agreed_on_it() {
        let packed = push(10_000).encode(Features::COMPRESSION);
        for (agreed, is_taken) in [(Features(0), false), (Features::COMPRESSION, true)] {
            let mut frames = endless(packed.clone());
            frames.agree(agreed);
            assert_eq!(frames.next().await.unwrap().is_ok(), is_taken, "{agreed:?}");
        }
        assert!(endless(packed).next().await.unwrap().is_err(), "nor before it");
    }

    #[tokio::test]
    async fn a_long_frame_is_decoded_where_no_socket_waits_for_it_and_stays_in_its_order() {
        let long = push(DECODE_INLINE_BYTES_MAX + 1);
        let messages = [&long, &Frame::Ping].map(|frame| frame.encode(Features(0)));
        let messages = messages.map(|bytes| Ok(Message::Binary(bytes)));
        let mut frames = Frames::new(stream::iter(messages));
        frames.agree(Features(0));
        assert!(frames.next().now_or_never().is_none(), "it is under way elsewhere");
        assert_eq!(frames.next().await.unwrap().unwrap(), long);
        assert_eq!(frames.next().await.unwrap().unwrap(), Frame::Ping);
    }
}
