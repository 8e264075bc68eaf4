//! The bounds of every service, each with its reason.
//!
//! A bound that an operator may need to change is a setting, whose default is here. The others are fixed.

use std::time::Duration;

// ---- Time -------------------------------------------------------------------------------------

/// From the TCP connection to the end of the handshake. A 2G link with a new TLS session takes 5 s.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the whole body of a request. At a hub each KiB that has arrived adds a second (`SLOWEST_LINK`), so that an
/// entry on a slow link has as long as on a WebSocket.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// For requests in progress after SIGTERM; systemd kills at 90 s.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// For the next request of a connection that is kept alive, after SIGTERM, unless a response has told the peer
/// that the connection closes: the request may be on its way already, and would get no response.
pub const KEEP_ALIVE_LINGER: Duration = Duration::from_millis(500);
/// Between two tries to accept a connection after one failed.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);

// ---- Connections ------------------------------------------------------------------------------

/// Connections of one listener: ten thousand agents and their reconnects.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Connections that the kernel queues until they are accepted. A fleet that reconnects at once overflowed tokio's
/// 1024: the kernel then drops handshakes that the devices consider done, and they wait 10 s for a response.
/// Linux takes no more than net.core.somaxconn, 4096 since 5.4.
pub const LISTEN_BACKLOG: u32 = 4096;
/// One in this many connections may be unauthenticated: handshakes, requests without a live token, waits between
/// requests. Enough for a fleet that reconnects at once, with three times as many authenticated ones beside it.
/// One more evicts an older one.
pub const UNAUTHENTICATED_SHARE: usize = 4;
/// Unauthenticated connections that a listener of any size takes.
pub const UNAUTHENTICATED_MIN: usize = 16;
/// Bytes of a request's header, and so of an unauthenticated connection: 160 MB for all of them.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Bytes that one connection of HTTP/2, and each request of it, may send ahead of their reader: 320 MB for all
/// unauthenticated ones, and a body of 4 MiB takes 64 round trips.
pub const HTTP2_WINDOW_BYTES: u32 = 64 * 1024;
/// Between two reads of the certificate files: soon enough after a renewal, and the files are small.
pub const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(5);
/// Requests of one client in progress at a time. An agent has three; each may have a body of 4 MiB.
pub const REQUESTS_PER_CLIENT_MAX: usize = 32;
/// Connections of one admin listener: a scraper, an operator, a probe.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;

// ---- Metrics -----------------------------------------------------------------------

/// For the commands to Redis behind a metrics page: Prometheus gives up after 10 s.
pub const SCRAPE_LOOK_TIMEOUT: Duration = Duration::from_secs(2);
