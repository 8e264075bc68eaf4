//! The messages of HOLD and GOAWAY, for a person.

use crate::message::GoawayReason;

/// The message of HOLD. It leaves out the key, which is for the operator of this side.
pub(super) const UNWRITABLE: &str =
    "the in stream of this side cannot be written; its log names the key and the remedy";

/// Returns the message of a GOAWAY with this reason; empty where the reason's word says enough.
pub(super) fn goaway_message(reason: GoawayReason) -> &'static str {
    match reason {
        GoawayReason::Superseded => {
            "a newer session of this client has begun; if that is another device, two devices share \
             one identity"
        }
        GoawayReason::StaleEpoch => {
            "the copy is in a newer epoch of this stream; a new handshake resolves this"
        }
        GoawayReason::Gap => {
            "the batch does not follow the copy's cursor; a new handshake resolves this"
        }
        GoawayReason::EpochAhead => "the batch is more than one epoch ahead of the copy",
        GoawayReason::SeqAhead => "the batch ends more than 24 hours ahead of the hub's clock",
        GoawayReason::Protocol => {
            "the batch breaks a rule of the protocol: its order, its size or its losses"
        }
        GoawayReason::Unavailable => {
            "this client has used up its quota of searches or of reported losses"
        }
        GoawayReason::Restart
        | GoawayReason::Unauthorized
        | GoawayReason::Version
        | GoawayReason::Other => "",
    }
}
