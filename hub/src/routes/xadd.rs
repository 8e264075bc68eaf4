//! `POST /xadd`: one entry or a batch.

use axum::{Json, Router, extract::State, routing::post};
use serde_json::Value;
use spoke_shared::{
    refusal::{JsonOrForm, Refusal},
    wire::json::XaddForm,
};

use crate::{bearer::Caller, entries, hub::Hub};

pub(super) fn router() -> Router<Hub> {
    Router::new().route("/xadd", post(xadd))
}

async fn xadd(
    State(hub): State<Hub>,
    caller: Caller,
    JsonOrForm(form): JsonOrForm<XaddForm>,
) -> Result<Json<Value>, Refusal> {
    hub.metrics.requests.add("xadd", 1);
    entries::xadd(&hub, &caller, form).await.map(Json)
}
