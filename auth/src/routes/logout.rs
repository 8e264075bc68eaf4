//! `POST /logout`: ends the session of the token. A session that has ended already is not an error.

use std::sync::Arc;

use axum::{Extension, extract::State};
use http::StatusCode;
use spoke_service::{api_error::ApiError, server::PeerAddress};
use tracing::debug;

use super::session_bearer::SessionBearer;
use crate::{
    rate_limit::{AuthAction, AuthAttempt, Precheck},
    state::AuthState,
};

pub(super) async fn handle(
    State(state): State<Arc<AuthState>>,
    Extension(peer): Extension<PeerAddress>,
    SessionBearer(token): SessionBearer,
) -> Result<StatusCode, ApiError> {
    let attempt = |client, precheck| AuthAttempt::new(AuthAction::Session, peer, client, precheck);
    let Some(client) = state.store_result(state.store.client_of(&token).await)? else {
        state.admit(&attempt(None, Precheck::Failed))?;
        return Ok(StatusCode::NO_CONTENT);
    };
    state.admit(&attempt(Some(&client), Precheck::Passed))?;
    if state.store_result(state.store.log_out(&client, &token).await)? {
        debug!(%client, "client logged out");
    }
    Ok(StatusCode::NO_CONTENT)
}
