//! The response that hands out a session.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{session_token::SessionToken, state::AuthState};

pub(super) fn session_response(state: &AuthState, token: &SessionToken) -> Response {
    let ttl_seconds = state.session_ttl.as_secs();
    Json(json!({ "sessionToken": token.expose(), "ttlSeconds": ttl_seconds })).into_response()
}
