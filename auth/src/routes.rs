//! What devices call (contract section 4): five endpoints, each in its file.
//!
//! Every handler goes the same way: parse, look up, ask the throttle, hash, change, answer. What is looked up
//! says whether the visitor is likely the client it says to be, and so is no stranger to the throttle and the
//! hashing threads. The clock is read here at the edge and handed down.

mod bearer;
mod body;
mod login;
mod logout;
mod refresh;
mod register;
mod rotate;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{
    StatusCode,
    header::{CACHE_CONTROL, HeaderValue},
};
use serde_json::json;
use spoke_service::api_error::{ApiError, fallback};

use crate::{limits::AUTH_BODY_BYTES_MAX, session_token::SessionToken, state::Service};

/// All routes of the public listener.
pub fn router(service: Arc<Service>) -> Router {
    let router = Router::new()
        .route("/register", post(register::handle))
        .route("/login", post(login::handle))
        .route("/refresh", post(refresh::handle))
        .route("/logout", post(logout::handle))
        .route("/rotate", post(rotate::handle))
        .route_layer(from_fn(refuse_query))
        .layer(DefaultBodyLimit::max(AUTH_BODY_BYTES_MAX))
        .with_state(Arc::clone(&service));
    fallback(router).layer(from_fn_with_state(service, finish))
}

/// URLs are logged, so nothing may be in one; no endpoint takes a query.
async fn refuse_query(request: Request, next: Next) -> Response {
    if request.uri().query().is_none() {
        return next.run(request).await;
    }
    let message = "nothing is taken from the URL, since URLs are logged; \
                   send a token in the Authorization header and the rest in the body";
    ApiError::new(StatusCode::BAD_REQUEST, "token-in-url", message).into_response()
}

/// Counts the answer, and keeps caches from it.
async fn finish(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let route = match request.uri().path() {
        "/register" => "/register",
        "/login" => "/login",
        "/refresh" => "/refresh",
        "/logout" => "/logout",
        "/rotate" => "/rotate",
        _ => "other",
    };
    let in_hand = service.metrics.enter();
    let mut response = next.run(request).await;
    drop(in_hand);
    service.metrics.count(route, response.status());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The answer that hands out a session.
fn session_answer(service: &Service, token: &SessionToken) -> Response {
    let ttl_seconds = service.session_ttl.as_secs();
    Json(json!({ "sessionToken": token.expose(), "ttlSeconds": ttl_seconds })).into_response()
}

/// Milliseconds since 1970. A clock before that is as wrong as one at it.
fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
