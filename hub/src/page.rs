//! The status page on the admin listener: who is connected, how far each is, what went over its
//! links.
//!
//! The server makes the HTML; one small script puts what comes by server-sent events in its
//! place. Nothing is built, and nothing is fetched from elsewhere. Rejected: a page made in the
//! browser out of JSON, which would be a second program in a second language, and nothing to
//! see without it.
//!
//! Whoever reaches the admin listener may read. So that no website in an operator's browser
//! can, the listener answers under known names alone (`serve::serve_admin`), and the page lets nobody
//! frame it, and takes an entry only as JSON from its own pages, which a browser lets no other site send.

mod chart;
mod client;
mod fleet;
mod gather;
mod html;
mod send;
mod view;

use std::convert::Infallible;

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
use spoke_diagnostics::clock::unix_ms;
use spoke_protocol::client_id::ClientId;
use spoke_service::{api_error::ApiError, server::ConnectionHandle};
use spoke_store::Redis;

use self::{
    gather::{Gatherer, Snapshot, Viewer},
    view::{Ask, View},
};
use crate::{
    config::PageMode,
    hub::Hub,
    limits::{PAGE_BODY_BYTES_MAX, VIEWERS_MAX},
};

/// What the routes of the page share.
#[derive(Clone)]
struct Page {
    hub: Hub,
    auth_redis: Redis,
    gatherer: Gatherer,
}

/// Only what the page itself brings may run, shape it or be asked by it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The admin listener's routes with the page beside them, unless it is off.
pub fn with_page(routes: Router, hub: &Hub, auth_redis: &Redis) -> Router {
    if hub.config.page == PageMode::Off {
        return routes;
    }
    let gatherer = Gatherer::new();
    hub.shutdown.spawn("status page", gatherer.clone().run(hub.clone()));
    let page = Page { hub: hub.clone(), auth_redis: auth_redis.clone(), gatherer };
    let own = Router::new()
        .route("/", get(show_fleet))
        .route("/live", get(follow_fleet))
        .route("/clients/{client}", get(show_client))
        .route("/clients/{client}/live", get(follow_client))
        .route("/clients/{client}/send", post(send::send))
        .route("/page.css", asset("text/css; charset=utf-8", include_str!("page/page.css")))
        .route("/page.js", asset("text/javascript; charset=utf-8", include_str!("page/page.js")))
        .route("/icon.svg", asset("image/svg+xml", include_str!("page/icon.svg")))
        .layer(DefaultBodyLimit::max(PAGE_BODY_BYTES_MAX))
        .layer(middleware::from_fn(guard))
        .with_state(page);
    routes.merge(own)
}

fn asset(kind: &'static str, text: &'static str) -> axum::routing::MethodRouter<Page> {
    get(async move || ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text))
}

/// Says what a browser may do with an answer.
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

async fn show_fleet(State(page): State<Page>, Query(ask): Query<Ask>) -> Markup {
    let view = View::new(ask);
    let snapshot = page.gatherer.visit().snapshot().await;
    fleet::document(&page.hub, &view, &snapshot)
}

async fn follow_fleet(
    State(page): State<Page>,
    Extension(place): Extension<ConnectionHandle>,
    Query(ask): Query<Ask>,
) -> Result<Response, ApiError> {
    let view = View::new(ask);
    let viewer = page.gatherer.follow(None).ok_or_else(crowded)?;
    let render = move |snapshot: &Snapshot| Some(fleet::live(&view, snapshot));
    Ok(events(&page.hub, viewer, place, render))
}

async fn show_client(
    State(page): State<Page>,
    Path(client): Path<String>,
) -> Result<Markup, ApiError> {
    let client = known(&client)?;
    let detail = page.gatherer.detail(&page.hub, &client).await?.ok_or_else(|| absent(&client))?;
    Ok(client::document(&page.hub, &detail, unix_ms()))
}

async fn follow_client(
    State(page): State<Page>,
    Extension(place): Extension<ConnectionHandle>,
    Path(client): Path<String>,
) -> Result<Response, ApiError> {
    let client = known(&client)?;
    let viewer = page.gatherer.follow(Some(&client)).ok_or_else(crowded)?;
    let render = move |snapshot: &Snapshot| {
        snapshot.details.get(&client).map(|detail| client::live(detail, snapshot))
    };
    Ok(events(&page.hub, viewer, place, render))
}

/// What `render` makes of each snapshot, where that is not what it was; until the hub stops.
fn events(
    hub: &Hub,
    viewer: Viewer,
    place: ConnectionHandle,
    render: impl Fn(&Snapshot) -> Option<Markup> + Send + 'static,
) -> Response {
    // One who looks is served: nobody else takes this connection's place.
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

fn known(name: &str) -> Result<ClientId, ApiError> {
    name.parse().map_err(|_| {
        ApiError::new(StatusCode::NOT_FOUND, "not-found", "that is no name of a client")
    })
}

fn absent(client: &ClientId) -> ApiError {
    let message = format!("no client {client} has been here");
    ApiError::new(StatusCode::NOT_FOUND, "not-found", message)
}

fn crowded() -> ApiError {
    let message = format!("{VIEWERS_MAX} people look at this page already; close some");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-viewers", message).retry_after(15)
}
