//! The accept loop of every listener: HTTP/1.1, with TLS also HTTP/2, bounds on everything.
//!
//! axum's own server has no limit on connections, on the time a header may take, or on a TLS
//! handshake; this one has, and it knows when the last byte came, which a WebSocket library that
//! hands out whole messages cannot tell. An upgraded connection leaves this loop: the service
//! tracks it. What is refused here or by a service is logged here, so that nobody can fill the log.

mod admin;
mod connection;
mod forwarded;
#[cfg(feature = "http2")]
mod http2;
mod rejection_log;
mod connection_limit;
mod peer_net;
mod unauthenticated;
mod certificate;
mod write_timeout;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

pub use self::{
    admin::{admin_router, serve_admin},
    certificate::{Certificate, CertificateChange},
    connection_limit::ConnectionLimit,
    forwarded::{PeerAddress, behind},
    peer_net::PeerNet,
    unauthenticated::AuthenticatedGuard,
};
use self::{
    connection::{Encrypted, HttpConnection, Plain, Security},
    connection_limit::ConnectionPermit,
    rejection_log::RejectionLog,
    unauthenticated::{TrackedConnection, Unauthenticated},
};
use crate::{
    limits::{
        CONNECTIONS_MAX, DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, KEEP_ALIVE_LINGER, LISTEN_BACKLOG,
        STRANGERS_MIN, STRANGERS_SHARE,
    },
    shutdown::Shutdown,
};
use spoke_diagnostics::error_chain::error_chain;
use spoke_protocol::limits::PROGRESS_TIMEOUT;

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
pub struct ConnectionHandle(Arc<OpenConnection>);

struct OpenConnection {
    visitor: Arc<TrackedConnection>,
    _seat: ConnectionPermit,
}

impl ConnectionHandle {
    /// Says that it is known whose connection this is, or that it is served now: as long as what
    /// this gives lives, it is not closed to make room for another.
    pub fn vouch(&self) -> AuthenticatedGuard {
        self.0.visitor.vouch()
    }

    /// Counts the connection as of this site from here on.
    fn handle_site(&self, site: PeerNet) {
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
        io::Error::new(
            error.kind(),
            format!("failed to listen on {listen}: {}; {mend}", error_chain(&error)),
        )
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

/// Serves without TLS until the shutdown begins. Requests in hand are finished within `limits.drain`,
/// as tasks that `Shutdown::finish` waits for.
pub async fn serve(listener: TcpListener, app: Router, limits: ServeLimits, shutdown: Shutdown) {
    let room = ConnectionLimit::of(&limits);
    accept(listener, Plain, app, (limits, room), shutdown).await;
}

/// The same for devices: with TLS where there is a certificate, and in a room that may be set anew.
/// Apart from the other, so that a program which has no need for it is without TLS and HTTP/2.
pub async fn serve_devices(
    listener: TcpListener,
    certificate: Option<Certificate>,
    app: Router,
    room: ConnectionLimit,
    shutdown: Shutdown,
) {
    let limits = (ServeLimits::default(), room);
    match certificate {
        Some(certificate) => {
            shutdown.spawn("certificate", certificate.clone().watch(shutdown.clone()));
            let security = Encrypted(TlsAcceptor::from(certificate.config()));
            accept(listener, security, app, limits, shutdown).await;
        }
        None => accept(listener, Plain, app, limits, shutdown).await,
    }
}

async fn accept(
    listener: TcpListener,
    security: impl Security,
    app: Router,
    (limits, room): (ServeLimits, ConnectionLimit),
    shutdown: Shutdown,
) {
    let refusals = Arc::new(RejectionLog::default());
    shutdown.spawn("refusals", refusals.clone().sum_up(shutdown.clone()));
    let strangers = Unauthenticated::new(room.strangers());
    let stop = shutdown.clone();
    let mut door = Acceptor {
        app,
        security,
        limits,
        room,
        strangers,
        refusals,
        trouble: AcceptOutage::default(),
        shutdown,
    };
    loop {
        let accepted = tokio::select! {
            () = stop.begun() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => door.let_in(stream, peer),
            Err(error) => {
                // Out of file handles, say: it passes when connections end, not by asking again.
                door.trouble.handle_error(&error);
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        }
        // Those who are in come first: where many arrive at once, the rest waits at the door and not as
        // strangers who have to make room for each other.
        tokio::task::yield_now().await;
    }
    // Whoever stands at the door by now takes the connection for made, and has asked. The runtime may
    // not know of them yet, so the listener itself is asked.
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..LISTEN_BACKLOG {
        let Ok((stream, peer)) = listener.accept() else { return };
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            door.let_in(stream, peer);
        }
    }
}

/// What every connection that is accepted goes through.
struct Acceptor<S> {
    app: Router,
    security: S,
    limits: ServeLimits,
    room: ConnectionLimit,
    strangers: Arc<Unauthenticated>,
    refusals: Arc<RejectionLog>,
    trouble: AcceptOutage,
    shutdown: Shutdown,
}

impl<S: Security> Acceptor<S> {
    fn let_in(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Self { room, strangers, trouble, .. } = self;
        // An IPv4 peer of an IPv6 listener is the same peer as on an IPv4 one.
        let address = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let Some(seat) = room.take() else {
            return trouble.handle_full();
        };
        // At the very edge of the limit it would come and go with each connection.
        if room.left() >= room.most() / 16 {
            trouble.end();
        }
        strangers.resize(room.strangers());
        let (visitor, crowded) = strangers.arrive(address.ip().into());
        if let Some(site) = crowded {
            self.refusals.handle_crowd(site);
        }
        let place = ConnectionHandle(Arc::new(OpenConnection { visitor, _seat: seat }));
        let (app, limits, refusals) = (self.app.clone(), self.limits, self.refusals.clone());
        let shutdown = self.shutdown.clone();
        let connection = HttpConnection { address, place, app, limits, refusals, shutdown };
        let serving = connection.serve(stream, self.security.clone());
        self.shutdown.spawn_one("connection", address, serving);
    }
}

/// A fault of the listener, logged when it begins and when it ends.
#[derive(Default)]
struct AcceptOutage {
    count: u64,
}

impl AcceptOutage {
    fn handle_error(&mut self, error: &io::Error) {
        self.count += 1;
        if self.count == 1 {
            warn!(error = error_chain(error), "failed to accept connections");
        }
    }

    fn handle_full(&mut self) {
        self.count += 1;
        if self.count == 1 {
            warn!("too many connections: new ones are closed at once");
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
