//! How a session begins at this hub, or is refused: a second device with the same identity came back
//! while the first is connected.

use http::StatusCode;
use spoke_diagnostics::clock::unix_ms;
use spoke_protocol::{
    client_id::ClientId,
    message::{Cursor, Goaway, GoawayReason, OriginState},
    partner::{PartnerId, PartnerMatch},
    seq::Seq,
    sync::resume::SenderStart,
};
use spoke_service::api_error::ApiError;
use spoke_store::{
    StoreError,
    origin::StartWith,
    presence::{self, IdentityConflict, SessionOpen, SessionOpened},
};
use tracing::{debug, warn};

use crate::{
    bearer::Caller,
    hub::{Hub, epoch_ahead, seq_ahead},
    limits::CLONE_WAIT,
};

/// What a device tells of itself when it comes.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// Its out stream.
    pub origin: OriginState,
    /// Its in stream.
    pub cursor: Cursor,
    /// With whom these stand where they do.
    pub partner: PartnerId,
}

/// Where both streams begin: the out stream of the client here, and its place in the copy. A copy that
/// should have something of it, and has no cursor, is searched.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn stand(
    hub: &Hub,
    caller: &Caller,
    (generation, partner): (u64, PartnerId),
    told: &Told,
) -> Result<(SenderStart, Cursor), StoreError> {
    let (origin, copy) = (hub.origin(&caller.client), hub.copy(caller, Some(generation)));
    let with =
        StartWith { partner_match: PartnerMatch::at_hub(told.partner, partner), partner: None };
    let is_known = told.partner == partner && !told.origin.acked.is_zero();
    let cursor = async {
        match is_known {
            true => copy.cursor_or_search().await,
            false => copy.cursor().await,
        }
    };
    tokio::try_join!(origin.start_sender(&told.cursor, &with, unix_ms()), cursor)
}

/// Begins a session and gives its generation, and what the client is to this hub; every older one of the client is fenced from here on.
///
/// # Errors
/// 409 for a second device, and for one that tells of a cursor or an epoch that it cannot have; 503.
pub async fn begin(
    hub: &Hub,
    client: &ClientId,
    arrival: &SessionOpen<'_>,
    cursor: Seq,
) -> Result<(u64, PartnerId), ApiError> {
    check_cursor(hub, client, cursor).await?;
    let arrived = presence::open_session(&hub.redis, &hub.keys, client, arrival, unix_ms()).await;
    match hub.checked(arrived)? {
        SessionOpened::Opened(generation, partner) => {
            hub.metrics.sessions.add(arrival.transport.word(), 1);
            Ok((generation, partner))
        }
        SessionOpened::Refused(rival) => {
            hub.metrics.clones.add(1);
            report(client, arrival.address, &rival);
            Err(refusal(client, arrival.address, &rival))
        }
        SessionOpened::EpochAhead(direction, known) => {
            let address = arrival.address;
            let direction = direction.word();
            warn!(%client, address, direction, %known, "session refused: its epoch is ahead of the hub's");
            Err(epoch_ahead(known))
        }
    }
}

/// The cursor of a device's in stream is a seq of its out stream here: not more than a day ahead of our
/// clock, unless an app has made such a one.
async fn check_cursor(hub: &Hub, client: &ClientId, cursor: Seq) -> Result<(), ApiError> {
    if cursor <= Seq::ceiling(unix_ms()) {
        return Ok(());
    }
    let standing = hub.checked(hub.origin(client).last_known_standing().await)?;
    if cursor <= standing.extent.last { Ok(()) } else { Err(seq_ahead()) }
}

/// The same refusal as a last frame.
pub fn goaway(refusal: &ApiError) -> Goaway {
    Goaway {
        reason: GoawayReason::from_word(refusal.reason),
        message: refusal.message.clone(),
        wait_ms: refusal.retry_after_seconds.unwrap_or(0) * 1000,
    }
}

/// Aloud once for each device that is kept out, however often it comes back.
fn report(client: &ClientId, address: &str, rival: &IdentityConflict) {
    let IdentityConflict { address: connected, connected_since_ms, refused, is_first } = rival;
    if *is_first {
        warn!(
            %client,
            connected,
            connected_since_ms,
            kept_out = address,
            refused,
            "two devices share one identity; the one that is connected stays, the other is kept out: \
             provision one of them anew under a name of its own, or revoke the identity"
        );
    } else {
        debug!(%client, connected, kept_out = address, refused, "kept out again");
    }
}

fn refusal(client: &ClientId, address: &str, rival: &IdentityConflict) -> ApiError {
    let message = format!(
        "two devices share the identity {client}: the one at {} is connected, and this one, at \
         {address}, is kept out; enrol one of them anew under a name of its own (spoke-auth \
         provision), or end both with spoke-auth revoke {client} if one is not yours",
        rival.address
    );
    ApiError::new(StatusCode::CONFLICT, GoawayReason::Superseded.word(), message)
        .retry_after(CLONE_WAIT.as_secs())
}

#[cfg(test)]
mod tests {
    use spoke_protocol::limits::{CLIENT_NAME_BYTES_MAX, TEXT_BYTES_MAX};

    use super::*;

    #[test]
    fn the_longest_refusal_fits_a_frame_with_both_addresses_and_the_mend() {
        let client: ClientId = "c".repeat(CLIENT_NAME_BYTES_MAX).parse().unwrap();
        let address = format!("[{}]:65535", ["ffff"; 8].join(":"));
        let rival = IdentityConflict {
            address: address.replace("65535", "65534"),
            connected_since_ms: 1,
            refused: 1,
            is_first: true,
        };

        let goaway = goaway(&refusal(&client, &address, &rival));

        assert!(goaway.message.len() <= TEXT_BYTES_MAX, "{}", goaway.message.len());
        assert!(goaway.message.contains(&address) && goaway.message.contains(&rival.address));
        assert!(goaway.message.contains(&format!("revoke {client}")));
        assert_eq!(goaway.reason, GoawayReason::Superseded);
        assert_eq!(u128::from(goaway.wait_ms), CLONE_WAIT.as_millis());
    }
}
