//! `GET /seq`: the caller's cursor.

use axum::{Json, Router, extract::State, routing::get};
use spoke_protocol::wire::json::CursorBody;
use spoke_service::api_error::ApiError;

use crate::{authenticate::Caller, state::Hub, xadd};

pub(super) fn router() -> Router<Hub> {
    Router::new().route("/seq", get(seq))
}

async fn seq(State(hub): State<Hub>, caller: Caller) -> Result<Json<CursorBody>, ApiError> {
    hub.metrics.requests.add("seq", 1);
    xadd::cursor(&hub, &caller).await.map(Json)
}
