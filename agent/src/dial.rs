//! From a URL to an open WebSocket: TCP, TLS with the agent's own trust, the upgrade.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{StatusCode, Uri, header};
use rustls::pki_types::ServerName;
use secrecy::SecretString;
use spoke_shared::{
    config::ServiceUrl,
    heard::{Heard, Listened, Listener},
    limits::{FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT},
    trust::{Distrust, explain},
    wire::{frame::SUBPROTOCOL, websocket::FrameWatch},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, client::IntoClientRequest, protocol::WebSocketConfig},
};
use tokio_util::either::Either;

use crate::{auth::bearer, denial::Denial};

/// An open WebSocket.
pub type Socket = WebSocketStream<Listened<Either<TcpStream, TlsStream<TcpStream>>, Watch>>;

/// What is noted of the bytes that come.
pub struct Watch {
    heard: Heard,
    frames: FrameWatch,
}

impl Listener for Watch {
    fn handle_read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let now = std::time::Instant::now();
        self.heard.touch(now);
        let flood = self.frames.handle_read(bytes, now);
        flood.map_err(|flood| io::Error::new(io::ErrorKind::InvalidData, flood))
    }
}

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no way to the hub.
    #[error("failed to reach the hub at {place}")]
    Unreachable {
        /// Host and port.
        place: String,
        /// The cause.
        source: io::Error,
    },
    /// Who answers cannot prove to be the hub.
    #[error("failed to set up TLS with the hub at {place}: {why}")]
    Untrusted {
        /// Host and port.
        place: String,
        /// The cause, and the mend.
        why: Distrust,
    },
    /// The hub, or something before it, said no.
    #[error("the hub at {place} answered {denial}")]
    Denied {
        /// Host and port.
        place: String,
        /// What it said.
        denial: Denial,
    },
    /// What answers makes no WebSockets, or not ours.
    #[error("what answers at {place} makes no websocket for spoke")]
    NoWebSocket {
        /// Host and port.
        place: String,
        /// The cause.
        source: Box<tungstenite::Error>,
    },
    /// The connection broke, or nothing came, before the upgrade was done.
    #[error("the connection to {place} broke before the websocket was there")]
    Broken {
        /// Host and port.
        place: String,
        /// The cause.
        source: io::Error,
    },
}

/// How long one address has before the next is tried beside it (RFC 8305).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Bytes that are gathered before a write; frames are of about this size where there is much.
const BUFFER_BYTES: usize = 32 * 1024;

/// Opens a WebSocket to the hub.
///
/// # Errors
/// `DialError`
pub async fn websocket(
    hub: &ServiceUrl,
    tls: &Arc<rustls::ClientConfig>,
    token: &SecretString,
) -> Result<(Socket, Heard), DialError> {
    let url = hub.websocket("/sync");
    let uri: Uri = url.parse().expect("a service URL makes a URL");
    let (host, port) = host_and_port(&uri);
    let place = format!("{}:{port}", uri.host().unwrap_or_default());
    let connecting = timeout(HANDSHAKE_TIMEOUT, connect(host, port)).await;
    let unreachable = |source| DialError::Unreachable { place: place.clone(), source };
    let tcp = within(connecting).map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let until = Instant::now() + HANDSHAKE_TIMEOUT;
    let stream = if hub.is_plaintext() {
        Either::Left(tcp)
    } else {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| unreachable(io::Error::other(error)))?;
        let shaking = TlsConnector::from(tls.clone()).connect(name, tcp);
        let shaken = within(tokio::time::timeout_at(until, shaking).await);
        Either::Right(shaken.map_err(|source| tls_error(place.clone(), source))?)
    };
    let heard = Heard::new(std::time::Instant::now());
    let watch = Watch { heard: heard.clone(), frames: FrameWatch::behind_handshake() };
    let upgrading = upgrade(&url, token, Listened::new(stream, watch));
    match tokio::time::timeout_at(until, upgrading).await {
        Ok(Ok(socket)) => Ok((socket, heard)),
        Ok(Err(error)) => Err(upgrade_error(place, error)),
        Err(_) => Err(DialError::Broken { place, source: io::ErrorKind::TimedOut.into() }),
    }
}

impl DialError {
    /// Whether whatever answered does not make WebSockets, so that HTTP is worth a try.
    pub fn is_no_websocket(&self) -> bool {
        match self {
            Self::NoWebSocket { .. } => true,
            Self::Denied { denial, .. } => {
                denial.status != StatusCode::UNAUTHORIZED && !denial.is_busy()
            }
            Self::Unreachable { .. } | Self::Untrusted { .. } | Self::Broken { .. } => false,
        }
    }
}

fn host_and_port(uri: &Uri) -> (&str, u16) {
    let host = uri.host().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let default = if uri.scheme_str() == Some("wss") { 443 } else { 80 };
    (bare, uri.port_u16().unwrap_or(default))
}

/// All addresses of the host, each begun a little after the one before: a family of addresses that
/// leads nowhere costs a quarter of a second.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let mut tries = FuturesUnordered::new();
    for (at, address) in interleaved(addresses).into_iter().enumerate() {
        let delay = NEXT_ADDRESS_AFTER * at as u32;
        tries.push(async move {
            tokio::time::sleep(delay).await;
            TcpStream::connect(address).await
        });
    }
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    while let Some(connected) = tries.next().await {
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The families in turn, the resolver's first choice first.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_v6);
    let longest = first.len().max(second.len());
    (0..longest).flat_map(|at| [first.get(at), second.get(at)]).flatten().copied().collect()
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
    headers.insert(
        header::USER_AGENT,
        http::HeaderValue::from_static(concat!("spoke-agent/", env!("CARGO_PKG_VERSION"))),
    );
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
    Ok(socket)
}

fn upgrade_error(place: String, error: tungstenite::Error) -> DialError {
    match error {
        tungstenite::Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let denial = Denial::new(response.status(), response.headers(), body);
            DialError::Denied { place, denial }
        }
        tungstenite::Error::Io(source) => DialError::Broken { place, source },
        tungstenite::Error::Protocol(tungstenite::error::ProtocolError::HandshakeIncomplete)
        | tungstenite::Error::ConnectionClosed => {
            DialError::Broken { place, source: io::ErrorKind::UnexpectedEof.into() }
        }
        other => DialError::NoWebSocket { place, source: Box::new(other) },
    }
}

/// A certificate that is not trusted is one thing, a connection that breaks meanwhile another.
fn tls_error(place: String, source: io::Error) -> DialError {
    match explain(&source) {
        Some(why) => DialError::Untrusted { place, why },
        None => DialError::Unreachable { place, source },
    }
}

fn within<T>(result: Result<io::Result<T>, tokio::time::error::Elapsed>) -> io::Result<T> {
    result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_come_out_of_every_url() {
        for (url, expected) in [
            ("wss://hub.example.com/sync", ("hub.example.com", 443)),
            ("ws://127.0.0.1/sync", ("127.0.0.1", 80)),
            ("wss://[::1]:8443/sync", ("::1", 8443)),
        ] {
            assert_eq!(host_and_port(&url.parse().unwrap()), expected);
        }
    }

    #[test]
    fn families_of_addresses_take_turns() {
        let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>();
        let mixed = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        assert_eq!(interleaved(mixed), parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]));
    }

    #[test]
    fn only_what_speaks_of_the_upgrade_leads_to_http() {
        let denied = |status: u16| DialError::Denied {
            place: "h:1".to_owned(),
            denial: Denial::new(
                StatusCode::from_u16(status).unwrap(),
                &http::HeaderMap::new(),
                b"",
            ),
        };
        for status in [200, 400, 403, 404, 405, 426, 500, 501, 502, 504] {
            assert!(denied(status).is_no_websocket(), "{status}");
        }
        for status in [401, 429, 503] {
            assert!(!denied(status).is_no_websocket(), "{status}");
        }
    }
}
