//! A WebSocket that lets go of the memory of large messages.
//!
//! The library keeps a buffer as large as the largest message that it ever read or wrote, for as long
//! as the connection lives: ten thousand devices that once came back from a long outage would hold
//! gigabytes for nothing. So the library's state is made anew when it is empty. Whether it is cannot be
//! asked, but counted: the frames that came in are, and so are the messages handed out. Where both are
//! the same nothing is left in between.

mod watched;

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, Sink, Stream, StreamExt, TryFutureExt};
use http::{HeaderMap, HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use spoke_protocol::{client_id::ClientId, limits::FRAME_BYTES_MAX, wire::websocket::FrameFlood};
use spoke_service::api_error::ApiError;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        handshake::server::create_response_with_body,
        protocol::{Role, WebSocketConfig},
    },
};

use self::watched::{Account, Watched};
use crate::{
    budget::{Budget, Charge},
    limits::SOCKET_BYTES_KEPT,
};

/// Bytes that a socket reads or gathers at a time. The library's 128 KiB each would be a gigabyte for
/// ten thousand idle agents.
const BUFFER_BYTES: usize = 2 * 1024;
/// How long the other side is listened to once the last words are said: a revoked session is closed
/// within a second.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// The server's side of a WebSocket.
pub struct Socket<S = TokioIo<Upgraded>> {
    /// Always there, but while it is made anew.
    library: Option<WebSocketStream<Watched<S>>>,
    /// How many messages were taken from it.
    taken: u64,
    /// The largest message since it was made, either way, in bytes.
    largest: usize,
    /// Nothing was handed over since the last flush that came to its end.
    is_flushed: bool,
    /// A close frame came or went: what the library knows of that has to stay.
    is_closing: bool,
    /// Its frames were not fit to be read: what still comes is thrown away.
    has_failed: bool,
    /// What the messages are charged to.
    account: Option<Account>,
    /// For a large message on its way out.
    outgoing: Option<Charge>,
}

/// A message, and what it is charged with until it is done with.
pub struct Incoming {
    /// The message.
    pub message: Message,
    /// None for a small one.
    pub charge: Option<Charge>,
}

impl From<Message> for Incoming {
    fn from(message: Message) -> Self {
        Self { message, charge: None }
    }
}

/// Why the other side's frames are not taken: what it does wrong.
pub fn flood(error: &Error) -> Option<FrameFlood> {
    let Error::Io(error) = error else { return None };
    error.get_ref()?.downcast_ref().copied()
}

/// That there was no room for what the other side sends.
pub fn busy(error: &Error) -> Option<&ApiError> {
    let Error::Io(error) = error else { return None };
    error.get_ref()?.downcast_ref()
}

/// Throws away what the other side still sends, until it closes or the time is up. A connection that is
/// closed while bytes arrive is reset by TCP, and our last words with it.
pub async fn discard(messages: &mut (impl Stream + Unpin)) {
    let all = async {
        while messages.next().await.is_some() {
            coop::consume_budget().await;
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, all).await;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Over a connection that was upgraded.
    pub fn new(stream: S) -> Self {
        Self {
            library: Some(library(Watched::new(stream))),
            taken: 0,
            largest: 0,
            is_flushed: true,
            is_closing: false,
            has_failed: false,
            account: None,
            outgoing: None,
        }
    }

    /// Charges what comes and goes to this client.
    pub fn charge_to(&mut self, budget: &Budget, client: &ClientId) {
        let account = Account { budget: budget.clone(), client: client.clone() };
        self.watched().charge_to(account.clone());
        self.account = Some(account);
    }

    fn library(&mut self) -> Pin<&mut WebSocketStream<Watched<S>>> {
        Pin::new(self.library.as_mut().expect("it is put back"))
    }

    fn watched(&mut self) -> &mut Watched<S> {
        self.library.as_mut().expect("it is put back").get_mut()
    }

    fn handle_message(&mut self, message: Message) -> Incoming {
        self.taken += 1;
        self.largest = self.largest.max(message.len());
        self.is_closing |= message.is_close();
        let is_data = message.is_binary() || message.is_text();
        let charge = if is_data { self.watched().take_charge() } else { None };
        Incoming { message, charge }
    }

    /// Whether it would be made anew, were its last bytes sent.
    fn is_worn(&mut self) -> bool {
        let taken = self.taken;
        let watch = self.watched().watch();
        let is_spent = watch.is_between_messages() && watch.messages() == taken;
        self.largest > SOCKET_BYTES_KEPT && is_spent && self.is_flushed && !self.is_closing
    }

    /// With nothing in it.
    fn renew(&mut self) {
        let watched = self.library.take().map(WebSocketStream::into_inner);
        self.library = watched.map(library);
        self.largest = 0;
    }
}

/// Small, and so for as long as the messages are.
fn library<S: AsyncRead + AsyncWrite + Unpin>(watched: Watched<S>) -> WebSocketStream<Watched<S>> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let made = WebSocketStream::from_raw_socket(watched, Role::Server, Some(config));
    made.now_or_never().expect("it waits for nobody")
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
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let refusal = |status, word| {
            ApiError::new(status, word, "this path takes a WebSocket handshake only")
        };
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
    type Item = Result<Incoming, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_failed {
            return self.watched().poll_discard(cx).map(|()| None);
        }
        loop {
            if let Poll::Ready(next) = self.library().poll_next(cx) {
                self.has_failed = matches!(next, Some(Err(_)));
                let next = next.map(|next| next.map(|message| self.handle_message(message)));
                return Poll::Ready(next);
            }
            if !self.is_worn() {
                return Poll::Pending;
            }
            // Its own answers to pings are known to itself alone.
            if let Err(error) = ready!(self.library().poll_flush(cx)) {
                self.has_failed = true;
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
        if let Some(account) = self.account.as_ref().filter(|_| message.len() > SOCKET_BYTES_KEPT) {
            // What is to be said is in memory already; it and its frame.
            self.outgoing = Some(account.take_now(2 * message.len()));
        }
        self.library().start_send(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = ready!(self.library().poll_flush(cx));
        self.is_flushed = true;
        self.outgoing = None;
        Poll::Ready(flushed)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.is_closing = true;
        self.library().poll_close(cx)
    }
}

#[cfg(test)]
mod tests;
