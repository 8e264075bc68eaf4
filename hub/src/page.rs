//! The status page on the admin listener: who is connected, how far each is, what went over its
//! links.
//!
//! The server makes the HTML; one small script puts what comes by server-sent events in its
//! place. Nothing is built, and nothing is fetched from elsewhere. Rejected: a page made in the
//! browser out of JSON, which would be a second program in a second language, and nothing to
//! see without it.
//!
//! Whoever reaches the admin listener may read. So that no website in an operator's browser
//! can, the page answers only under an address, `localhost` or the name that is set (a
//! stranger's name that resolves to our address is refused), lets nobody frame it, and takes an
//! entry only as JSON from its own pages, which a browser lets no other site send.

mod chart;
mod client;
mod fleet;
mod gather;
mod html;
mod send;
mod view;

use std::{convert::Infallible, net::IpAddr};

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
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
    uri::Authority,
};
use maud::Markup;
use spoke_shared::{
    client::ClientId,
    limits::{PAGE_BODY_BYTES_MAX, VIEWERS_MAX},
    link::now_ms,
    refusal::Refusal,
    serve::Place,
    store::Redis,
};

use self::{
    gather::{Gatherer, Snapshot, Viewer},
    view::{Ask, View},
};
use crate::{config::PageMode, hub::Hub};

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
        .layer(middleware::from_fn_with_state(page.clone(), guard))
        .with_state(page);
    routes.merge(own)
}

fn asset(kind: &'static str, text: &'static str) -> axum::routing::MethodRouter<Page> {
    get(async move || ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text))
}

/// Refuses requests under a stranger's name, and says what a browser may do with an answer.
async fn guard(State(page): State<Page>, request: Request, next: Next) -> Response {
    let mut response = match check_host(&request, &page.hub.config.page_host) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
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

fn check_host(request: &Request, known: &str) -> Result<(), Refusal> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_own(host, known) {
        return Ok(());
    }
    let message = format!(
        "the status page is not known under the name {host}: open it by address or as localhost, \
         or give that name to the hub's setting page_host"
    );
    Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "unknown-host", message))
}

/// Whether that is an address, `localhost` or the known name, with or without a port. A site that
/// makes its own name resolve to our address comes with that name.
fn is_own(host: &str, known: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || (!known.is_empty() && name.eq_ignore_ascii_case(known))
}

async fn show_fleet(State(page): State<Page>, Query(ask): Query<Ask>) -> Markup {
    let view = View::new(ask);
    let snapshot = page.gatherer.visit().snapshot().await;
    fleet::document(&page.hub, &view, &snapshot)
}

async fn follow_fleet(
    State(page): State<Page>,
    Extension(place): Extension<Place>,
    Query(ask): Query<Ask>,
) -> Result<Response, Refusal> {
    let view = View::new(ask);
    let viewer = page.gatherer.follow(None).ok_or_else(crowded)?;
    let render = move |snapshot: &Snapshot| Some(fleet::live(&view, snapshot));
    Ok(events(&page.hub, viewer, place, render))
}

async fn show_client(
    State(page): State<Page>,
    Path(client): Path<String>,
) -> Result<Markup, Refusal> {
    let client = known(&client)?;
    let detail = page.gatherer.detail(&page.hub, &client).await?.ok_or_else(|| absent(&client))?;
    Ok(client::document(&page.hub, &detail, now_ms()))
}

async fn follow_client(
    State(page): State<Page>,
    Extension(place): Extension<Place>,
    Path(client): Path<String>,
) -> Result<Response, Refusal> {
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
    place: Place,
    render: impl Fn(&Snapshot) -> Option<Markup> + Send + 'static,
) -> Response {
    // One who looks is served: nobody else takes this connection's place.
    let held = (viewer, place.vouch(), render, String::new());
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

fn known(name: &str) -> Result<ClientId, Refusal> {
    name.parse().map_err(|_| {
        Refusal::new(StatusCode::NOT_FOUND, "not-found", "that is no name of a client")
    })
}

fn absent(client: &ClientId) -> Refusal {
    let message = format!("no client {client} has been here");
    Refusal::new(StatusCode::NOT_FOUND, "not-found", message)
}

fn crowded() -> Refusal {
    let message = format!("{VIEWERS_MAX} people look at this page already; close some");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-viewers", message).retry_after(15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_known_by_address_as_localhost_and_by_the_name_that_is_set() {
        for host in ["127.0.0.1:9464", "10.0.0.7", "[::1]:9464", "localhost:9464", "LOCALHOST"] {
            assert!(is_own(host, ""), "{host}");
        }
        for host in ["", "evil.example", "evil.example:9464", "127.0.0.1.evil.example", "a b"] {
            assert!(!is_own(host, ""), "{host}");
        }
        assert!(is_own("spoke.example:443", "spoke.example"));
        assert!(!is_own("evil.example", "spoke.example"));
    }
}
