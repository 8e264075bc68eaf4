//! The HTTP server of every listener: HTTP/1.1, with TLS also HTTP/2, and bounds on everything.
//!
//! axum's own server has no limit on connections, on the time a header may take, or on a TLS handshake. This
//! one has, and it records when the last byte came, which a WebSocket library that hands out whole messages
//! cannot tell. An upgraded connection leaves this server: the service tracks it. Rejected requests are logged
//! here at a bounded rate, so that no client can fill the log.

mod peer_net;
mod serve_limits;
mod connection_limit;
mod unauthenticated;
mod connection_handle;
mod peer_address;
mod forwarded;
mod rejection_log;
mod write_timeout;
mod connection;
#[cfg(feature = "http2")]
mod http2;
mod security;
mod certificate;
mod listener;
mod acceptor;
mod admin;

pub use self::{
    acceptor::{serve, serve_devices},
    admin::{admin_router, serve_admin},
    certificate::{Certificate, CertificateChange},
    connection_handle::ConnectionHandle,
    connection_limit::ConnectionLimit,
    forwarded::behind,
    listener::{Listeners, bind},
    peer_address::PeerAddress,
    peer_net::PeerNet,
    serve_limits::ServeLimits,
    unauthenticated::AuthenticatedGuard,
};

#[cfg(test)]
mod tests;
