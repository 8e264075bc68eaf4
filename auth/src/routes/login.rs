//! `POST /login`: a session for the device that knows its secret.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use http::StatusCode;
use spoke_protocol::ClientId;
use spoke_service::{
    api_error::ApiError,
    server::{ConnectionHandle, PeerAddress},
};
use tracing::debug;

use super::{body::AuthBody, session_response::session_response};
use crate::{
    device_secret::DeviceSecret,
    rate_limit::{AuthAction, AuthAttempt},
    session_token::SessionToken,
    state::AuthState,
    store::{ClientRecord, TaggedHash},
};

pub(super) async fn handle(
    State(state): State<Arc<AuthState>>,
    Extension(peer): Extension<PeerAddress>,
    Extension(connection): Extension<ConnectionHandle>,
    mut body: AuthBody,
) -> Result<Response, ApiError> {
    let client = body.client()?;
    // A malformed secret gets the same response as a wrong one.
    let secret = DeviceSecret::new(body.secret("secret")?).ok();
    let record = state.store_result(state.store.client(&client).await)?.unwrap_or_default();
    let precheck = state.precheck(&record, &client, secret.as_ref());
    let attempt = AuthAttempt::new(AuthAction::Login, peer, Some(&client), precheck);
    state.admit(&attempt)?;
    let _guard = connection.mark_authenticated();
    match log_in(&state, &client, &attempt, record, secret).await {
        Ok(Some(token)) => {
            debug!(%client, peer = %attempt.peer, "client logged in");
            state.handle_success(&attempt);
            Ok(session_response(&state, &token))
        }
        Ok(None) => {
            debug!(%client, peer = %attempt.peer, ?precheck, "login refused");
            Err(login_refused())
        }
        Err(error) => {
            state.handle_no_verdict(&attempt);
            Err(error)
        }
    }
}

/// Returns the token of the new session; `None` if the secret is not the client's.
async fn log_in(
    state: &AuthState,
    client: &ClientId,
    attempt: &AuthAttempt,
    record: ClientRecord,
    secret: Option<DeviceSecret>,
) -> Result<Option<SessionToken>, ApiError> {
    let (caller, mut matching) = (attempt.hash_caller(), None);
    for hash in record.hashes_for(secret.as_ref()) {
        let matches = state.hash_pool.verify(&caller, secret.clone(), hash.clone()).await;
        if state.hash_result(matches)? {
            matching = hash;
            break;
        }
    }
    let Some(hash) = matching.filter(|_| !record.is_disabled) else { return Ok(None) };
    let tag = secret.map(|secret| secret.tag()).unwrap_or_default();
    let token = SessionToken::generate().map_err(AuthState::handle_no_randomness)?;
    let secret = TaggedHash { hash: &hash, tag: &tag };
    let is_open = state.store_result(state.store.log_in(client, secret, &token).await)?;
    Ok(is_open.then_some(token))
}

/// Returns the one response, whatever the cause.
pub(super) fn login_refused() -> ApiError {
    let message = "login refused: the client is unknown or revoked, or the secret is wrong";
    ApiError::new(StatusCode::UNAUTHORIZED, "refused", message)
}
