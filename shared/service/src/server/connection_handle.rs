//! [`ConnectionHandle`]: a request's hold on the connection that it came by.

use std::sync::Arc;

use super::{
    connection_limit::ConnectionPermit,
    peer_net::PeerNet,
    unauthenticated::{AuthenticatedGuard, TrackedConnection},
};

/// Holds a connection's permit for as long as a clone of it lives, after an upgrade too. It is an extension of
/// every request: the handler that upgrades the connection keeps it.
#[derive(Clone)]
pub struct ConnectionHandle(pub(super) Arc<OpenConnection>);

pub(super) struct OpenConnection {
    pub(super) tracked: Arc<TrackedConnection>,
    _permit: ConnectionPermit,
}

impl ConnectionHandle {
    pub(super) fn new(tracked: Arc<TrackedConnection>, permit: ConnectionPermit) -> Self {
        Self(Arc::new(OpenConnection { tracked, _permit: permit }))
    }

    /// Marks the connection as authenticated, or as being served. It is not closed in favour of a newer one
    /// while the guard lives.
    pub fn mark_authenticated(&self) -> AuthenticatedGuard {
        self.0.tracked.mark_authenticated()
    }

    /// Counts the connection under this network from now on.
    pub(super) fn set_peer_net(&self, net: PeerNet) {
        self.0.tracked.set_peer_net(net);
    }
}
