//! The endpoints that devices call (contract section 4), each in its own file.
//!
//! Every handler takes the same steps: parse, read the client, check the rate limit, hash, write, respond. The record
//! of the client decides the precheck: an attempt that passes it is apart from all others in the rate limits and in
//! the hash pool. The clock is read here at the edge and handed down.

mod body;
mod session_bearer;
mod session_response;
mod login;
mod logout;
mod refresh;
mod register;
mod rotate;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{
    StatusCode,
    header::{CACHE_CONTROL, HeaderValue},
};
use spoke_service::api_error::{ApiError, fallback};

use crate::{limits::AUTH_BODY_BYTES_MAX, state::AuthState};

/// Returns all routes of the public listener.
pub(crate) fn router(state: Arc<AuthState>) -> Router {
    let router = Router::new()
        .route("/register", post(register::handle))
        .route("/login", post(login::handle))
        .route("/refresh", post(refresh::handle))
        .route("/logout", post(logout::handle))
        .route("/rotate", post(rotate::handle))
        .route_layer(from_fn(reject_query))
        .layer(DefaultBodyLimit::max(AUTH_BODY_BYTES_MAX))
        .with_state(Arc::clone(&state));
    fallback(router).layer(from_fn_with_state(state, finish))
}

/// Rejects every query string: URLs are logged, so none may hold a secret, and no endpoint takes a query.
async fn reject_query(request: Request, next: Next) -> Response {
    if request.uri().query().is_none() {
        return next.run(request).await;
    }
    let message = "no parameters are taken from the URL, since URLs are logged; \
                   send a token in the Authorization header and the rest in the body";
    ApiError::new(StatusCode::BAD_REQUEST, "token-in-url", message).into_response()
}

/// Counts the response, and forbids caches to store it.
async fn finish(State(state): State<Arc<AuthState>>, request: Request, next: Next) -> Response {
    let route = match request.uri().path() {
        "/register" => "/register",
        "/login" => "/login",
        "/refresh" => "/refresh",
        "/logout" => "/logout",
        "/rotate" => "/rotate",
        _ => "other",
    };
    let guard = state.metrics.begin_request();
    let mut response = next.run(request).await;
    drop(guard);
    state.metrics.count(route, response.status());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
