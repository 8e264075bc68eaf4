//! HTTP routes of the hub, one file each.

mod seq;
mod session;
mod sync;
mod xadd;
mod xread;

use axum::Router;
use spoke_service::api_error::fallback;

use crate::state::Hub;

/// Returns all routes.
pub fn router(hub: Hub) -> Router {
    let routes = Router::new()
        .merge(seq::router())
        .merge(session::router())
        .merge(sync::router())
        .merge(xadd::router())
        .merge(xread::router())
        .with_state(hub);
    fallback(routes)
}
