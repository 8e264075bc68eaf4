//! Opens a session at this hub, or refuses a second device with the identity of a connected one.

use http::StatusCode;
use spoke_diagnostics::unix_ms;
use spoke_protocol::{
    ClientId, PartnerId, PartnerMatch, Seq,
    message::{Cursor, Goaway, GoawayReason, OriginState},
    sync::SenderStart,
};
use spoke_service::api_error::ApiError;
use spoke_store::{
    StartWith, StoreError,
    presence::{self, IdentityConflict, SessionOpen, SessionOpened},
};
use tracing::{debug, field, warn};

use crate::{
    authenticate::Caller,
    limits::CLONE_WAIT,
    state::{HubState, epoch_ahead, seq_ahead},
};

/// State of both streams that a device reports in its handshake.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReportedState {
    /// Its out stream.
    pub origin: OriginState,
    /// Cursor of its in stream.
    pub cursor: Cursor,
    /// Hub that the cursors refer to.
    pub partner: PartnerId,
}

/// Returns where both streams resume: the client's out stream here, and its cursor in the copy. A
/// copy without the cursor that it should have is searched.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub(crate) async fn resume_streams(
    hub: &HubState,
    caller: &Caller,
    (generation, partner): (u64, PartnerId),
    reported: &ReportedState,
) -> Result<(SenderStart, Cursor), StoreError> {
    let (origin, copy) = (hub.origin(&caller.client), caller.copy(hub, Some(generation)));
    let with =
        StartWith { partner_match: PartnerMatch::at_hub(reported.partner, partner), partner: None };
    let is_known = reported.partner == partner && !reported.origin.acked.is_zero();
    let cursor = async {
        match is_known {
            true => copy.cursor_or_search().await,
            false => copy.cursor().await,
        }
    };
    tokio::try_join!(origin.start_sender(&reported.cursor, &with, unix_ms()), cursor)
}

/// Starts a session and fences all older ones of the client. Returns its generation and the hub's
/// partner ID.
///
/// # Errors
/// 409 for a duplicate identity, or for a cursor or epoch that the hub cannot have given; 503 if
/// Redis fails.
pub(crate) async fn open(
    hub: &HubState,
    client: &ClientId,
    arrival: &SessionOpen<'_>,
    cursor: Seq,
) -> Result<(u64, PartnerId), ApiError> {
    check_cursor(hub, client, cursor).await?;
    let partition = hub.partitions.of(client);
    let (redis, keys) = (partition.redis(), partition.keys());
    let arrived = presence::open_session(redis, keys, client, arrival, unix_ms()).await;
    match hub.store_result(arrived)? {
        SessionOpened::Opened(generation, partner) => {
            hub.metrics.sessions.add(arrival.transport.word(), 1);
            Ok((generation, partner))
        }
        SessionOpened::Refused(conflict) => {
            hub.metrics.clones.add(1);
            log_conflict(client, arrival.address, &conflict);
            Err(refusal(client, arrival.address, &conflict))
        }
        SessionOpened::EpochAhead(direction, known) => {
            let (peer, direction) = (arrival.address, direction.word());
            let epoch = field::display(known);
            warn!(%client, peer, direction, epoch, "session refused: epoch ahead of the hub's");
            Err(epoch_ahead(known))
        }
    }
}

/// The cursor of a device's in stream is a seq of its out stream here. It is at most a day ahead of
/// the hub's clock, unless an app added an entry with a higher ID.
async fn check_cursor(hub: &HubState, client: &ClientId, cursor: Seq) -> Result<(), ApiError> {
    if cursor <= Seq::ceiling(unix_ms()) {
        return Ok(());
    }
    let standing = hub.store_result(hub.origin(client).last_known_standing().await)?;
    if cursor <= standing.extent.last { Ok(()) } else { Err(seq_ahead()) }
}

/// Converts a refusal to a GOAWAY frame.
pub(crate) fn goaway(refusal: &ApiError) -> Goaway {
    Goaway {
        reason: GoawayReason::from_word(refusal.reason),
        message: refusal.message.clone(),
        wait_ms: refusal.retry_after_seconds.unwrap_or(0) * 1000,
    }
}

/// Warns once for each refused device; its later attempts are logged at debug level.
fn log_conflict(client: &ClientId, address: &str, conflict: &IdentityConflict) {
    let IdentityConflict { address: connected, connected_since_ms, refused, is_first } = conflict;
    if *is_first {
        let help = "provision one of them again under a name of its own, or revoke the identity";
        warn!(
            %client,
            peer = address,
            connected_peer = connected,
            connected_since_ms,
            count = refused,
            help,
            "two devices share one identity; refused the second one"
        );
    } else {
        debug!(
            %client,
            peer = address,
            connected_peer = connected,
            count = refused,
            "duplicate identity refused again"
        );
    }
}

fn refusal(client: &ClientId, address: &str, conflict: &IdentityConflict) -> ApiError {
    let message = format!(
        "two devices share the identity {client}: the device at {} is connected, and this one at \
         {address} was refused; enrol one of them again under a name of its own (spoke-auth \
         provision), or revoke both with spoke-auth revoke {client} if one is not yours",
        conflict.address
    );
    ApiError::new(StatusCode::CONFLICT, GoawayReason::Superseded.word(), message)
        .retry_after(CLONE_WAIT.as_secs())
}

#[cfg(test)]
mod tests {
    use spoke_protocol::limits::{CLIENT_NAME_BYTES_MAX, TEXT_BYTES_MAX};

    use super::*;

    #[test]
    fn the_longest_refusal_fits_a_frame_with_both_addresses_and_the_help() {
        let client: ClientId = "c".repeat(CLIENT_NAME_BYTES_MAX).parse().unwrap();
        let address = format!("[{}]:65535", ["ffff"; 8].join(":"));
        let conflict = IdentityConflict {
            address: address.replace("65535", "65534"),
            connected_since_ms: 1,
            refused: 1,
            is_first: true,
        };

        let goaway = goaway(&refusal(&client, &address, &conflict));

        assert!(goaway.message.len() <= TEXT_BYTES_MAX, "{}", goaway.message.len());
        assert!(goaway.message.contains(&address) && goaway.message.contains(&conflict.address));
        assert!(goaway.message.contains(&format!("revoke {client}")));
        assert_eq!(goaway.reason, GoawayReason::Superseded);
        assert_eq!(u128::from(goaway.wait_ms), CLONE_WAIT.as_millis());
    }
}
