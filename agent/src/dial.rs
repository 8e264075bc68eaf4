//! From a URL to an open connection: the one way out of this device, for requests and WebSockets alike.
//!
//! A proxy of the settings or of the environment, all addresses of a name, TLS with the agent's own
//! trust, and a time limit for each of these.

mod addresses;
mod route;
mod tunnel;
pub mod websocket;

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

use self::route::{Routes, Speaks};
pub use self::{
    route::{Proxy, ProxySetting, Route},
    tunnel::TunnelError,
};

/// What an open connection can do.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

/// An open connection, encrypted where its URL says so.
pub type Stream = Box<dyn Io>;

/// Opens connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dialer {
    tls: Arc<rustls::ClientConfig>,
    routes: Arc<Routes>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no way there, or to the proxy.
    #[error("failed to reach {place}")]
    Unreachable {
        /// Host and port, and the proxy on the way there.
        place: String,
        /// The cause.
        source: io::Error,
    },
    /// The proxy opens no tunnel there.
    #[error("the proxy {proxy} did not connect to {place}")]
    Proxy {
        /// The proxy.
        proxy: String,
        /// Host and port.
        place: String,
        /// What it said.
        source: TunnelError,
    },
    /// Who answers cannot prove to be the one that was meant.
    #[error("failed to set up TLS with {place}")]
    Untrusted {
        /// Host and port.
        place: String,
        /// The cause, and the mend.
        #[source]
        why: TlsFailure,
    },
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Requests, which a proxy may take whole where they are not encrypted.
    Requests,
    /// Anything.
    Tunnel,
}

impl Dialer {
    /// One that trusts whom `tls` trusts.
    ///
    /// # Errors
    /// `ConfigError` that names the variable of the environment that is not a proxy's URL.
    pub fn new(proxy: &ProxySetting, tls: Arc<rustls::ClientConfig>) -> Result<Self, ConfigError> {
        Ok(Self { tls, routes: Arc::new(Routes::new(proxy)?) })
    }

    /// The way to a service.
    pub fn route(&self, url: &ServiceUrl) -> Route {
        self.routes.to(url)
    }

    pub(crate) async fn open(
        &self,
        url: &ServiceUrl,
        purpose: Purpose,
    ) -> Result<Stream, DialError> {
        let (host, port) = url.host_and_port();
        let place = place(&host, port);
        let route = self.route(url);
        let unreachable =
            |source| DialError::Unreachable { place: format!("{place}{route}"), source };
        let (near, near_port) = match &route {
            Route::Direct => (host.as_str(), port),
            Route::Through(proxy) => proxy.host_and_port(),
        };
        let connecting = timeout(HANDSHAKE_TIMEOUT, addresses::connect(near, near_port)).await;
        let tcp = within(connecting).map_err(unreachable)?;
        let mut stream: Stream = Box::new(tcp);
        if let Route::Through(proxy) = &route {
            if proxy.speaks() == Speaks::Https {
                stream = self.encrypt(near, stream).await.map_err(|error| match error {
                    Broken::Untrusted(why) => {
                        DialError::Untrusted { place: format!("the proxy {proxy}"), why }
                    }
                    Broken::Io(source) => unreachable(source),
                })?;
            }
            if purpose == Purpose::Requests && route.forwards(url).is_some() {
                return Ok(stream);
            }
            let to: Uri =
                format!("{}://{place}/", if url.is_plaintext() { "http" } else { "https" })
                    .parse()
                    .expect("a service URL's place makes a URL");
            let opening = timeout(HANDSHAKE_TIMEOUT, tunnel::open(proxy, &to, stream));
            let opened = opening.await.unwrap_or_else(|_| Err(timed_out().into()));
            stream = opened.map_err(|source| DialError::Proxy {
                proxy: proxy.to_string(),
                place: place.clone(),
                source,
            })?;
        }
        if url.is_plaintext() {
            return Ok(stream);
        }
        self.encrypt(&host, stream).await.map_err(|error| match error {
            Broken::Untrusted(why) => DialError::Untrusted { place: place.clone(), why },
            Broken::Io(source) => unreachable(source),
        })
    }

    /// A certificate that is not trusted is one thing, a connection that breaks meanwhile another.
    async fn encrypt(&self, host: &str, stream: Stream) -> Result<Stream, Broken> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| Broken::Io(io::Error::other(error)))?;
        let shaking = TlsConnector::from(self.tls.clone()).connect(name, stream);
        match within(timeout(HANDSHAKE_TIMEOUT, shaking).await) {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) => Err(explain(&source).map_or(Broken::Io(source), Broken::Untrusted)),
        }
    }
}

enum Broken {
    Untrusted(TlsFailure),
    Io(io::Error),
}

/// Host and port, as a URL has them.
fn place(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn within<T>(result: Result<io::Result<T>, tokio::time::error::Elapsed>) -> io::Result<T> {
    result.unwrap_or_else(|_| Err(timed_out()))
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
