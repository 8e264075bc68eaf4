//! Counters of the hub. No label contains a client's name, so a metrics page costs the same with
//! ten thousand clients as with one.

pub(crate) mod page;

use spoke_diagnostics::{
    metrics::{Counter, CounterVec},
    unix_ms,
};
use spoke_protocol::{Direction, message::GoawayReason, sync::SessionEnd};
use spoke_service::SessionMetrics;
use spoke_store::{driver::SessionError, presence::Transport};

/// Counted routes.
const ROUTES: [&str; 5] = ["seq", "session", "sync", "xadd", "xread"];
/// Reasons of a session's end besides those of a GOAWAY.
const ENDS: [&str; 6] = ["left", "silent", "stalled", "redis", "broken", CLOSED];
/// The peer closed the connection.
pub(crate) const CLOSED: &str = "closed";

/// Counters of one hub process.
pub(crate) struct HubMetrics {
    pub traffic: SessionMetrics,
    pub sessions: CounterVec,
    pub ended: CounterVec,
    pub superseded: Counter,
    pub clones: Counter,
    /// Entries trimmed from the in stream before a consumer group had read them.
    pub trimmed_unread: Counter,
    pub unauthorized: Counter,
    pub store_errors: Counter,
    pub requests: CounterVec,
    started_ms: u64,
}

impl Default for HubMetrics {
    fn default() -> Self {
        let transports = [Transport::WebSocket, Transport::Http];
        Self {
            traffic: SessionMetrics::new(Direction::Down),
            sessions: CounterVec::new(transports.map(Transport::word)),
            ended: CounterVec::new(ENDS.into_iter().chain(GoawayReason::words())),
            superseded: Counter::default(),
            clones: Counter::default(),
            trimmed_unread: Counter::default(),
            unauthorized: Counter::default(),
            store_errors: Counter::default(),
            requests: CounterVec::new(ROUTES),
            started_ms: unix_ms(),
        }
    }
}

/// Returns the reason of a session's end as one word.
pub(crate) fn end_word(end: &Result<SessionEnd, SessionError>) -> &'static str {
    match end {
        Ok(SessionEnd::ClosedByPeer(goaway)) if goaway.reason == GoawayReason::Restart => "left",
        Ok(SessionEnd::ClosedByPeer(goaway) | SessionEnd::Closed(goaway)) => goaway.reason.word(),
        Ok(SessionEnd::IdleTimeout(_)) => "silent",
        Ok(SessionEnd::AckTimeout) => "stalled",
        Err(SessionError::Store(_)) => "redis",
        Err(SessionError::Transport(_)) => "broken",
        Err(SessionError::Closed) => CLOSED,
    }
}
