//! The accept loop of every listener: HTTP/1.1, TLS where it is set, bounds on everything.
//!
//! axum's own server has no limit on connections, on the time a header may take, or on a TLS
//! handshake; this one has, and it knows when the last byte came, which a WebSocket library that
//! hands out whole messages cannot tell. An upgraded connection leaves this loop: the service
//! tracks it. What is refused here or by a service is logged here, so that nobody can fill the log.

mod admin;
mod forwarded;
mod refusals;
mod site;
mod strangers;
mod tls;
mod urged;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::{debug, info, warn};

pub use self::{
    admin::admin_router,
    forwarded::{PeerAddress, behind},
    site::Site,
    strangers::Vouched,
    tls::server_tls,
};
use self::{
    refusals::Refusals,
    strangers::{Strangers, Visitor},
    urged::Urged,
};
use crate::{
    heard::{Heard, Listened},
    limits::{
        CONNECTIONS_MAX, DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, HEADER_BYTES_MAX, KEEP_ALIVE_LINGER,
        LISTEN_BACKLOG, PROGRESS_TIMEOUT, STRANGERS_MIN, STRANGERS_SHARE,
    },
    shutdown::Shutdown,
};

/// What one listener bears.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Connections at a time, upgraded ones included.
    pub connections: usize,
    /// Of those, connections of which nobody knows whose they are.
    pub strangers: usize,
    /// From the connection to the end of a request's header.
    pub header_read: Duration,
    /// For the TLS handshake.
    pub tls_handshake: Duration,
    /// For the next request of a connection that is kept alive, when the shutdown begins.
    pub linger: Duration,
    /// For an answer of which the other side takes not a byte.
    pub write_stall: Duration,
    /// For requests in hand when the shutdown begins.
    pub drain: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self::of(CONNECTIONS_MAX)
    }
}

impl ServeLimits {
    /// For so many connections.
    pub fn of(connections: usize) -> Self {
        Self {
            connections,
            strangers: (connections / STRANGERS_SHARE).max(STRANGERS_MIN),
            header_read: HANDSHAKE_TIMEOUT,
            tls_handshake: HANDSHAKE_TIMEOUT,
            linger: KEEP_ALIVE_LINGER,
            write_stall: PROGRESS_TIMEOUT,
            drain: DRAIN_TIMEOUT,
        }
    }
}

/// Keeps a connection's place in the limit for as long as it lives, after an upgrade too: an
/// extension of every request, for whoever upgrades it to keep.
#[derive(Clone)]
pub struct Place(Arc<Seat>);

struct Seat {
    visitor: Arc<Visitor>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Says that it is known whose connection this is, or that it is served now: as long as what
    /// this gives lives, it is not closed to make room for another.
    pub fn vouch(&self) -> Vouched {
        self.0.visitor.vouch()
    }

    /// Counts the connection as of this site from here on.
    fn handle_site(&self, site: Site) {
        self.0.visitor.handle_site(site);
    }
}

/// What a service listens on.
pub struct Listeners {
    /// For devices.
    pub public: TcpListener,
    /// For health and metrics, if wanted.
    pub admin: Option<TcpListener>,
}

impl Listeners {
    /// Binds both; an empty `admin_listen` is none.
    ///
    /// # Errors
    /// With the address and the mend in the message.
    pub async fn bind(listen: &str, admin_listen: &str) -> io::Result<Self> {
        let public = bind(listen).await?;
        let admin = if admin_listen.is_empty() { None } else { Some(bind(admin_listen).await?) };
        Ok(Self { public, admin })
    }
}

/// Binds a listener.
///
/// # Errors
/// With the address and the mend in the message.
pub async fn bind(listen: &str) -> io::Result<TcpListener> {
    listen_on(listen).await.map_err(|error| {
        let mend = "is the address of this machine and the port free?";
        io::Error::new(error.kind(), format!("failed to listen on {listen}: {error}; {mend}"))
    })
}

/// On the first address of the name that can be had.
async fn listen_on(listen: &str) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(listen).await? {
        let listening = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(LISTEN_BACKLOG)
        };
        match listening() {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Serves until the shutdown begins. Requests in hand are finished within `limits.drain`, as tasks
/// that `Shutdown::finish` waits for.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    app: Router,
    limits: ServeLimits,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let strangers = Strangers::new(limits.strangers);
    let acceptor = tls.map(TlsAcceptor::from);
    let refusals = Arc::new(Refusals::default());
    shutdown.spawn("refusals", refusals.clone().sum_up(shutdown.clone()));
    let mut trouble = Trouble::default();
    loop {
        let accepted = tokio::select! {
            () = shutdown.begun() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            // An IPv4 peer of an IPv6 listener is the same peer as on an IPv4 one.
            Ok((stream, peer)) => (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())),
            Err(error) => {
                // Out of file handles, say: it passes when connections end, not by asking again.
                trouble.begin("failed to accept connections", &error.to_string());
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = places.clone().try_acquire_owned() else {
            trouble.begin("too many connections: new ones are closed at once", "");
            continue;
        };
        // At the very edge of the limit it would come and go with each connection.
        if places.available_permits() >= limits.connections / 16 {
            trouble.end();
        }
        let (visitor, crowded) = strangers.arrive(address.ip().into());
        if let Some(site) = crowded {
            refusals.handle_crowd(site);
        }
        let place = Place(Arc::new(Seat { visitor, _permit: permit }));
        let (app, stop, refusals) = (app.clone(), shutdown.clone(), refusals.clone());
        let connection = Connection { address, place, app, limits, refusals, shutdown: stop };
        shutdown.spawn_one("connection", address, connection.serve(stream, acceptor.clone()));
        // Those who are in come first: where many arrive at once, the rest waits at the door and not as
        // strangers who have to make room for each other.
        tokio::task::yield_now().await;
    }
}

struct Connection {
    address: SocketAddr,
    place: Place,
    app: Router,
    limits: ServeLimits,
    refusals: Arc<Refusals>,
    shutdown: Shutdown,
}

impl Connection {
    /// Until it ends, is upgraded, or has to make room.
    async fn serve(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        let (visitor, address) = (self.place.0.visitor.clone(), self.address);
        tokio::select! {
            () = self.serve_stream(stream, acceptor) => {}
            () = visitor.has_to_go() => debug!(%address, "closed to make room"),
        }
    }

    async fn serve_stream(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        // Small frames that wait for nobody: latency is ours to keep.
        let _ = stream.set_nodelay(true);
        let heard = Heard::new(Instant::now());
        let stream = Listened::new(Urged::new(stream, self.limits.write_stall), heard.clone());
        let Some(acceptor) = acceptor else {
            return self.serve_http(stream, heard).await;
        };
        match tokio::time::timeout(self.limits.tls_handshake, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve_http(stream, heard).await,
            Ok(Err(error)) => debug!(address = %self.address, %error, "TLS handshake failed"),
            Err(_) => debug!(address = %self.address, "TLS handshake took too long"),
        }
    }

    async fn serve_http<S>(self, stream: S, heard: Heard)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { address, place, app, limits, refusals, shutdown } = self;
        let stops = shutdown.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let mut request = request.map(axum::body::Body::new);
            let extensions = request.extensions_mut();
            extensions.insert(PeerAddress::from(address));
            extensions.insert(heard.clone());
            extensions.insert(place.clone());
            let answering = app.clone().oneshot(request);
            let (refusals, stops) = (refusals.clone(), stops.clone());
            async move {
                let mut response = answering.await?;
                let client = response.extensions().get().copied();
                let client: PeerAddress = client.unwrap_or(address.into());
                refusals.handle_answer(client.site(), &response);
                if stops.is_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => Ok(result),
            () = shutdown.begun() => {
                match tokio::time::timeout(limits.linger, connection.as_mut()).await {
                    Ok(result) => Ok(result),
                    Err(_) => {
                        connection.as_mut().graceful_shutdown();
                        tokio::time::timeout(limits.drain, connection).await
                    }
                }
            }
        };
        if let Ok(Err(error)) = result {
            debug!(%address, %error, "connection ended with an error");
        }
    }
}

/// A fault of the listener, logged when it begins and when it ends.
#[derive(Default)]
struct Trouble {
    count: u64,
}

impl Trouble {
    fn begin(&mut self, what: &str, error: &str) {
        self.count += 1;
        if self.count == 1 {
            warn!(error, "{what}");
        }
    }

    fn end(&mut self) {
        if self.count > 0 {
            info!(count = self.count, "the listener takes connections again");
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests;
