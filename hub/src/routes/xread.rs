//! `GET /xread`: reads entries and waits for new ones.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::StreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use spoke_diagnostics::error_chain;
use spoke_protocol::wire::json::XreadBody;
use spoke_service::api_error::ApiError;

use crate::{
    authenticate::{Caller, epoch, malformed},
    memory_budget::MemoryCharge,
    state::HubState,
    xread::{self, CallerKind, XreadRequest},
};

pub(super) fn router() -> Router<Arc<HubState>> {
    Router::new().route("/xread", get(xread))
}

async fn xread(
    State(hub): State<Arc<HubState>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    hub.metrics.requests.add("xread", 1);
    let ask = asked(query.as_deref().unwrap_or(""))?;
    let caller_kind =
        if caller.generation.is_some() { CallerKind::Agent } else { CallerKind::Program };
    let (read, charge) = xread::xread(&hub, &caller, caller_kind, ask).await?;
    Ok(answer(&read, charge, caller))
}

/// Holds the caller's permits and the memory charge until the answer, which may be large, is sent.
fn answer(read: &XreadBody, mut charge: MemoryCharge, caller: Caller) -> Response {
    let json = serde_json::to_vec(read).expect("an answer serialises to JSON");
    charge.shrink(json.len());
    let headers =
        [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_LENGTH, json.len().to_string())];
    let body = futures_util::stream::iter([Ok::<_, Infallible>(json)]).inspect(move |_| {
        let _in_hand = (&caller, &charge);
    });
    (headers, Body::from_stream(body)).into_response()
}

/// Parses the query by hand, so that a refusal names the invalid parameter.
fn asked(query: &str) -> Result<XreadRequest, ApiError> {
    let mut ask = XreadRequest::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = |what: &str| malformed(format!("invalid {name}: expected {what}"));
        match name {
            "seq" => {
                ask.seq = value
                    .parse()
                    .map_err(|error| malformed(format!("invalid seq: {}", error_chain(&error))))?;
            }
            "tally" => {
                ask.tally = value.parse().map_err(|error| {
                    malformed(format!("invalid tally: {}", error_chain(&error)))
                })?;
            }
            "epoch" => {
                ask.epoch = Some(epoch(value).ok_or_else(|| bad("an integer of 32 bits"))?);
            }
            "count" => {
                ask.count = Some(value.parse().map_err(|_| bad("an integer of 1 or more"))?);
            }
            "blockMs" => {
                ask.block_ms = value.parse().map_err(|_| bad("an integer of milliseconds"))?;
            }
            _ => {
                return Err(malformed(format!(
                    "unknown parameter {name:?}: expected seq, tally, epoch, count or blockMs"
                )));
            }
        }
    }
    Ok(ask)
}
