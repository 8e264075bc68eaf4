//! `POST /session`: the handshake of the HTTP transport, with the same proof and fence as on the
//! WebSocket.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    routing::post,
};
use spoke_diagnostics::unix_ms;
use spoke_protocol::{
    Epoch, PartnerId,
    limits::TEXT_BYTES_MAX,
    wire::json::{HelloBody, WelcomeBody},
};
use spoke_service::{api_error::ApiError, server::PeerAddress};
use spoke_store::presence::{OriginReach, SessionOpen, Transport};
use tracing::info;

use crate::{
    authenticate::{Caller, malformed},
    charged_body::{self, ChargedBody},
    session_open::{self, ReportedState},
    state::HubState,
};

pub(super) fn router() -> Router<Arc<HubState>> {
    Router::new().route("/session", post(session))
}

async fn session(
    State(hub): State<Arc<HubState>>,
    Extension(address): Extension<PeerAddress>,
    caller: Caller,
    request: Request,
) -> Result<Json<WelcomeBody>, ApiError> {
    hub.metrics.requests.add("session", 1);
    let ChargedBody { form: hello, .. } =
        charged_body::read_body::<HelloBody>(&hub, &caller, request).await?;
    if hello.version.len() > TEXT_BYTES_MAX {
        return Err(malformed(format!("invalid version: expected at most {TEXT_BYTES_MAX} bytes")));
    }
    hub.check_running()?;
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
    let (generation, partner) =
        session_open::open(&hub, client, &arrival, hello.cursor.seq).await?;
    hub.metrics.superseded.add(hub.connections.supersede(client, generation));
    let reported = ReportedState {
        origin: hello.origin.into(),
        cursor: hello.cursor.into(),
        partner: hello.partner.unwrap_or(PartnerId::UNKNOWN),
    };
    let resumed =
        session_open::resume_streams(&hub, &caller, (generation, partner), &reported).await;
    let (mut begun, cursor) = hub.store_result(resumed)?;
    if begun.standing.is_unreadable {
        // Nothing is proved: when the stream is usable again, a poll from this cursor is told to
        // start again.
        begun.position.epoch = Epoch::UNKNOWN;
    }
    let losses = begun.position.loss.iter();
    losses.for_each(|loss| hub.metrics.traffic.sent.handle_loss(loss));
    let version = hello.version;
    info!(%client, session = generation, version, transport = "http", "session started");
    Ok(Json(WelcomeBody {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation,
        cursor: cursor.into(),
        origin: begun.standing.origin_state().into(),
        position: begun.position.into(),
        granted: hub.quota.granted(caller.rate, hub.connections.count()).into(),
        server_time_ms: unix_ms(),
        partner,
    }))
}
