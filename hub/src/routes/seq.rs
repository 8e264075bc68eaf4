//! `GET /seq`: the caller's cursor.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use spoke_protocol::wire::json::CursorBody;
use spoke_service::api_error::ApiError;

use crate::{authenticate::Caller, state::HubState, xadd};

pub(super) fn router() -> Router<Arc<HubState>> {
    Router::new().route("/seq", get(seq))
}

async fn seq(
    State(hub): State<Arc<HubState>>,
    caller: Caller,
) -> Result<Json<CursorBody>, ApiError> {
    hub.metrics.requests.add("seq", 1);
    xadd::cursor(&hub, &caller).await.map(Json)
}
