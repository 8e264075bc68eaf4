//! `POST /login`: a session for the device that knows its secret.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use http::StatusCode;
use spoke_protocol::client_id::ClientId;
use spoke_service::{
    api_error::ApiError,
    server::{ConnectionHandle, PeerAddress},
};
use tracing::debug;

use super::{body::Body, session_answer};
use crate::{
    device_secret::DeviceSecret,
    rate_limit::{Action, Visit},
    session_token::SessionToken,
    state::{Service, visit},
    store::ClientRecord,
};

pub(super) async fn handle(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<PeerAddress>,
    Extension(place): Extension<ConnectionHandle>,
    mut body: Body,
) -> Result<Response, ApiError> {
    let client = body.client()?;
    // A secret that can be nobody's is answered like a wrong one.
    let secret = DeviceSecret::new(body.secret("secret")?).ok();
    let record = service.answered(service.store.client(&client).await)?.unwrap_or_default();
    let standing = service.standing(&record, &client, secret.as_ref());
    let visit = visit(Action::Login, peer, Some(&client), standing);
    service.admit(&visit)?;
    let _vouched = place.vouch();
    match log_in(&service, &client, &visit, record, secret).await {
        Ok(Some(token)) => {
            debug!(%client, site = %visit.site, "client logged in");
            service.handle_success(&visit);
            Ok(session_answer(&service, &token))
        }
        Ok(None) => {
            debug!(%client, site = %visit.site, ?standing, "login refused");
            Err(refused())
        }
        Err(refusal) => {
            service.handle_no_verdict(&visit);
            Err(refusal)
        }
    }
}

async fn log_in(
    service: &Service,
    client: &ClientId,
    visit: &Visit,
    record: ClientRecord,
    secret: Option<DeviceSecret>,
) -> Result<Option<SessionToken>, ApiError> {
    let (party, mut right) = (visit.party(), None);
    for hash in record.hashes_for(secret.as_ref()) {
        let is_behind = service.pool.is_behind(&party, secret.clone(), hash.clone()).await;
        if service.hashed(is_behind)? {
            right = hash;
            break;
        }
    }
    let Some(hash) = right.filter(|_| !record.is_disabled) else { return Ok(None) };
    let tag = secret.map(|secret| secret.tag()).unwrap_or_default();
    let token = SessionToken::generate().map_err(Service::no_randomness)?;
    let is_open = service.answered(service.store.log_in(client, (&hash, &tag), &token).await)?;
    Ok(is_open.then_some(token))
}

/// The one answer, whatever the cause.
pub(super) fn refused() -> ApiError {
    let message = "login refused: the client is unknown or revoked, or the secret is wrong";
    ApiError::new(StatusCode::UNAUTHORIZED, "refused", message)
}
