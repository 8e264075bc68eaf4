//! What bounds each service, each with its reason.
//!
//! What a user may need to move is a setting whose default stands here; the rest is fixed.

use std::time::Duration;

// ---- Time -------------------------------------------------------------------------------------

/// From the TCP connection to the end of the handshake. A 2G link with a new TLS session takes five.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a request's whole body; at a hub each KiB that has come earns another second (`SLOWEST_LINK`), so that
/// an entry on a slow link has as long as on a WebSocket.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a service finishes what is in hand after SIGTERM; systemd kills at 90 s.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after that a connection that is kept alive is listened to, unless it is told in an answer
/// that it closes: the next request may be on its way already, and would go without one.
pub const KEEP_ALIVE_LINGER: Duration = Duration::from_millis(500);

// ---- Connections ------------------------------------------------------------------------------

/// Connections of one listener. Ten thousand agents and room for their reconnects.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Connections that the kernel keeps at the door until they are accepted. A fleet that comes back at
/// once overran tokio's 1024: the kernel then forgets handshakes that the devices take for done, and
/// they wait 10 s for an answer. Linux takes no more than net.core.somaxconn, 4096 since 5.4.
pub const LISTEN_BACKLOG: u32 = 4096;
/// One in so many of those may be a stranger's: handshakes, requests without a live token, waits
/// between requests. Room for a fleet that comes back at once, and for three times as many that are
/// known. One more takes the place of an older one.
pub const STRANGERS_SHARE: usize = 4;
/// Strangers that there is always room for.
pub const STRANGERS_MIN: usize = 16;
/// Bytes of a request's header, and so of what a stranger's connection holds: 160 MB for all of them.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Bytes that one connection of HTTP/2, and each request of it, may send ahead of who reads them: 320 MB
/// for all strangers, and a body of 4 MiB takes 64 round trips.
pub const HTTP2_WINDOW_BYTES: u32 = 64 * 1024;
/// How often the files of a certificate are looked at: soon enough for who has just renewed one, and two
/// small files.
pub const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(5);
/// Requests of one client in hand at a time. An agent has three; each may bring a body of 4 MiB.
pub const REQUESTS_PER_CLIENT_MAX: usize = 32;
/// Connections of one admin listener: a scraper, a person, a probe.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;

// ---- What operators look at -----------------------------------------------------------------------

/// How long Redis is asked for a page of figures: Prometheus gives up after 10 s.
pub const SCRAPE_LOOK_TIMEOUT: Duration = Duration::from_secs(2);
