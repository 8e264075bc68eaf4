//! Status page on the admin listener: connected clients, their lag, and the entries of each link.
//!
//! The server renders the HTML; a small script applies updates from server-sent events. There is no
//! build step, and nothing is fetched from other sites. Rejected: a page rendered in the browser
//! from JSON, which would be a second program in a second language, and empty without it.
//!
//! Everyone who reaches the admin listener may read. Websites in an operator's browser may not: the
//! listener answers under known host names only
//! ([`serve_admin`](spoke_service::server::serve_admin)), the page cannot be framed, and it accepts
//! an entry only as JSON from its own origin, which a browser lets no other site send.

mod chart;
mod client;
mod overview;
mod poller;
mod layout;
mod send;
mod query;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    middleware::{self, Next},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use http::{
    HeaderValue, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use maud::Markup;
use spoke_diagnostics::unix_ms;
use spoke_protocol::ClientId;
use spoke_service::{api_error::ApiError, server::ConnectionHandle};
use spoke_store::Redis;

use self::{
    poller::{FleetPoller, FleetSnapshot, Viewer},
    query::{ClientQuery, QueryParams},
};
use crate::{
    config::PageMode,
    limits::{PAGE_BODY_BYTES_MAX, VIEWERS_MAX},
    state::HubState,
};

/// State shared by the routes of the page.
#[derive(Clone)]
struct StatusPage {
    hub: Arc<HubState>,
    auth_redis: Redis,
    poller: FleetPoller,
}

/// Content Security Policy: only the page's own files may run, style it or be requested.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Adds the status page to the admin listener's routes, unless it is off.
pub(crate) fn with_page(routes: Router, hub: &Arc<HubState>, auth_redis: &Redis) -> Router {
    if hub.config.page == PageMode::Off {
        return routes;
    }
    let poller = FleetPoller::new();
    hub.shutdown.spawn("status page", poller.clone().run(hub.clone()));
    let page = StatusPage { hub: hub.clone(), auth_redis: auth_redis.clone(), poller };
    let own = Router::new()
        .route("/", get(show_fleet))
        .route("/live", get(follow_fleet))
        .route("/clients/{client}", get(show_client))
        .route("/clients/{client}/live", get(follow_client))
        .route("/clients/{client}/send", post(send::send))
        .route("/page.css", asset("text/css; charset=utf-8", include_str!("status_page/page.css")))
        .route(
            "/page.js",
            asset("text/javascript; charset=utf-8", include_str!("status_page/page.js")),
        )
        .route("/icon.svg", asset("image/svg+xml", include_str!("status_page/icon.svg")))
        .layer(DefaultBodyLimit::max(PAGE_BODY_BYTES_MAX))
        .layer(middleware::from_fn(guard))
        .with_state(page);
    routes.merge(own)
}

fn asset(kind: &'static str, text: &'static str) -> axum::routing::MethodRouter<StatusPage> {
    get(async move || ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text))
}

/// Adds the security headers.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

async fn show_fleet(State(page): State<StatusPage>, Query(ask): Query<QueryParams>) -> Markup {
    let view = ClientQuery::new(ask);
    let snapshot = page.poller.view_once().snapshot().await;
    overview::document(&page.hub, &view, &snapshot)
}

async fn follow_fleet(
    State(page): State<StatusPage>,
    Extension(place): Extension<ConnectionHandle>,
    Query(ask): Query<QueryParams>,
) -> Result<Response, ApiError> {
    let view = ClientQuery::new(ask);
    let viewer = page.poller.follow(None).ok_or_else(too_many_viewers)?;
    let render = move |snapshot: &FleetSnapshot| Some(overview::live(&view, snapshot));
    Ok(events(&page.hub, viewer, place, render))
}

async fn show_client(
    State(page): State<StatusPage>,
    Path(client): Path<String>,
) -> Result<Markup, ApiError> {
    let client = parse_client(&client)?;
    let detail =
        page.poller.detail(&page.hub, &client).await?.ok_or_else(|| unknown_client(&client))?;
    Ok(client::document(&page.hub, &detail, unix_ms()))
}

async fn follow_client(
    State(page): State<StatusPage>,
    Extension(place): Extension<ConnectionHandle>,
    Path(client): Path<String>,
) -> Result<Response, ApiError> {
    let client = parse_client(&client)?;
    let viewer = page.poller.follow(Some(&client)).ok_or_else(too_many_viewers)?;
    let render = move |snapshot: &FleetSnapshot| {
        snapshot.details.get(&client).map(|detail| client::live(detail, snapshot))
    };
    Ok(events(&page.hub, viewer, place, render))
}

/// Streams each changed rendering of the snapshots until shutdown.
fn events(
    hub: &HubState,
    viewer: Viewer,
    place: ConnectionHandle,
    render: impl Fn(&FleetSnapshot) -> Option<Markup> + Send + 'static,
) -> Response {
    // A viewer counts as authenticated, so that its connection is not evicted.
    let held = (viewer, place.mark_authenticated(), render, String::new());
    let events = stream::unfold(held, |(mut viewer, vouched, render, shown)| async move {
        loop {
            let snapshot = viewer.next().await;
            let html = render(&snapshot).map(Markup::into_string);
            if let Some(html) = html.filter(|html| *html != shown) {
                let event = Ok::<_, Infallible>(Event::default().data(&html));
                return Some((event, (viewer, vouched, render, html)));
            }
        }
    });
    let events = events.take_until(hub.shutdown.token().cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

fn parse_client(name: &str) -> Result<ClientId, ApiError> {
    name.parse()
        .map_err(|_| ApiError::new(StatusCode::NOT_FOUND, "not-found", "invalid client name"))
}

fn unknown_client(client: &ClientId) -> ApiError {
    let message = format!("unknown client {client}");
    ApiError::new(StatusCode::NOT_FOUND, "not-found", message)
}

fn too_many_viewers() -> ApiError {
    let message = format!("{VIEWERS_MAX} viewers have this page open, the maximum; close some");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-viewers", message).retry_after(15)
}
