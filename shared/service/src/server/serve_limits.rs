//! [`ServeLimits`]: the bounds of one listener.

use std::time::Duration;

use crate::limits::{
    CONNECTIONS_MAX, DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, KEEP_ALIVE_LINGER, UNAUTHENTICATED_MIN,
    UNAUTHENTICATED_SHARE,
};
use spoke_protocol::limits::PROGRESS_TIMEOUT;

/// The bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Open connections, upgraded ones included.
    pub connections: usize,
    /// Of those, unauthenticated connections.
    pub unauthenticated: usize,
    /// From the connection to the end of a request's header.
    pub header_read: Duration,
    /// For the TLS handshake.
    pub tls_handshake: Duration,
    /// For the next request of a connection that is kept alive, when the shutdown begins.
    pub linger: Duration,
    /// For a response of which the peer reads no byte.
    pub write_stall: Duration,
    /// For requests in progress when the shutdown begins.
    pub drain: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self::of(CONNECTIONS_MAX)
    }
}

impl ServeLimits {
    /// Returns the limits of a listener with this many connections.
    pub fn of(connections: usize) -> Self {
        Self {
            connections,
            unauthenticated: (connections / UNAUTHENTICATED_SHARE).max(UNAUTHENTICATED_MIN),
            header_read: HANDSHAKE_TIMEOUT,
            tls_handshake: HANDSHAKE_TIMEOUT,
            linger: KEEP_ALIVE_LINGER,
            write_stall: PROGRESS_TIMEOUT,
            drain: DRAIN_TIMEOUT,
        }
    }
}
