//! A WebSocket that frees the memory of large messages.
//!
//! The library keeps a buffer as large as the largest message that it ever read or wrote, as long
//! as the connection is open: ten thousand devices that once returned from a long outage would hold
//! gigabytes. So the library's state is recreated when it is empty. The library cannot be asked
//! whether it is empty, but received frames and delivered messages are counted: if the counts are
//! equal, nothing is buffered.

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
use spoke_protocol::{ClientId, limits::FRAME_BYTES_MAX, wire::websocket::FrameFlood};
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

use super::charged_stream::{ChargeAccount, ChargedStream};
use crate::{
    limits::SOCKET_BYTES_KEPT,
    memory_budget::{MemoryBudget, MemoryCharge},
};

/// Read buffer of the library in bytes, which it keeps while a socket is idle; larger messages get a
/// buffer of their own size. The library's default of 128 KiB would be a gigabyte for ten thousand
/// idle agents.
const READ_BUFFER_BYTES: usize = 256;
/// Bytes of small messages that the library collects before it writes them.
const WRITE_BUFFER_BYTES: usize = 2 * 1024;
/// Time for which the peer's remaining messages are read after the close frame: a revoked session
/// is closed within a second.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// Server side of a WebSocket.
pub(crate) struct ServerSocket<S = TokioIo<Upgraded>> {
    /// `None` only while it is recreated.
    library: Option<WebSocketStream<ChargedStream<S>>>,
    /// Messages received so far.
    taken: u64,
    /// Size of the largest message in either direction since the state was created, in bytes.
    largest: usize,
    /// No message was written since the last complete flush.
    is_flushed: bool,
    /// A close frame was received or sent: the library's state has to stay.
    is_closing: bool,
    /// A frame was invalid: further bytes are discarded.
    has_failed: bool,
    /// Client and budget that messages are charged to.
    account: Option<ChargeAccount>,
    /// Charge of a large outgoing message.
    outgoing: Option<MemoryCharge>,
}

/// Received message and its memory charge until it is processed.
pub(crate) struct ReceivedMessage {
    /// Message.
    pub message: Message,
    /// `None` for a small message.
    pub charge: Option<MemoryCharge>,
}

impl From<Message> for ReceivedMessage {
    fn from(message: Message) -> Self {
        Self { message, charge: None }
    }
}

/// Returns the frame limit that the peer exceeded, if that is the error.
pub(crate) fn frame_flood(error: &Error) -> Option<FrameFlood> {
    let Error::Io(error) = error else { return None };
    error.get_ref()?.downcast_ref().copied()
}

/// Returns the refusal of the memory budget, if that is the error.
pub(crate) fn budget_refusal(error: &Error) -> Option<&ApiError> {
    let Error::Io(error) = error else { return None };
    error.get_ref()?.downcast_ref()
}

/// Reads and drops the peer's remaining messages until it closes or a timeout. TCP resets a
/// connection that is closed while bytes arrive, and the last frames are lost.
pub(crate) async fn discard(messages: &mut (impl Stream + Unpin)) {
    let all = async {
        while messages.next().await.is_some() {
            coop::consume_budget().await;
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, all).await;
}

impl<S: AsyncRead + AsyncWrite + Unpin> ServerSocket<S> {
    /// Creates the server side over an upgraded connection.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            library: Some(library(ChargedStream::new(stream))),
            taken: 0,
            largest: 0,
            is_flushed: true,
            is_closing: false,
            has_failed: false,
            account: None,
            outgoing: None,
        }
    }

    /// Charges messages to this client from now on.
    pub(crate) fn charge_to(&mut self, budget: &MemoryBudget, client: &ClientId) {
        let account = ChargeAccount { budget: budget.clone(), client: client.clone() };
        self.watched().charge_to(account.clone());
        self.account = Some(account);
    }

    fn library(&mut self) -> Pin<&mut WebSocketStream<ChargedStream<S>>> {
        Pin::new(self.library.as_mut().expect("the state is always put back"))
    }

    fn watched(&mut self) -> &mut ChargedStream<S> {
        self.library.as_mut().expect("the state is always put back").get_mut()
    }

    fn handle_message(&mut self, message: Message) -> ReceivedMessage {
        self.taken += 1;
        self.largest = self.largest.max(message.len());
        self.is_closing |= message.is_close();
        let is_data = message.is_binary() || message.is_text();
        let charge = if is_data { self.watched().take_charge() } else { None };
        ReceivedMessage { message, charge }
    }

    /// Returns whether the state can be recreated after a flush.
    fn is_worn(&mut self) -> bool {
        let taken = self.taken;
        let watch = self.watched().watch();
        let is_spent = watch.is_between_messages() && watch.messages() == taken;
        self.largest > SOCKET_BYTES_KEPT && is_spent && self.is_flushed && !self.is_closing
    }

    /// Recreates the library's state with empty buffers.
    fn renew(&mut self) {
        let watched = self.library.take().map(WebSocketStream::into_inner);
        self.library = watched.map(library);
        self.largest = 0;
    }
}

/// Creates the library's state with small buffers.
fn library<S: AsyncRead + AsyncWrite + Unpin>(
    watched: ChargedStream<S>,
) -> WebSocketStream<ChargedStream<S>> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let made = WebSocketStream::from_raw_socket(watched, Role::Server, Some(config));
    made.now_or_never().expect("it never waits")
}

/// Request for a WebSocket, with its valid handshake answer.
pub(crate) struct WebSocketUpgrade {
    upgrade: OnUpgrade,
    headers: HeaderMap,
}

impl WebSocketUpgrade {
    /// Returns the response, and a future of the upgraded connection.
    pub(crate) fn accept(
        self,
        protocol: &'static str,
    ) -> (Response, impl Future<Output = Result<ServerSocket, hyper::Error>>) {
        let Self { upgrade, mut headers } = self;
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        let upgraded = upgrade.map_ok(|upgraded| ServerSocket::new(TokioIo::new(upgraded)));
        ((StatusCode::SWITCHING_PROTOCOLS, headers).into_response(), upgraded)
    }
}

impl<S: Sync> FromRequestParts<S> for WebSocketUpgrade {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let refusal = |status, word| ApiError::new(status, word, "expected a WebSocket handshake");
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

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for ServerSocket<S> {
    type Item = Result<ReceivedMessage, Error>;

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
            // Only the library knows about its own pending answers to pings.
            if let Err(error) = ready!(self.library().poll_flush(cx)) {
                self.has_failed = true;
                return Poll::Ready(Some(Err(error)));
            }
            // Poll again, so that the task is registered with the new state.
            self.renew();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink<Message> for ServerSocket<S> {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.library().poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        self.largest = self.largest.max(message.len());
        self.is_closing |= message.is_close();
        self.is_flushed = false;
        if let Some(account) = self.account.as_ref().filter(|_| message.len() > SOCKET_BYTES_KEPT) {
            // The message is already in memory: charge it and its frame.
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
