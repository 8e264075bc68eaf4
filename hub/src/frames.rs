//! The frames that one agent's socket brings.
//!
//! Whoever has a token sends what they like, so decoding is bounded twice: before the handshake only a
//! short frame is looked at, and afterwards a long one is decoded on a thread of its own, since all
//! sockets of the hub are served by a few. Each message is charged to the task's budget: a socket that
//! always has another one would otherwise never let its timers and its neighbours have their turn.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream::SplitStream};
use spoke_shared::{
    limits::HELLO_BYTES_MAX,
    link::TransportError,
    wire::{
        frame::{Features, Frame},
        msgpack::Malformed,
    },
};
use tokio::task::{JoinHandle, coop};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use crate::socket::Socket;

/// How long the other side is listened to once the last words are said: a revoked session is closed
/// within a second.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// A stream of frames; of those that are malformed, the error.
pub struct Frames<S = SplitStream<Socket>> {
    messages: S,
    /// None before the handshake.
    agreed: Option<Features>,
    decoding: Option<JoinHandle<Result<Frame, Malformed>>>,
}

impl<S: Stream<Item = Result<Message, Error>> + Unpin> Frames<S> {
    /// Over the messages of a socket.
    pub fn new(messages: S) -> Self {
        Self { messages, agreed: None, decoding: None }
    }

    /// The handshake is done; it agreed on these features.
    pub fn agree(&mut self, features: Features) {
        self.agreed = Some(features);
    }

    /// Throws away, undecoded, what the other side still sends, until it closes or the time is up. A
    /// connection that is closed while bytes arrive is reset by TCP, and our last words with it.
    pub async fn discard(mut self) {
        let all = async { while let Some(Ok(_)) = self.next_message().await {} };
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, all).await;
    }

    async fn next_message(&mut self) -> Option<Result<Message, Error>> {
        std::future::poll_fn(|cx| self.poll_message(cx)).await
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        let budget = ready!(coop::poll_proceed(cx));
        let message = ready!(self.messages.poll_next_unpin(cx));
        budget.made_progress();
        Poll::Ready(message)
    }

    /// The frame in these bytes; none where it is decoded elsewhere.
    fn decode(&mut self, bytes: Bytes) -> Option<Result<Frame, Malformed>> {
        let Some(agreed) = self.agreed else {
            let is_short = bytes.len() <= HELLO_BYTES_MAX;
            let too_long = Malformed::Bound("length before the handshake");
            return Some(
                is_short
                    .then_some(())
                    .ok_or(too_long)
                    .and_then(|()| Frame::decode(bytes, Features::default())),
            );
        };
        if !Frame::is_long_to_decode(&bytes) {
            return Some(Frame::decode(bytes, agreed));
        }
        self.decoding = Some(tokio::task::spawn_blocking(move || Frame::decode(bytes, agreed)));
        None
    }
}

impl<S: Stream<Item = Result<Message, Error>> + Unpin> Stream for Frames<S> {
    type Item = Result<Frame, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(decoding) = &mut self.decoding {
                let decoded = ready!(Pin::new(decoding).poll(cx));
                self.decoding = None;
                return Poll::Ready(Some(match decoded {
                    Ok(frame) => frame.map_err(malformed),
                    Err(panic) => Err(TransportError::Broken(panic.into())),
                }));
            }
            let message = match ready!(self.poll_message(cx)) {
                Some(message) => message,
                None => return Poll::Ready(None),
            };
            let decoded = match message {
                Ok(Message::Binary(bytes)) => {
                    self.decode(bytes).map(|decoded| decoded.map_err(malformed))
                }
                Ok(Message::Text(_)) => Some(Err(malformed("a text message in a binary protocol"))),
                // Control messages are the WebSocket's own business.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {
                    None
                }
                Err(error @ Error::Capacity(_)) => Some(Err(malformed(error))),
                Err(error) => Some(Err(TransportError::Broken(error.into()))),
            };
            if decoded.is_some() {
                return Poll::Ready(decoded);
            }
        }
    }
}

fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TransportError {
    TransportError::Malformed(error.into())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::{FutureExt, stream};
    use spoke_shared::{
        entry::Entry, limits::DECODE_INLINE_BYTES_MAX, seq::Seq, wire::frame::Push,
    };

    use super::*;

    /// A socket that always has another message, and never waits.
    fn endless(bytes: Bytes) -> Frames<impl Stream<Item = Result<Message, Error>> + Unpin> {
        Frames::new(stream::repeat_with(move || Ok(Message::Binary(bytes.clone()))))
    }

    fn push(value_bytes: usize) -> Frame {
        let fields = vec![(Bytes::from_static(b"v"), Bytes::from(vec![7; value_bytes]))];
        let entries = vec![Entry { seq: Seq::new(1, 0), fields }];
        Frame::Push(Push { through: Seq::new(1, 0), entries, ..Push::default() })
    }

    #[tokio::test]
    async fn what_comes_after_the_last_words_is_thrown_away_undecoded_and_not_for_long() {
        let begun = Instant::now();
        endless(push(200_000).encode(Features::COMPRESSION)).discard().await;
        let taken = begun.elapsed();
        assert!(taken >= DISCARD_TIMEOUT && taken < 2 * DISCARD_TIMEOUT, "{taken:?}");
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
