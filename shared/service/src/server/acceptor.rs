//! The accept loop of a listener, and the limits that every new connection passes.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::{
    certificate::Certificate,
    connection::HttpConnection,
    connection_handle::ConnectionHandle,
    connection_limit::ConnectionLimit,
    rejection_log::RejectionLog,
    security::{Encrypted, Plain, Security},
    serve_limits::ServeLimits,
    unauthenticated::Unauthenticated,
    write_timeout::WriteTimeout,
};
use crate::{
    last_activity::{LastActivity, ObservedStream},
    limits::{ACCEPT_RETRY, LISTEN_BACKLOG},
    shutdown::Shutdown,
};
use spoke_diagnostics::{Outage, error_chain};

/// Serves without TLS until the shutdown begins. Requests in progress are finished within `limits.drain`, as
/// tasks that [`Shutdown::finish`] waits for.
pub async fn serve(listener: TcpListener, app: Router, limits: ServeLimits, shutdown: Shutdown) {
    let limit = ConnectionLimit::of(&limits);
    accept(listener, Plain, app, (limits, limit), shutdown).await;
}

/// Serves devices: with TLS where there is a certificate, and under a limit that may change.
/// Apart from [`serve`], so that a program that does not call it is built without TLS and HTTP/2.
pub async fn serve_devices(
    listener: TcpListener,
    certificate: Option<Certificate>,
    app: Router,
    limit: ConnectionLimit,
    shutdown: Shutdown,
) {
    let limits = (ServeLimits::default(), limit);
    match certificate {
        Some(certificate) => {
            shutdown.spawn("certificate", certificate.clone().watch(shutdown.clone()));
            let security = Encrypted(TlsAcceptor::from(certificate.config()));
            accept(listener, security, app, limits, shutdown).await;
        }
        None => accept(listener, Plain, app, limits, shutdown).await,
    }
}

pub(super) async fn accept(
    listener: TcpListener,
    security: impl Security,
    app: Router,
    (limits, connection_limit): (ServeLimits, ConnectionLimit),
    shutdown: Shutdown,
) {
    let rejections = Arc::new(RejectionLog::default());
    shutdown.spawn("rejection log", rejections.clone().log_counts(shutdown.clone()));
    let unauthenticated = Unauthenticated::new(connection_limit.unauthenticated());
    let stopping = shutdown.clone();
    let acceptor = Acceptor {
        app,
        security,
        limits,
        connection_limit,
        unauthenticated,
        rejections,
        outage: AcceptOutage::default(),
        shutdown,
    };
    loop {
        let accepted = tokio::select! {
            () = stopping.begun() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => acceptor.handle_connection(stream, peer),
            Err(error) => {
                // Out of file handles, for example: it passes when connections end, not by a retry.
                acceptor.outage.handle_error(&error);
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        }
        // Accepted connections come first. Where many arrive at once, the rest waits in the kernel's backlog
        // and does not count as unauthenticated, where they would close each other.
        tokio::task::yield_now().await;
    }
    // Connections already in the kernel's backlog count as accepted by their clients, so drain them. The
    // runtime may not know of them yet, so the listener itself is asked.
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..LISTEN_BACKLOG {
        let Ok((stream, peer)) = listener.accept() else { return };
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            acceptor.handle_connection(stream, peer);
        }
    }
}

/// Applies the limits of a listener to each new connection.
struct Acceptor<S> {
    app: Router,
    security: S,
    limits: ServeLimits,
    connection_limit: ConnectionLimit,
    unauthenticated: Arc<Unauthenticated>,
    rejections: Arc<RejectionLog>,
    outage: AcceptOutage,
    shutdown: Shutdown,
}

impl<S: Security> Acceptor<S> {
    fn handle_connection(&self, stream: TcpStream, peer: SocketAddr) {
        let Self { connection_limit, unauthenticated, outage, .. } = self;
        // An IPv4 peer of an IPv6 listener is the same peer as on an IPv4 one.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let Some(permit) = connection_limit.take() else {
            return outage.handle_full();
        };
        // At the very edge of the limit the outage would begin and end with each connection.
        if connection_limit.left() >= connection_limit.max() / 16 {
            outage.handle_good();
        }
        unauthenticated.resize(connection_limit.unauthenticated());
        let (tracked, evicted) = unauthenticated.add(peer.ip().into());
        if let Some(net) = evicted {
            self.rejections.handle_eviction(net);
        }
        let handle = ConnectionHandle::new(tracked, permit);
        let (app, limits, rejections) = (self.app.clone(), self.limits, self.rejections.clone());
        let shutdown = self.shutdown.clone();
        let connection = HttpConnection { peer, handle, app, limits, rejections, shutdown };
        let serving = serve_connection(connection, stream, self.security.clone());
        self.shutdown.spawn_one("connection", peer, serving);
    }
}

/// Serves a connection until it ends, is upgraded, or is closed in favour of a newer one.
async fn serve_connection(connection: HttpConnection, stream: TcpStream, security: impl Security) {
    let (tracked, peer) = (connection.handle.0.tracked.clone(), connection.peer);
    // Small frames go out at once: latency counts here, not the number of packets.
    let _ = stream.set_nodelay(true);
    let activity = LastActivity::new(Instant::now());
    let stream = WriteTimeout::new(stream, connection.limits.write_stall);
    let stream = ObservedStream::new(stream, activity.clone());
    tokio::select! {
        () = security.serve(connection, stream, activity) => {}
        () = tracked.evicted() => debug!(%peer, "unauthenticated connection closed for a newer one"),
    }
}

/// A listener that takes no connections: logged when it begins and when it ends.
#[derive(Default)]
struct AcceptOutage {
    failed: Outage,
    full: Outage,
}

impl AcceptOutage {
    fn handle_error(&self, error: &io::Error) {
        if self.failed.handle_fault() {
            warn!(error = error_chain(error), "failed to accept connections");
        }
    }

    fn handle_full(&self) {
        if self.full.handle_fault() {
            warn!("connection limit reached; closing new connections");
        }
    }

    fn handle_good(&self) {
        let counts = [self.failed.handle_success(), self.full.handle_success()];
        if counts.iter().any(Option::is_some) {
            let count: u64 = counts.into_iter().flatten().sum();
            info!(count, "listener accepts connections again");
        }
    }
}
