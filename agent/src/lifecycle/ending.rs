//! Why there is no connection any more, and what follows from that: pure.

use std::time::Duration;

use spoke_diagnostics::error_chain::error_chain;
use spoke_protocol::{
    message::{Goaway, GoawayReason},
    sync::session::SessionEnd,
};
use spoke_store::{StoreError, driver::SessionError};

use crate::{
    dial::{DialError, websocket::WebSocketError},
    limits::OWN_REDIS_RETRY,
};

/// How a try to connect, or a session, came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Which kind.
    pub cause: Cause,
    /// What a person should read.
    pub message: String,
    /// Not to come back before this has passed, as the hub said.
    pub hint: Option<Duration>,
}

/// The kinds of endings that are treated differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This agent stops, or takes another transport.
    Left,
    /// The device's own Redis does not answer.
    Store,
    /// No way to the hub.
    Unreachable,
    /// Who answers cannot prove to be the hub.
    Untrusted,
    /// What answers makes no WebSockets.
    NoWebSocket,
    /// The line broke before WELCOME.
    Broken,
    /// The hub does not take the token.
    Unauthorized,
    /// A newer session of this client has begun.
    Superseded,
    /// Another device with this identity is connected.
    Clone,
    /// The versions do not go together.
    Version,
    /// The hub sends away for a while.
    Busy,
    /// The hub stops, or its Redis is in trouble.
    Unavailable,
    /// One side broke the protocol, or a handshake has to sort out where the streams stand.
    Confused,
    /// The hub's cursor stands where this device never moved it.
    ForeignCursor,
    /// The line broke, or fell silent, after WELCOME.
    Lost,
    /// Entries were sent and nothing was acknowledged.
    Stalled,
}

/// How long until the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// None.
    None,
    /// The waits between tries to connect.
    Connect(Option<Duration>),
    /// This long, however often it was so.
    Told(Duration),
    /// The waits for a person.
    Refused,
    /// The same, apart from the rest: two devices with one identity end each other's.
    Twin(Option<Duration>),
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Left,
        Self::Store,
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

    /// The stable word, in logs and status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Store => "own-redis",
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

impl Ending {
    /// An ending without a hint.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), hint: None }
    }

    /// What the hub said with its GOAWAY.
    pub fn told(goaway: &Goaway) -> Self {
        let cause = match goaway.reason {
            GoawayReason::Restart | GoawayReason::Unavailable => Cause::Unavailable,
            // A wait says that the hub will keep refusing; without it a newer session took the place.
            GoawayReason::Superseded if goaway.wait_ms > 0 => Cause::Clone,
            GoawayReason::Superseded => Cause::Superseded,
            GoawayReason::Unauthorized => Cause::Unauthorized,
            GoawayReason::Version => Cause::Version,
            GoawayReason::Gap
            | GoawayReason::StaleEpoch
            | GoawayReason::EpochAhead
            | GoawayReason::SeqAhead
            | GoawayReason::Protocol
            | GoawayReason::Other => Cause::Confused,
        };
        let message = format!("the hub said {}: {}", goaway.reason.word(), goaway.message);
        let hint = (goaway.wait_ms > 0).then(|| Duration::from_millis(goaway.wait_ms));
        Self { cause, message, hint }
    }

    /// How a session went.
    pub fn of_session(end: &Result<SessionEnd, SessionError>) -> Self {
        match end {
            Ok(SessionEnd::ClosedByPeer(goaway)) => Self::told(goaway),
            Ok(SessionEnd::Closed(goaway)) => match goaway.reason {
                GoawayReason::Restart => Self::new(Cause::Left, goaway.message.clone()),
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
                    Cause::Confused,
                    format!("{}: {}", goaway.reason.word(), goaway.message),
                ),
            },
            Ok(end @ SessionEnd::IdleTimeout(_)) => Self::new(Cause::Lost, end.to_string()),
            Ok(end @ SessionEnd::AckTimeout) => Self::new(
                Cause::Stalled,
                format!(
                    "{end}; the link is made anew, and where that does not help, see the hub's log \
                     and what stands in between"
                ),
            ),
            Err(SessionError::Store(error)) => Self::from(error),
            Err(error @ (SessionError::Transport(_) | SessionError::Closed)) => {
                Self::new(Cause::Lost, error_chain(error))
            }
        }
    }

    /// How long until the next try.
    pub fn pause(&self) -> Pause {
        match self.cause {
            Cause::Left => Pause::None,
            Cause::Version => Pause::Refused,
            Cause::Superseded | Cause::Clone => Pause::Twin(self.hint),
            Cause::Store => Pause::Told(OWN_REDIS_RETRY),
            Cause::Unavailable => self.hint.map_or(Pause::Connect(None), Pause::Told),
            Cause::Unreachable
            | Cause::Untrusted
            | Cause::NoWebSocket
            | Cause::Broken
            | Cause::Unauthorized
            | Cause::Busy
            | Cause::Confused
            | Cause::ForeignCursor
            | Cause::Lost
            | Cause::Stalled => Pause::Connect(self.hint),
        }
    }
}

impl From<&StoreError> for Ending {
    fn from(error: &StoreError) -> Self {
        Self::new(Cause::Store, format!("this device's own redis: {}", error_chain(error)))
    }
}

impl From<&WebSocketError> for Ending {
    fn from(error: &WebSocketError) -> Self {
        let mut ending = Self::new(Cause::Unreachable, error_chain(error));
        ending.cause = match error {
            WebSocketError::Dial(DialError::Unreachable { .. } | DialError::Proxy { .. }) => {
                Cause::Unreachable
            }
            WebSocketError::Dial(DialError::Untrusted { .. }) => Cause::Untrusted,
            WebSocketError::Broken { .. } => Cause::Broken,
            WebSocketError::NoWebSocket { .. } | WebSocketError::NoTunnel(_) => Cause::NoWebSocket,
            WebSocketError::Denied { denial, .. } => {
                ending.hint = denial.retry_after;
                match denial.status {
                    http::StatusCode::UNAUTHORIZED => Cause::Unauthorized,
                    _ if denial.is_unavailable() => Cause::Unavailable,
                    _ if denial.is_busy() => Cause::Busy,
                    _ => Cause::NoWebSocket,
                }
            }
        };
        ending
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;
    use crate::denial::Denial;

    fn goaway(reason: GoawayReason, wait_ms: u64) -> Goaway {
        Goaway { reason, message: "m".to_owned(), wait_ms }
    }

    #[test]
    fn each_word_of_the_hub_has_its_consequence() {
        let told = |reason, wait_ms| Ending::told(&goaway(reason, wait_ms)).pause();
        let three = Some(Duration::from_secs(3));
        assert_eq!(told(GoawayReason::Restart, 3000), Pause::Told(Duration::from_secs(3)));
        assert_eq!(told(GoawayReason::Unavailable, 3000), Pause::Told(Duration::from_secs(3)));
        assert_eq!(told(GoawayReason::Unavailable, 0), Pause::Connect(None));
        assert_eq!(told(GoawayReason::Superseded, 0), Pause::Twin(None));
        assert_eq!(told(GoawayReason::Superseded, 3000), Pause::Twin(three));
        assert_eq!(Ending::told(&goaway(GoawayReason::Superseded, 3000)).cause, Cause::Clone);
        assert_eq!(told(GoawayReason::Version, 0), Pause::Refused);
        for reason in [
            GoawayReason::Gap,
            GoawayReason::StaleEpoch,
            GoawayReason::Protocol,
            GoawayReason::Other,
        ] {
            assert_eq!(Ending::told(&goaway(reason, 0)).cause, Cause::Confused);
        }
        assert_eq!(Ending::told(&goaway(GoawayReason::Unauthorized, 0)).cause, Cause::Unauthorized);
    }

    #[test]
    fn a_session_that_this_side_leaves_is_no_fault() {
        let left = Ending::of_session(&Ok(SessionEnd::Closed(goaway(GoawayReason::Restart, 0))));
        assert_eq!((left.cause, left.pause()), (Cause::Left, Pause::None));
        let gap = Ending::of_session(&Ok(SessionEnd::Closed(goaway(GoawayReason::Gap, 0))));
        assert_eq!(gap.cause, Cause::Confused);
        assert_eq!(Ending::of_session(&Ok(SessionEnd::AckTimeout)).cause, Cause::Stalled);
        assert_eq!(Ending::of_session(&Err(SessionError::Closed)).cause, Cause::Lost);
    }

    #[test]
    fn a_refused_upgrade_is_told_by_its_status() {
        for (status, cause) in [
            (401, Cause::Unauthorized),
            (429, Cause::Busy),
            (503, Cause::Busy),
            (400, Cause::NoWebSocket),
            (404, Cause::NoWebSocket),
            (426, Cause::NoWebSocket),
            (502, Cause::NoWebSocket),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_static("5"));
            let denial = Denial::new(StatusCode::from_u16(status).unwrap(), &headers, b"");
            let hub = "https://h".parse().unwrap();
            let error = WebSocketError::Denied { hub, denial: Box::new(denial) };
            let ending = Ending::from(&error);
            assert_eq!(ending.cause, cause, "{status}");
            assert_eq!(ending.hint, Some(Duration::from_secs(5)));
        }
    }
}
