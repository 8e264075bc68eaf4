//! HTTP routes of the hub, one file each.

mod seq;
mod session;
mod sync;
mod xadd;
mod xread;

use std::sync::Arc;

use axum::Router;
use spoke_service::api_error::fallback;

use crate::state::HubState;

/// Returns all routes.
pub(crate) fn router(hub: Arc<HubState>) -> Router {
    let routes = Router::new()
        .merge(seq::router())
        .merge(session::router())
        .merge(sync::router())
        .merge(xadd::router())
        .merge(xread::router())
        .with_state(hub);
    fallback(routes)
}
