//! Why a connection ended or failed, and the delay that follows. Pure.

use std::time::Duration;

use spoke_diagnostics::error_chain;
use spoke_protocol::{
    message::{Goaway, GoawayReason},
    sync::SessionEnd,
};
use spoke_store::{StoreError, driver::SessionError};

use crate::{
    dial::{DialError, websocket::WebSocketError},
    limits::OWN_REDIS_RETRY,
};

/// The end of a session, or of an attempt to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// The kind, which decides what follows.
    pub cause: DisconnectCause,
    /// The error for the operator.
    pub message: String,
    /// The minimum delay before the next attempt, as requested by the hub.
    pub retry_after: Option<Duration>,
}

/// The kinds of disconnects that are handled differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectCause {
    /// The agent shuts down, or changes the transport.
    Left,
    /// The device's own Redis failed.
    OwnRedis,
    /// The hub cannot be reached.
    Unreachable,
    /// The certificate of the hub is not trusted.
    Untrusted,
    /// The peer does not accept WebSockets.
    NoWebSocket,
    /// The connection broke before WELCOME.
    Broken,
    /// The hub rejected the token.
    Unauthorized,
    /// A newer session of this client replaced this one.
    Superseded,
    /// Another device with this identity is connected.
    Clone,
    /// The protocol versions are incompatible.
    Version,
    /// The hub is overloaded.
    Busy,
    /// The hub restarts, or its Redis failed.
    Unavailable,
    /// One side violated the protocol, or a new handshake has to find the position of the streams.
    Confused,
    /// The hub's cursor has a value that this device never set.
    ForeignCursor,
    /// The connection broke or went silent after WELCOME.
    Lost,
    /// Entries were sent, and none was acknowledged in time.
    Stalled,
}

/// The delay before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconnectDelay {
    /// No delay.
    None,
    /// The backoff of connection attempts, with the minimum that the hub requested.
    Backoff(Option<Duration>),
    /// The same delay each time.
    Fixed(Duration),
    /// The backoff of refusals, which an operator has to resolve.
    Refused,
    /// The backoff of two devices with one identity, which end each other's sessions.
    DuplicateIdentity(Option<Duration>),
}

impl DisconnectCause {
    /// All causes.
    pub const ALL: [Self; 16] = [
        Self::Left,
        Self::OwnRedis,
        Self::Unreachable,
        Self::Untrusted,
        Self::NoWebSocket,
        Self::Broken,
        Self::Unauthorized,
        Self::Superseded,
        Self::Clone,
        Self::Version,
        Self::Busy,
        Self::Unavailable,
        Self::Confused,
        Self::ForeignCursor,
        Self::Lost,
        Self::Stalled,
    ];

    /// Returns the stable word, for logs, status and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::OwnRedis => "own-redis",
            Self::Unreachable => "unreachable",
            Self::Untrusted => "untrusted",
            Self::NoWebSocket => "no-websocket",
            Self::Broken => "broken",
            Self::Unauthorized => "unauthorized",
            Self::Superseded => "superseded",
            Self::Clone => "clone",
            Self::Version => "version",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Confused => "confused",
            Self::ForeignCursor => "foreign-cursor",
            Self::Lost => "lost",
            Self::Stalled => "stalled",
        }
    }
}

impl Disconnect {
    /// Creates a disconnect without a requested delay.
    pub fn new(cause: DisconnectCause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), retry_after: None }
    }

    /// Returns the disconnect of a GOAWAY of the hub.
    pub fn from_goaway(goaway: &Goaway) -> Self {
        let cause = match goaway.reason {
            GoawayReason::Restart | GoawayReason::Unavailable => DisconnectCause::Unavailable,
            // A delay means that the hub will keep refusing; without one a newer session replaced
            // this one.
            GoawayReason::Superseded if goaway.wait_ms > 0 => DisconnectCause::Clone,
            GoawayReason::Superseded => DisconnectCause::Superseded,
            GoawayReason::Unauthorized => DisconnectCause::Unauthorized,
            GoawayReason::Version => DisconnectCause::Version,
            GoawayReason::Gap
            | GoawayReason::StaleEpoch
            | GoawayReason::EpochAhead
            | GoawayReason::SeqAhead
            | GoawayReason::Protocol
            | GoawayReason::Other => DisconnectCause::Confused,
        };
        let message = format!("the hub answered {}: {}", goaway.reason.word(), goaway.message);
        let retry_after = (goaway.wait_ms > 0).then(|| Duration::from_millis(goaway.wait_ms));
        Self { cause, message, retry_after }
    }

    /// Returns the disconnect at the end of a session.
    pub fn from_session(end: &Result<SessionEnd, SessionError>) -> Self {
        match end {
            Ok(SessionEnd::ClosedByPeer(goaway)) => Self::from_goaway(goaway),
            Ok(SessionEnd::Closed(goaway)) => match goaway.reason {
                GoawayReason::Restart => Self::new(DisconnectCause::Left, goaway.message.clone()),
                GoawayReason::Superseded
                | GoawayReason::Unauthorized
                | GoawayReason::Unavailable
                | GoawayReason::Gap
                | GoawayReason::StaleEpoch
                | GoawayReason::EpochAhead
                | GoawayReason::SeqAhead
                | GoawayReason::Protocol
                | GoawayReason::Version
                | GoawayReason::Other => Self::new(
                    DisconnectCause::Confused,
                    format!("{}: {}", goaway.reason.word(), goaway.message),
                ),
            },
            Ok(end @ SessionEnd::IdleTimeout(_)) => {
                Self::new(DisconnectCause::Lost, end.to_string())
            }
            Ok(end @ SessionEnd::AckTimeout) => Self::new(
                DisconnectCause::Stalled,
                format!(
                    "{end}. Reconnecting; if that does not help, see the hub's log and the \
                     proxies in between"
                ),
            ),
            Err(SessionError::Store(error)) => Self::from(error),
            Err(error @ (SessionError::Transport(_) | SessionError::Closed)) => {
                Self::new(DisconnectCause::Lost, error_chain(error))
            }
        }
    }

    /// Returns the delay before the next attempt.
    pub fn reconnect_delay(&self) -> ReconnectDelay {
        match self.cause {
            DisconnectCause::Left => ReconnectDelay::None,
            DisconnectCause::Version => ReconnectDelay::Refused,
            DisconnectCause::Superseded | DisconnectCause::Clone => {
                ReconnectDelay::DuplicateIdentity(self.retry_after)
            }
            DisconnectCause::OwnRedis => ReconnectDelay::Fixed(OWN_REDIS_RETRY),
            DisconnectCause::Unavailable => {
                self.retry_after.map_or(ReconnectDelay::Backoff(None), ReconnectDelay::Fixed)
            }
            DisconnectCause::Unreachable
            | DisconnectCause::Untrusted
            | DisconnectCause::NoWebSocket
            | DisconnectCause::Broken
            | DisconnectCause::Unauthorized
            | DisconnectCause::Busy
            | DisconnectCause::Confused
            | DisconnectCause::ForeignCursor
            | DisconnectCause::Lost
            | DisconnectCause::Stalled => ReconnectDelay::Backoff(self.retry_after),
        }
    }
}

impl From<&StoreError> for Disconnect {
    fn from(error: &StoreError) -> Self {
        Self::new(DisconnectCause::OwnRedis, format!("this device's redis: {}", error_chain(error)))
    }
}

impl From<&WebSocketError> for Disconnect {
    fn from(error: &WebSocketError) -> Self {
        let mut disconnect = Self::new(DisconnectCause::Unreachable, error_chain(error));
        disconnect.cause = match error {
            WebSocketError::Dial(DialError::Unreachable { .. } | DialError::Proxy { .. }) => {
                DisconnectCause::Unreachable
            }
            WebSocketError::Dial(DialError::Untrusted { .. }) => DisconnectCause::Untrusted,
            WebSocketError::Broken { .. } => DisconnectCause::Broken,
            WebSocketError::NoWebSocket { .. } | WebSocketError::NoTunnel(_) => {
                DisconnectCause::NoWebSocket
            }
            WebSocketError::Rejected { response, .. } => {
                disconnect.retry_after = response.retry_after;
                match response.status {
                    http::StatusCode::UNAUTHORIZED => DisconnectCause::Unauthorized,
                    _ if response.is_unavailable() => DisconnectCause::Unavailable,
                    _ if response.is_busy() => DisconnectCause::Busy,
                    _ => DisconnectCause::NoWebSocket,
                }
            }
        };
        disconnect
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;
    use crate::error_response::ErrorResponse;

    fn goaway(reason: GoawayReason, wait_ms: u64) -> Goaway {
        Goaway { reason, message: "m".to_owned(), wait_ms }
    }

    #[test]
    fn each_goaway_reason_has_its_reconnect_delay() {
        let delay =
            |reason, wait_ms| Disconnect::from_goaway(&goaway(reason, wait_ms)).reconnect_delay();
        let three = Some(Duration::from_secs(3));
        assert_eq!(
            delay(GoawayReason::Restart, 3000),
            ReconnectDelay::Fixed(Duration::from_secs(3))
        );
        assert_eq!(
            delay(GoawayReason::Unavailable, 3000),
            ReconnectDelay::Fixed(Duration::from_secs(3))
        );
        assert_eq!(delay(GoawayReason::Unavailable, 0), ReconnectDelay::Backoff(None));
        assert_eq!(delay(GoawayReason::Superseded, 0), ReconnectDelay::DuplicateIdentity(None));
        assert_eq!(delay(GoawayReason::Superseded, 3000), ReconnectDelay::DuplicateIdentity(three));
        assert_eq!(
            Disconnect::from_goaway(&goaway(GoawayReason::Superseded, 3000)).cause,
            DisconnectCause::Clone
        );
        assert_eq!(delay(GoawayReason::Version, 0), ReconnectDelay::Refused);
        for reason in [
            GoawayReason::Gap,
            GoawayReason::StaleEpoch,
            GoawayReason::Protocol,
            GoawayReason::Other,
        ] {
            assert_eq!(
                Disconnect::from_goaway(&goaway(reason, 0)).cause,
                DisconnectCause::Confused
            );
        }
        assert_eq!(
            Disconnect::from_goaway(&goaway(GoawayReason::Unauthorized, 0)).cause,
            DisconnectCause::Unauthorized
        );
    }

    #[test]
    fn a_session_closed_by_this_agent_is_not_a_fault() {
        let closed =
            Disconnect::from_session(&Ok(SessionEnd::Closed(goaway(GoawayReason::Restart, 0))));
        assert_eq!(
            (closed.cause, closed.reconnect_delay()),
            (DisconnectCause::Left, ReconnectDelay::None)
        );
        let gap = Disconnect::from_session(&Ok(SessionEnd::Closed(goaway(GoawayReason::Gap, 0))));
        assert_eq!(gap.cause, DisconnectCause::Confused);
        assert_eq!(
            Disconnect::from_session(&Ok(SessionEnd::AckTimeout)).cause,
            DisconnectCause::Stalled
        );
        assert_eq!(
            Disconnect::from_session(&Err(SessionError::Closed)).cause,
            DisconnectCause::Lost
        );
    }

    #[test]
    fn a_refused_upgrade_is_classified_by_its_status() {
        for (status, cause) in [
            (401, DisconnectCause::Unauthorized),
            (429, DisconnectCause::Busy),
            (503, DisconnectCause::Busy),
            (400, DisconnectCause::NoWebSocket),
            (404, DisconnectCause::NoWebSocket),
            (426, DisconnectCause::NoWebSocket),
            (502, DisconnectCause::NoWebSocket),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_static("5"));
            let response = ErrorResponse::new(StatusCode::from_u16(status).unwrap(), &headers, b"");
            let hub = "https://h".parse().unwrap();
            let error = WebSocketError::Rejected { hub, response: Box::new(response) };
            let disconnect = Disconnect::from(&error);
            assert_eq!(disconnect.cause, cause, "{status}");
            assert_eq!(disconnect.retry_after, Some(Duration::from_secs(5)));
        }
    }
}
