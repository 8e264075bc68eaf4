//! `POST /rotate`: a device that knows its secret tells the one that it wants to have next. Both are good
//! until it logs in with that, so that an answer that gets lost locks nobody out.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};
use spoke_protocol::client_id::ClientId;
use spoke_service::{
    api_error::ApiError,
    server::{ConnectionHandle, PeerAddress},
};
use tracing::debug;

use super::{
    body::{Body, malformed},
    login::refused,
};
use crate::{
    device_secret::DeviceSecret,
    hash_pool::Party,
    rate_limit::{Action, Visit},
    state::{Service, visit},
    store::ClientRecord,
};

pub(super) async fn handle(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<PeerAddress>,
    Extension(place): Extension<ConnectionHandle>,
    mut body: Body,
) -> Result<Json<Value>, ApiError> {
    let client = body.client()?;
    // A secret that can be nobody's is answered like a wrong one.
    let secret = DeviceSecret::new(body.secret("secret")?).ok();
    let next = DeviceSecret::new(body.secret("newSecret")?);
    let next = next.map_err(|error| malformed("newSecret", error))?;
    if secret.as_ref().is_some_and(|secret| secret.is_same(&next)) {
        return Err(malformed("newSecret", "it is the present one"));
    }
    let record = service.answered(service.store.client(&client).await)?.unwrap_or_default();
    let standing = service.standing(&record, &client, secret.as_ref());
    let visit = visit(Action::Login, peer, Some(&client), standing);
    service.admit(&visit)?;
    let _vouched = place.vouch();
    match rotate(&service, &client, &visit, record, (secret, next)).await {
        Ok(true) => {
            debug!(%client, site = %visit.site, "client rotates its secret");
            service.handle_success(&visit);
            Ok(Json(json!({ "client": client })))
        }
        Ok(false) => {
            debug!(%client, site = %visit.site, ?standing, "rotation refused");
            Err(refused())
        }
        Err(refusal) => {
            service.handle_no_verdict(&visit);
            Err(refusal)
        }
    }
}

/// False where the secret is not the client's.
async fn rotate(
    service: &Service,
    client: &ClientId,
    visit: &Visit,
    record: ClientRecord,
    (secret, next): (Option<DeviceSecret>, DeviceSecret),
) -> Result<bool, ApiError> {
    let party = visit.party();
    let is_right = service.pool.is_behind(&party, secret, record.secret_hash.clone()).await;
    let is_right = service.hashed(is_right)? && !record.is_disabled;
    let Some(hash) = record.secret_hash.filter(|_| is_right) else { return Ok(false) };
    let (tag, likely) = (next.tag(), Party::Likely(client.clone()));
    let next_hash = service.hashed(service.pool.hash(&likely, next).await)?;
    service.answered(service.store.rotate(client, &hash, (&next_hash, &tag)).await)
}
