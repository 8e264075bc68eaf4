//! Close frames.

use spoke_protocol::message::GoawayReason;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

/// Returns the close frame for a reason. Codes from 4000 are for private use (RFC 6455, 7.4.2).
pub(super) fn close_frame(reason: GoawayReason) -> Message {
    let code = match reason {
        GoawayReason::Unauthorized => 4401,
        GoawayReason::Superseded => 4409,
        GoawayReason::Restart => 1012,
        GoawayReason::Unavailable => 1013,
        GoawayReason::Gap
        | GoawayReason::StaleEpoch
        | GoawayReason::EpochAhead
        | GoawayReason::SeqAhead
        | GoawayReason::Protocol
        | GoawayReason::Version
        | GoawayReason::Other => 1002,
    };
    Message::Close(Some(CloseFrame { code: code.into(), reason: reason.word().into() }))
}
