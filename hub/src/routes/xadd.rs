//! `POST /xadd`: appends one entry or a batch.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    routing::post,
};
use serde_json::Value;
use spoke_protocol::wire::json::XaddBody;
use spoke_service::api_error::ApiError;

use crate::{
    authenticate::Caller,
    charged_body::{self, ChargedBody},
    state::HubState,
    xadd,
};

pub(super) fn router() -> Router<Arc<HubState>> {
    Router::new().route("/xadd", post(xadd))
}

async fn xadd(
    State(hub): State<Arc<HubState>>,
    caller: Caller,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    hub.metrics.requests.add("xadd", 1);
    let ChargedBody { form, charge: _charge, permit: _permit } =
        charged_body::read_body::<XaddBody>(&hub, &caller, request).await?;
    xadd::xadd(&hub, &caller, form).await.map(Json)
}
