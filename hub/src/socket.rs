//! A WebSocket that lets go of the memory of large messages.
//!
//! The library keeps a buffer as large as the largest message that it ever read or wrote, for as long
//! as the connection lives: ten thousand devices that once came back from a long outage would hold
//! gigabytes for nothing. So the library's state is made anew when it is empty. Whether it is cannot be
//! asked, but reckoned: what was read from the network is counted, and so is what the messages handed
//! out since took up at the least. Where both are the same nothing is left in between.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, Sink, Stream, TryFutureExt};
use http::{HeaderMap, HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use spoke_shared::{
    heard::{Listened, Listener},
    limits::{FRAME_BYTES_MAX, SOCKET_BYTES_KEPT},
    refusal::Refusal,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        handshake::server::create_response_with_body,
        protocol::{Role, WebSocketConfig},
    },
};

/// Bytes that a socket reads or gathers at a time. The library's 128 KiB each would be a gigabyte for
/// ten thousand idle agents.
const BUFFER_BYTES: usize = 2 * 1024;

/// The server's side of a WebSocket.
pub struct Socket<S = TokioIo<Upgraded>> {
    /// Always there, but while it is made anew.
    library: Option<WebSocketStream<Counted<S>>>,
    /// The least that the messages taken from it were on the wire, in bytes.
    taken: u64,
    /// The largest message since it was made, either way, in bytes.
    largest: usize,
    /// Nothing was handed over since the last flush that came to its end.
    is_flushed: bool,
    /// A close frame came or went: what the library knows of that has to stay.
    is_closing: bool,
}

/// The bytes read so far.
#[derive(Default)]
struct Count(u64);

type Counted<S> = Listened<S, Count>;

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Over a connection that was upgraded.
    pub fn new(stream: S) -> Self {
        Self {
            library: Some(library(stream)),
            taken: 0,
            largest: 0,
            is_flushed: true,
            is_closing: false,
        }
    }

    fn library(&mut self) -> Pin<&mut WebSocketStream<Counted<S>>> {
        Pin::new(self.library.as_mut().expect("it is put back"))
    }

    fn handle_message(&mut self, message: &Message) {
        self.taken += wire_bytes_min(message.len());
        self.largest = self.largest.max(message.len());
        self.is_closing |= message.is_close();
    }

    /// Whether it would be made anew, were its last bytes sent.
    fn is_worn(&mut self) -> bool {
        let is_spent = self.library().get_ref().listener().0 == self.taken;
        self.largest > SOCKET_BYTES_KEPT && is_spent && self.is_flushed && !self.is_closing
    }

    /// With nothing in it.
    fn renew(&mut self) {
        let stream = self.library.take().map(|library| library.into_inner().into_inner());
        self.library = stream.map(library);
        (self.taken, self.largest) = (0, 0);
    }
}

impl Listener for Count {
    fn handle_read(&mut self, bytes: usize) {
        self.0 += bytes as u64;
    }
}

/// Small, and so for as long as the messages are.
fn library<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<Counted<S>> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let counted = Listened::new(stream, Count::default());
    let made = WebSocketStream::from_raw_socket(counted, Role::Server, Some(config));
    made.now_or_never().expect("it waits for nobody")
}

/// What a client's message of so many bytes is on the wire, masked, at the least: in one frame, with the
/// shortest header that can say its length (RFC 6455, 5.2).
fn wire_bytes_min(payload: usize) -> u64 {
    let header = match payload {
        0..126 => 6,
        126..65_536 => 8,
        _ => 14,
    };
    header + payload as u64
}

/// A request that asks for a WebSocket, and what it is answered.
pub struct Upgrade {
    upgrade: OnUpgrade,
    headers: HeaderMap,
}

impl Upgrade {
    /// The answer, and what becomes of the connection once that is sent.
    pub fn accept(
        self,
        protocol: &'static str,
    ) -> (Response, impl Future<Output = Result<Socket, hyper::Error>>) {
        let Self { upgrade, mut headers } = self;
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        let upgraded = upgrade.map_ok(|upgraded| Socket::new(TokioIo::new(upgraded)));
        ((StatusCode::SWITCHING_PROTOCOLS, headers).into_response(), upgraded)
    }
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let refusal =
            |status, word| Refusal::new(status, word, "this path takes a WebSocket handshake only");
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let mut request = http::Request::new(());
        *request.method_mut() = parts.method.clone();
        *request.version_mut() = parts.version;
        request.headers_mut().clone_from(&parts.headers);
        match (upgrade, create_response_with_body(&request, || ())) {
            (Some(upgrade), Ok(response)) => {
                Ok(Self { upgrade, headers: response.into_parts().0.headers })
            }
            (
                _,
                Ok(_)
                | Err(Error::Protocol(
                    ProtocolError::MissingConnectionUpgradeHeader
                    | ProtocolError::MissingUpgradeWebSocketHeader,
                )),
            ) => Err(refusal(StatusCode::UPGRADE_REQUIRED, "upgrade-required")),
            (_, Err(_)) => Err(refusal(StatusCode::BAD_REQUEST, "not-a-websocket")),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for Socket<S> {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(next) = self.library().poll_next(cx) {
                if let Some(Ok(message)) = &next {
                    self.handle_message(message);
                }
                return Poll::Ready(next);
            }
            if !self.is_worn() {
                return Poll::Pending;
            }
            // Its own answers to pings are known to itself alone.
            if let Err(error) = ready!(self.library().poll_flush(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
            // And asked again, so that whoever waits is waited for by the new one.
            self.renew();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink<Message> for Socket<S> {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.library().poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        self.largest = self.largest.max(message.len());
        self.is_closing |= message.is_close();
        self.is_flushed = false;
        self.library().start_send(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = ready!(self.library().poll_flush(cx));
        self.is_flushed = true;
        Poll::Ready(flushed)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.is_closing = true;
        self.library().poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio_tungstenite::tungstenite::Bytes;

    use super::*;

    fn binary(length: usize, with: u8) -> Message {
        Message::Binary(Bytes::from(vec![with; length]))
    }

    /// Two ends, through a pipe that takes so many bytes at a time.
    async fn joined(pipe: usize) -> (Socket<DuplexStream>, WebSocketStream<DuplexStream>) {
        let (ours, theirs) = tokio::io::duplex(pipe);
        (Socket::new(ours), WebSocketStream::from_raw_socket(theirs, Role::Client, None).await)
    }

    /// Looks for a message that is not there.
    fn rest<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>) {
        assert!(socket.next().now_or_never().is_none(), "there is no further message");
    }

    #[tokio::test]
    async fn a_socket_lets_go_of_what_a_large_message_took_and_keeps_small_buffers() {
        let (mut socket, mut client) = joined(1 << 22).await;
        for (length, is_renewed) in [(100, false), (SOCKET_BYTES_KEPT + 1, true), (1 << 20, true)] {
            client.send(binary(length, 7)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), binary(length, 7));
            assert!(socket.largest >= length);
            rest(&mut socket);
            assert_eq!(socket.largest == 0, is_renewed, "{length} bytes in");
        }
        socket.send(binary(1 << 20, 8)).await.unwrap();
        rest(&mut socket);
        assert_eq!(socket.largest, 0, "1 MiB out");
        assert_eq!(client.next().await.unwrap().unwrap(), binary(1 << 20, 8));
    }

    #[tokio::test]
    async fn what_lies_in_the_buffer_is_never_lost_however_the_bytes_come() {
        for seed in 0..60 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut socket, mut client) = joined(random.random_range(1..20_000)).await;
            let sizes = [0, 1, 125, 126, 5_000, 65_535, 65_536, 200_000];
            let messages: Vec<_> = (0..40u8)
                .map(|n| match random.random_range(0..10) {
                    0 => Message::Ping(Bytes::from(vec![n; 9])),
                    _ => binary(sizes[random.random_range(0..sizes.len())], n),
                })
                .collect();
            let sent = messages.clone();
            let talking = tokio::spawn(async move {
                for message in sent {
                    client.send(message).await.unwrap();
                    if random.random_bool(0.3) {
                        tokio::task::yield_now().await;
                    }
                }
                let mut heard = Vec::new();
                while let Some(Ok(message)) = client.next().await {
                    match message {
                        Message::Pong(_) => {}
                        Message::Close(_) => break,
                        message => heard.push(message),
                    }
                }
                heard
            });
            let mut answers = Vec::new();
            for expected in messages {
                assert_eq!(socket.next().await.unwrap().unwrap(), expected, "seed {seed}");
                let answer = binary(expected.len() / 2, 9);
                // Taken by the other side only once it is done: it has to have room.
                answers.push(answer);
            }
            for answer in &answers {
                socket.send(answer.clone()).await.unwrap();
                rest(&mut socket);
            }
            socket.close().await.unwrap();
            assert_eq!(talking.await.unwrap(), answers, "seed {seed}");
        }
    }

    #[tokio::test]
    async fn frames_in_parts_and_with_long_headers_are_heard_whole() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut socket = Socket::new(ours);
        // Masked with zeros. The length of the first is said in eight bytes, where one would do.
        let head = |opcode: u8, length: usize| {
            let mut head = vec![opcode, 0xff];
            head.extend((length as u64).to_be_bytes());
            head.extend([0; 4]);
            head
        };
        let mut parts = vec![[head(0x82, 5), vec![1; 5]].concat()];
        parts.push([head(0x02, 9_000), vec![2; 9_000]].concat());
        parts.push([head(0x80, 3), vec![2; 3]].concat());
        parts.push([head(0x82, 6_000), vec![3; 6_000]].concat());
        for part in parts.concat().chunks(1_000) {
            theirs.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        for (length, with) in [(5, 1), (9_003, 2), (6_000, 3)] {
            assert_eq!(socket.next().await.unwrap().unwrap(), binary(length, with));
        }
        rest(&mut socket);
        assert!(socket.largest > 0, "where it cannot be reckoned, all stays");
        drop(socket);
        theirs.read_u8().await.unwrap_err();
    }
}
