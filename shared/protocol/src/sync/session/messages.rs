//! What a session tells its peer, for a person.

use crate::message::GoawayReason;

/// The key is for those alone who can read the log there.
pub(super) const UNWRITABLE: &str =
    "its in stream cannot be used as it is; its log names the key, and the mend";

/// For a person, where the reason's word alone would not do.
pub(super) fn goaway_message(reason: GoawayReason) -> &'static str {
    match reason {
        GoawayReason::Superseded => {
            "a newer session of this client has begun; if that is another device, two devices share \
             one identity"
        }
        GoawayReason::StaleEpoch => {
            "the copy is in a newer life of this stream; a new handshake sorts it out"
        }
        GoawayReason::Gap => {
            "the copy's cursor lies before this batch; a new handshake sorts it out"
        }
        GoawayReason::EpochAhead => {
            "the batch is of a life of the stream further on than the next one that the copy knows of"
        }
        GoawayReason::SeqAhead => "the batch ends more than 24 hours ahead of the hub's clock",
        GoawayReason::Protocol => {
            "the batch breaks a rule of the protocol: its order, its size or its losses"
        }
        GoawayReason::Unavailable => {
            "this client has asked for too many searches, or told of too many losses"
        }
        GoawayReason::Restart
        | GoawayReason::Unauthorized
        | GoawayReason::Version
        | GoawayReason::Other => "",
    }
}
