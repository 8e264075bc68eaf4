//! `GET /sync`: the upgrade to a WebSocket. Who may come in is settled before it, so that a bad
//! token is answered 401 and not by a connection that closes.

use axum::{Extension, Router, extract::State, response::Response, routing::get};
use http::{HeaderMap, StatusCode, header::SEC_WEBSOCKET_PROTOCOL};
use spoke_protocol::wire::frame::SUBPROTOCOL;
use spoke_service::{
    api_error::ApiError,
    last_activity::LastActivity,
    server::{ConnectionHandle, PeerAddress},
};

use crate::{
    bearer::{Caller, unauthorized},
    hub::Hub,
    json_socket,
    session::{self, Arrived},
    socket::Upgrade,
};

pub(super) fn router() -> Router<Hub> {
    Router::new().route("/sync", get(sync))
}

async fn sync(
    State(hub): State<Hub>,
    caller: Option<Caller>,
    Extension(address): Extension<PeerAddress>,
    Extension(heard): Extension<LastActivity>,
    Extension(place): Extension<ConnectionHandle>,
    headers: HeaderMap,
    upgrade: Result<Upgrade, ApiError>,
) -> Result<Response, ApiError> {
    hub.metrics.requests.add("sync", 1);
    let offered = offered(&headers);
    let caller = match (caller, token_offered(&offered)) {
        (Some(caller), _) => caller,
        (None, Some(token)) => Caller::of_token(&hub, token.to_owned().into(), &place).await?,
        (None, None) => return Err(unauthorized(&hub)),
    };
    let upgrade = upgrade?;
    let Some(protocol) =
        [SUBPROTOCOL, json_socket::SUBPROTOCOL].into_iter().find(|ours| offered.contains(ours))
    else {
        let message = format!("offer {SUBPROTOCOL} or {} as subprotocol", json_socket::SUBPROTOCOL);
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "unknown-subprotocol", message));
    };
    hub.check_stays()?;
    let (ticket, stopped) = hub.live.session(&caller.client)?;
    caller.begin_session()?;
    // From here on the session's own limits hold.
    let (vouched, caller) = (place.mark_authenticated(), caller.settled());
    let shutdown = hub.shutdown.clone();
    let arrived = Arrived { hub, caller, address, heard, ticket, stopped };
    let (response, upgraded) = upgrade.accept(protocol);
    // Tracked from before the answer, so that the process waits for its goodbye.
    shutdown.spawn_one("session", address, async move {
        let _kept = (place, vouched);
        // Who is gone meanwhile needs no socket.
        let Ok(mut socket) = upgraded.await else { return };
        socket.charge_to(&arrived.hub.budget, &arrived.caller.client);
        if protocol == SUBPROTOCOL {
            Box::pin(session::serve(arrived, socket)).await;
        } else {
            Box::pin(json_socket::serve(arrived, socket)).await;
        }
    });
    Ok(response)
}

fn offered(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).collect()
}

/// A browser cannot set headers: behind `spoke.v1.json` the second one offered may be the token.
fn token_offered<'a>(offered: &[&'a str]) -> Option<&'a str> {
    match offered {
        [json_socket::SUBPROTOCOL, token, ..] if *token != SUBPROTOCOL => Some(*token),
        _ => None,
    }
}
