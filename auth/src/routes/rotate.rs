//! `POST /rotate`: a device that knows its secret sends its next one. Both are valid until it logs in with the next
//! one, so that a lost response locks no device out.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};
use spoke_protocol::ClientId;
use spoke_service::{
    api_error::ApiError,
    server::{ConnectionHandle, PeerAddress},
};
use tracing::debug;

use super::{
    body::{AuthBody, malformed},
    login::login_refused,
};
use crate::{
    device_secret::DeviceSecret,
    hash_pool::HashCaller,
    rate_limit::{AuthAction, AuthAttempt},
    state::AuthState,
    store::{ClientRecord, TaggedHash},
};

pub(super) async fn handle(
    State(state): State<Arc<AuthState>>,
    Extension(peer): Extension<PeerAddress>,
    Extension(connection): Extension<ConnectionHandle>,
    mut body: AuthBody,
) -> Result<Json<Value>, ApiError> {
    let client = body.client()?;
    // A malformed secret gets the same response as a wrong one.
    let secret = DeviceSecret::new(body.secret("secret")?).ok();
    let next = DeviceSecret::new(body.secret("newSecret")?);
    let next = next.map_err(|error| malformed("newSecret", error))?;
    if secret.as_ref().is_some_and(|secret| secret.is_same(&next)) {
        return Err(malformed("newSecret", "it is the current secret"));
    }
    let record = state.store_result(state.store.client(&client).await)?.unwrap_or_default();
    let precheck = state.precheck(&record, &client, secret.as_ref());
    let attempt = AuthAttempt::new(AuthAction::Login, peer, Some(&client), precheck);
    state.admit(&attempt)?;
    let _guard = connection.mark_authenticated();
    match rotate(&state, &client, &attempt, record, (secret, next)).await {
        Ok(true) => {
            debug!(%client, peer = %attempt.peer, "secret rotation begun");
            state.handle_success(&attempt);
            Ok(Json(json!({ "client": client })))
        }
        Ok(false) => {
            debug!(%client, peer = %attempt.peer, ?precheck, "secret rotation refused");
            Err(login_refused())
        }
        Err(error) => {
            state.handle_no_verdict(&attempt);
            Err(error)
        }
    }
}

/// Returns `false` if the secret is not the client's.
async fn rotate(
    state: &AuthState,
    client: &ClientId,
    attempt: &AuthAttempt,
    record: ClientRecord,
    (secret, next): (Option<DeviceSecret>, DeviceSecret),
) -> Result<bool, ApiError> {
    let caller = attempt.hash_caller();
    let matches = state.hash_pool.verify(&caller, secret, record.secret_hash.clone()).await;
    let is_right = state.hash_result(matches)? && !record.is_disabled;
    let Some(hash) = record.secret_hash.filter(|_| is_right) else { return Ok(false) };
    let (tag, caller) = (next.tag(), HashCaller::Client(client.clone()));
    let next_hash = state.hash_result(state.hash_pool.hash(&caller, next).await)?;
    let next = TaggedHash { hash: &next_hash, tag: &tag };
    state.store_result(state.store.rotate(client, &hash, next).await)
}
