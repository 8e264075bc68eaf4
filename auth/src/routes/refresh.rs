//! `POST /refresh`: a new session for the holder of a live one, without bcrypt. Ten thousand devices use it at once
//! after an outage.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use spoke_service::{api_error::ApiError, server::PeerAddress};
use tracing::debug;

use super::{
    session_bearer::{SessionBearer, session_ended},
    session_response::session_response,
};
use crate::{
    rate_limit::{AuthAction, AuthAttempt, Precheck},
    session_token::SessionToken,
    state::AuthState,
};

pub(super) async fn handle(
    State(state): State<Arc<AuthState>>,
    Extension(peer): Extension<PeerAddress>,
    SessionBearer(live): SessionBearer,
) -> Result<Response, ApiError> {
    let attempt = |client, precheck| AuthAttempt::new(AuthAction::Session, peer, client, precheck);
    // The token comes first: only an invalid one counts against its address.
    let Some(client) = state.store_result(state.store.client_of(&live).await)? else {
        state.admit(&attempt(None, Precheck::Failed))?;
        return Err(session_ended());
    };
    state.admit(&attempt(Some(&client), Precheck::Passed))?;
    let new = SessionToken::generate().map_err(AuthState::handle_no_randomness)?;
    match state.store_result(state.store.refresh(&client, &live, &new).await)? {
        true => {
            debug!(%client, "session refreshed");
            Ok(session_response(&state, &new))
        }
        false => Err(session_ended()),
    }
}
