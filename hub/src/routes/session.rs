//! `POST /session`: the handshake of the HTTP transport, with the same proof and the same fence as
//! on the WebSocket.

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    routing::post,
};
use spoke_diagnostics::clock::unix_ms;
use spoke_protocol::{
    limits::TEXT_BYTES_MAX,
    message::ReceiveLimits,
    partner::PartnerId,
    seq::Epoch,
    wire::json::{HelloBody, WelcomeBody},
};
use spoke_service::{api_error::ApiError, server::PeerAddress};
use spoke_store::presence::{OriginReach, SessionOpen, Transport};
use tracing::info;

use crate::{
    arrival::{self, Told},
    bearer::{Caller, malformed},
    body::{self, Read},
    hub::Hub,
};

pub(super) fn router() -> Router<Hub> {
    Router::new().route("/session", post(session))
}

async fn session(
    State(hub): State<Hub>,
    Extension(address): Extension<PeerAddress>,
    caller: Caller,
    request: Request,
) -> Result<Json<WelcomeBody>, ApiError> {
    hub.metrics.requests.add("session", 1);
    let Read { form: hello, .. } = body::read::<HelloBody>(&hub, &caller, request).await?;
    if hello.version.len() > TEXT_BYTES_MAX {
        return Err(malformed(format!("version has more than {TEXT_BYTES_MAX} bytes")));
    }
    hub.check_stays()?;
    caller.begin_session()?;
    let client = &caller.client;
    let address = address.to_string();
    let arrival = SessionOpen {
        version: &hello.version,
        address: &address,
        hub: &hub.name,
        instance: hello.instance.unwrap_or_default(),
        transport: Transport::Http,
        reach: Some(OriginReach {
            first: hello.origin.first,
            last: hello.origin.last,
            added: hello.origin.added,
        }),
        registered_at_ms: caller.registered_at_ms,
        epochs: (hello.origin.epoch, hello.cursor.epoch),
    };
    let (generation, partner) = arrival::begin(&hub, client, &arrival, hello.cursor.seq).await?;
    hub.metrics.superseded.add(hub.live.supersede(client, generation));
    let told = Told {
        origin: hello.origin.into(),
        cursor: hello.cursor.into(),
        partner: hello.partner.unwrap_or(PartnerId::UNKNOWN),
    };
    let stand = arrival::stand(&hub, &caller, (generation, partner), &told).await;
    let (mut begun, cursor) = hub.checked(stand)?;
    if begun.standing.is_unreadable {
        // Nothing was proved: once the stream can be read again a poll from here is told to begin anew.
        begun.position.epoch = Epoch::UNKNOWN;
    }
    let losses = begun.position.loss.iter();
    losses.for_each(|loss| hub.metrics.traffic.sent.handle_loss(loss));
    info!(%client, generation, version = hello.version, "session begins over HTTP");
    Ok(Json(WelcomeBody {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation,
        cursor: cursor.into(),
        origin: begun.standing.origin_state().into(),
        position: begun.position.into(),
        granted: ReceiveLimits::default().into(),
        server_time_ms: unix_ms(),
        partner,
    }))
}
