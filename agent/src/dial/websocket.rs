//! From an open connection to an open WebSocket.

use std::io;

use http::header;
use secrecy::SecretString;
use spoke_protocol::{
    limits::FRAME_BYTES_MAX,
    wire::{frame::SUBPROTOCOL, websocket::FrameLimiter},
};
use spoke_service::{
    config::ServiceUrl,
    last_activity::{LastActivity, ObservedStream, ReadObserver},
    limits::HANDSHAKE_TIMEOUT,
};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, client::IntoClientRequest, protocol::WebSocketConfig},
};

use super::{DialError, Dialer, Purpose, Stream, TunnelError};
use crate::{auth::bearer, denial::Denial, http_client::USER_AGENT};

/// An open WebSocket.
pub type Socket = WebSocketStream<ObservedStream<Stream, Watch>>;

/// What is noted of the bytes that come.
pub struct Watch {
    heard: LastActivity,
    frames: FrameLimiter,
}

impl ReadObserver for Watch {
    fn handle_read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let now = std::time::Instant::now();
        self.heard.touch(now);
        let flood = self.frames.handle_read(bytes, now);
        flood.map_err(|flood| io::Error::new(io::ErrorKind::InvalidData, flood))
    }
}

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// There is no connection.
    #[error(transparent)]
    Dial(DialError),
    /// A proxy that may yet take whole requests to the hub opens no tunnel.
    #[error("the proxy lets no websocket through")]
    NoTunnel(#[source] DialError),
    /// The hub, or something before it, said no.
    #[error("the hub at {hub} answered {denial}")]
    Denied {
        /// Where it is.
        hub: ServiceUrl,
        /// What it said.
        denial: Box<Denial>,
    },
    /// What answers makes no WebSockets, or not ours.
    #[error("{hub} does not accept a websocket for spoke")]
    NoWebSocket {
        /// Where it is.
        hub: ServiceUrl,
        /// The cause.
        source: Box<tungstenite::Error>,
    },
    /// The connection broke, or nothing came, before the upgrade was done.
    #[error("the connection to {hub} broke before the websocket was there")]
    Broken {
        /// Where it is.
        hub: ServiceUrl,
        /// The cause.
        source: io::Error,
    },
}

/// Bytes that are gathered before a write; frames are of about this size where there is much.
const BUFFER_BYTES: usize = 32 * 1024;

/// Opens a WebSocket to the hub.
///
/// # Errors
/// `WebSocketError`
pub async fn open(
    dialer: &Dialer,
    hub: &ServiceUrl,
    token: &SecretString,
) -> Result<(Socket, LastActivity), WebSocketError> {
    let stream = dialer.open(hub, Purpose::Tunnel).await.map_err(|error| match error {
        DialError::Proxy { source: TunnelError::Refused(_), .. } if hub.is_plaintext() => {
            WebSocketError::NoTunnel(error)
        }
        error => WebSocketError::Dial(error),
    })?;
    let heard = LastActivity::new(std::time::Instant::now());
    let watch = Watch { heard: heard.clone(), frames: FrameLimiter::behind_handshake() };
    let url = hub.websocket("/sync");
    let upgrading = upgrade(&url, token, ObservedStream::new(stream, watch));
    match timeout(HANDSHAKE_TIMEOUT, upgrading).await {
        Ok(Ok(socket)) => Ok((socket, heard)),
        Ok(Err(error)) => Err(upgrade_error(hub.clone(), error)),
        Err(_) => {
            let source = io::ErrorKind::TimedOut.into();
            Err(WebSocketError::Broken { hub: hub.clone(), source })
        }
    }
}

async fn upgrade<S>(
    url: &str,
    token: &SecretString,
    stream: S,
) -> Result<WebSocketStream<S>, tungstenite::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut request = url.into_client_request()?;
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, bearer(token));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, http::HeaderValue::from_static(SUBPROTOCOL));
    headers.insert(header::USER_AGENT, http::HeaderValue::from_static(USER_AGENT));
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
    Ok(socket)
}

fn upgrade_error(hub: ServiceUrl, error: tungstenite::Error) -> WebSocketError {
    match error {
        tungstenite::Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let denial = Denial::new(response.status(), response.headers(), body);
            WebSocketError::Denied { hub, denial: Box::new(denial) }
        }
        tungstenite::Error::Io(source) => WebSocketError::Broken { hub, source },
        tungstenite::Error::Protocol(tungstenite::error::ProtocolError::HandshakeIncomplete)
        | tungstenite::Error::ConnectionClosed => {
            WebSocketError::Broken { hub, source: io::ErrorKind::UnexpectedEof.into() }
        }
        other => WebSocketError::NoWebSocket { hub, source: Box::new(other) },
    }
}
