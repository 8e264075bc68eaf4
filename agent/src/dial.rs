//! Opens all connections to auth and the hub, for requests and WebSockets alike.
//!
//! Handles the proxy of the settings or of the environment, all addresses of a name, and TLS with
//! the agent's roots, with a time limit for each.

mod addresses;
mod meter;
mod route;
mod tunnel;
pub(crate) mod websocket;

use std::{io, sync::Arc};

use http::Uri;
use rustls::pki_types::ServerName;
use spoke_diagnostics::tls_error::{TlsFailure, explain};
use spoke_service::{
    config::{ConfigError, ServiceUrl},
    limits::HANDSHAKE_TIMEOUT,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::TlsConnector;

pub use self::route::ProxySetting;
use self::route::{ProxyProtocol, ProxyRoutes};
pub(crate) use self::{meter::TrafficMeter, route::DialRoute, tunnel::TunnelError};

/// A bidirectional byte stream.
pub trait AsyncIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> AsyncIo for S {}

/// An open connection, encrypted if its URL says so.
pub(crate) type DialStream = Box<dyn AsyncIo>;

/// Opens connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dialer {
    tls: Arc<rustls::ClientConfig>,
    routes: Arc<ProxyRoutes>,
    meter: TrafficMeter,
}

/// A connection cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The host or the proxy cannot be reached.
    #[error("failed to reach {address}")]
    Unreachable {
        /// Host and port, and the proxy, if one is used.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// The proxy opened no tunnel.
    #[error("the proxy {proxy} did not connect to {address}")]
    Proxy {
        /// The proxy.
        proxy: String,
        /// Host and port.
        address: String,
        /// The response of the proxy.
        source: TunnelError,
    },
    /// The certificate of the peer is not trusted.
    #[error("failed to set up TLS with {address}")]
    Untrusted {
        /// Host and port.
        address: String,
        /// The cause, and the next action of the operator.
        #[source]
        why: TlsFailure,
    },
}

/// The use of a connection, which decides how a proxy is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialPurpose {
    /// HTTP requests. A proxy may forward them if they are not encrypted.
    Requests,
    /// Any bytes, through a tunnel.
    Tunnel,
}

impl Dialer {
    /// Creates a dialer with these TLS roots.
    ///
    /// # Errors
    /// [`ConfigError`] if a variable of the environment is not a valid proxy URL.
    pub fn new(proxy: &ProxySetting, tls: Arc<rustls::ClientConfig>) -> Result<Self, ConfigError> {
        let (routes, meter) = (Arc::new(ProxyRoutes::new(proxy)?), TrafficMeter::default());
        Ok(Self { tls, routes, meter })
    }

    /// Returns the meter of all connections that this dialer and its clones open.
    pub(crate) fn meter(&self) -> &TrafficMeter {
        &self.meter
    }

    /// Returns the route to a service: direct, or through a proxy.
    pub fn route(&self, url: &ServiceUrl) -> DialRoute {
        self.routes.to(url)
    }

    pub(crate) async fn open(
        &self,
        url: &ServiceUrl,
        purpose: DialPurpose,
    ) -> Result<DialStream, DialError> {
        let (host, port) = url.host_and_port();
        let address = address(&host, port);
        let route = self.route(url);
        let unreachable =
            |source| DialError::Unreachable { address: format!("{address}{route}"), source };
        let (first_host, first_port) = match &route {
            DialRoute::Direct => (host.as_str(), port),
            DialRoute::Through(proxy) => proxy.host_and_port(),
        };
        let connecting =
            timeout(HANDSHAKE_TIMEOUT, addresses::connect(first_host, first_port)).await;
        let tcp = within(connecting).map_err(unreachable)?;
        let mut stream: DialStream = Box::new(self.meter.stream(tcp));
        if let DialRoute::Through(proxy) = &route {
            if proxy.protocol() == ProxyProtocol::Https {
                stream = self.encrypt(first_host, stream).await.map_err(|error| match error {
                    TlsSetupError::Untrusted(why) => {
                        DialError::Untrusted { address: format!("the proxy {proxy}"), why }
                    }
                    TlsSetupError::Io(source) => unreachable(source),
                })?;
            }
            if purpose == DialPurpose::Requests && route.forwards(url).is_some() {
                return Ok(stream);
            }
            let to: Uri =
                format!("{}://{address}/", if url.is_plaintext() { "http" } else { "https" })
                    .parse()
                    .expect("the host and port of a service URL make a URL");
            let opening = timeout(HANDSHAKE_TIMEOUT, tunnel::open(proxy, &to, stream));
            let opened = opening.await.unwrap_or_else(|_| Err(timed_out().into()));
            stream = opened.map_err(|source| DialError::Proxy {
                proxy: proxy.to_string(),
                address: address.clone(),
                source,
            })?;
        }
        if url.is_plaintext() {
            return Ok(stream);
        }
        self.encrypt(&host, stream).await.map_err(|error| match error {
            TlsSetupError::Untrusted(why) => DialError::Untrusted { address: address.clone(), why },
            TlsSetupError::Io(source) => unreachable(source),
        })
    }

    /// Sets up TLS. Tells an untrusted certificate from a connection that breaks.
    async fn encrypt(&self, host: &str, stream: DialStream) -> Result<DialStream, TlsSetupError> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| TlsSetupError::Io(io::Error::other(error)))?;
        let handshake = TlsConnector::from(self.tls.clone()).connect(name, stream);
        match within(timeout(HANDSHAKE_TIMEOUT, handshake).await) {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) => {
                Err(explain(&source).map_or(TlsSetupError::Io(source), TlsSetupError::Untrusted))
            }
        }
    }
}

enum TlsSetupError {
    Untrusted(TlsFailure),
    Io(io::Error),
}

/// Formats host and port as in a URL.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn within<T>(result: Result<io::Result<T>, tokio::time::error::Elapsed>) -> io::Result<T> {
    result.unwrap_or_else(|_| Err(timed_out()))
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
