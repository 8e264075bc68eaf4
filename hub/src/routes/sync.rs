//! `GET /sync`: the upgrade to a WebSocket. The token is checked before the upgrade, so that an
//! invalid one is answered with 401 instead of a closed connection.

use std::sync::Arc;

use axum::{Extension, Router, extract::State, response::Response, routing::get};
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode, header::SEC_WEBSOCKET_PROTOCOL};
use spoke_protocol::wire::frame::SUBPROTOCOL;
use spoke_service::{
    LastActivity,
    api_error::ApiError,
    server::{ConnectionHandle, PeerAddress},
};

use crate::{
    authenticate::{Caller, unauthorized},
    state::HubState,
    websocket::{
        agent,
        context::SessionContext,
        json,
        socket::{ServerSocket, WebSocketUpgrade},
    },
};

pub(super) fn router() -> Router<Arc<HubState>> {
    Router::new().route("/sync", get(sync))
}

async fn sync(
    State(hub): State<Arc<HubState>>,
    caller: Option<Caller>,
    Extension(peer): Extension<PeerAddress>,
    Extension(last_activity): Extension<LastActivity>,
    Extension(connection): Extension<ConnectionHandle>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, ApiError>,
) -> Result<Response, ApiError> {
    hub.metrics.requests.add("sync", 1);
    let offered = offered(&headers);
    let caller = match (caller, token_offered(&offered)) {
        (Some(caller), _) => caller,
        (None, Some(token)) => {
            Caller::from_token(&hub, token.to_owned().into(), &connection).await?
        }
        (None, None) => return Err(unauthorized(&hub)),
    };
    let upgrade = upgrade?;
    let Some(protocol) =
        [SUBPROTOCOL, json::SUBPROTOCOL].into_iter().find(|ours| offered.contains(ours))
    else {
        let message =
            format!("unknown subprotocol: expected {SUBPROTOCOL} or {}", json::SUBPROTOCOL);
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "unknown-subprotocol", message));
    };
    hub.check_running()?;
    let (guard, stopped) = hub.connections.register_session(&caller.client)?;
    caller.begin_session()?;
    // From here on the limits of the session apply.
    let (vouched, caller) = (connection.mark_authenticated(), caller.without_permits());
    let shutdown = hub.shutdown.clone();
    let _connection = (connection, vouched);
    let context = SessionContext { hub, caller, peer, last_activity, guard, stopped, _connection };
    let context = Box::new(context);
    let (response, upgraded) = upgrade.accept(protocol);
    // Spawned before the answer, so that shutdown waits for the session's GOAWAY.
    shutdown.spawn_one("session", peer, async move {
        // The client may have disconnected in the meantime.
        let Ok(socket) = upgraded.await else { return };
        serve(protocol, context, socket).await;
    });
    Ok(response)
}

/// Serves a client until its connection ends. Not an async function, which would keep room for the
/// socket and the session side by side.
fn serve(
    protocol: &'static str,
    context: Box<SessionContext>,
    mut socket: ServerSocket,
) -> BoxFuture<'static, ()> {
    socket.charge_to(&context.hub.budget, &context.caller.client);
    match protocol {
        SUBPROTOCOL => Box::pin(agent::serve(context, socket)),
        _ => Box::pin(json::serve(context, socket)),
    }
}

fn offered(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).collect()
}

/// Returns a token offered as second subprotocol after `spoke.v1.json`: a browser cannot set
/// headers.
fn token_offered<'a>(offered: &[&'a str]) -> Option<&'a str> {
    match offered {
        [json::SUBPROTOCOL, token, ..] if *token != SUBPROTOCOL => Some(*token),
        _ => None,
    }
}
