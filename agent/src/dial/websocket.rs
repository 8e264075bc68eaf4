//! Opens a WebSocket to the hub.

use std::io;

use http::header;
use secrecy::SecretString;
use spoke_protocol::{
    limits::FRAME_BYTES_MAX,
    wire::{frame::SUBPROTOCOL, websocket::FrameLimiter},
};
use spoke_service::{
    LastActivity, ObservedStream, StreamObserver, config::ServiceUrl, limits::HANDSHAKE_TIMEOUT,
};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, client::IntoClientRequest, protocol::WebSocketConfig},
};

use super::{DialError, DialPurpose, DialStream, Dialer, TunnelError};
use crate::{
    error_response::ErrorResponse,
    http_headers::{USER_AGENT, bearer},
};

/// An open WebSocket.
pub(crate) type HubSocket = WebSocketStream<ObservedStream<DialStream, SocketReadObserver>>;

/// Records the time of received bytes, and limits the rate of frames.
pub struct SocketReadObserver {
    activity: LastActivity,
    frames: FrameLimiter,
}

impl StreamObserver for SocketReadObserver {
    fn handle_read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let now = std::time::Instant::now();
        self.activity.touch(now);
        let flood = self.frames.handle_read(bytes, now);
        flood.map_err(|flood| io::Error::new(io::ErrorKind::InvalidData, flood))
    }
}

/// A WebSocket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// The connection cannot be opened.
    #[error(transparent)]
    Dial(DialError),
    /// The proxy opened no tunnel, but may still forward requests.
    #[error("the proxy does not allow websockets")]
    NoTunnel(#[source] DialError),
    /// The hub, or a proxy in front of it, refused.
    #[error("the hub at {hub} answered {response}")]
    Rejected {
        /// The URL of the hub.
        hub: ServiceUrl,
        /// The response.
        response: Box<ErrorResponse>,
    },
    /// The peer accepts no WebSockets, or not the ones of Spoke.
    #[error("{hub} does not accept a websocket for spoke")]
    NoWebSocket {
        /// The URL of the hub.
        hub: ServiceUrl,
        /// The cause.
        source: Box<tungstenite::Error>,
    },
    /// The connection broke, or timed out, before the upgrade was done.
    #[error("the connection to {hub} broke before the websocket was established")]
    Broken {
        /// The URL of the hub.
        hub: ServiceUrl,
        /// The cause.
        source: io::Error,
    },
}

/// Bytes that are buffered before a write. Frames have about this size under load.
const BUFFER_BYTES: usize = 32 * 1024;

/// Opens a WebSocket to the hub.
///
/// # Errors
/// [`WebSocketError`] if the connection or the upgrade fails.
pub async fn open_websocket(
    dialer: &Dialer,
    hub: &ServiceUrl,
    token: &SecretString,
) -> Result<(HubSocket, LastActivity), WebSocketError> {
    let stream = dialer.open(hub, DialPurpose::Tunnel).await.map_err(|error| match error {
        DialError::Proxy { source: TunnelError::Refused(_), .. } if hub.is_plaintext() => {
            WebSocketError::NoTunnel(error)
        }
        error => WebSocketError::Dial(error),
    })?;
    let activity = LastActivity::new(std::time::Instant::now());
    let observer =
        SocketReadObserver { activity: activity.clone(), frames: FrameLimiter::behind_handshake() };
    let url = hub.websocket("/sync");
    let upgrading = upgrade(&url, token, ObservedStream::new(stream, observer));
    match timeout(HANDSHAKE_TIMEOUT, upgrading).await {
        Ok(Ok(socket)) => Ok((socket, activity)),
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
            let response = ErrorResponse::new(response.status(), response.headers(), body);
            WebSocketError::Rejected { hub, response: Box::new(response) }
        }
        tungstenite::Error::Io(source) => WebSocketError::Broken { hub, source },
        tungstenite::Error::Protocol(tungstenite::error::ProtocolError::HandshakeIncomplete)
        | tungstenite::Error::ConnectionClosed => {
            WebSocketError::Broken { hub, source: io::ErrorKind::UnexpectedEof.into() }
        }
        other => WebSocketError::NoWebSocket { hub, source: Box::new(other) },
    }
}
