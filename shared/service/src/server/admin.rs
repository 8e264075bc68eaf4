//! The admin listener: liveness, readiness and metrics.
//!
//! It has no login: any client that reaches it may read. A website in an operator's browser must not, so it
//! answers only under an address, `localhost` or a name from the settings: a foreign name that resolves to our
//! address is refused on every path. Rejected: answering `/healthz` and `/metrics` under any name, since they
//! tell a website which services run here and which clients lost entries.

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
    response::IntoResponse,
    routing::get,
};
use futures_util::future::BoxFuture;
use http::{
    HeaderMap, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST},
};
use tokio::net::TcpListener;

use super::{acceptor::serve, serve_limits::ServeLimits};
use crate::{
    api_error::{ApiError, fallback},
    config::AdminHosts,
    limits::ADMIN_CONNECTIONS_MAX,
    shutdown::Shutdown,
};

/// Serves the admin listener until the shutdown begins. Every path, known or not, is answered under these names
/// alone.
pub async fn serve_admin(
    listener: TcpListener,
    routes: Router,
    hosts: AdminHosts,
    shutdown: Shutdown,
) {
    let app = routes.layer(from_fn(move |request: Request, next: Next| {
        let checked = check(request.uri(), request.headers(), &hosts);
        async move {
            match checked {
                Ok(()) => next.run(request).await,
                Err(error) => error.into_response(),
            }
        }
    }));
    serve(listener, app, ServeLimits::of(ADMIN_CONNECTIONS_MAX), shutdown).await;
}

/// Checks every name that the request calls us by: each Host header, and the host in the URL itself, which has
/// precedence. A browser always sends one.
fn check(uri: &Uri, headers: &HeaderMap, hosts: &AdminHosts) -> Result<(), ApiError> {
    let in_url = uri.authority().map(|authority| authority.as_str().as_bytes());
    let in_headers: Vec<_> = headers.get_all(HOST).iter().map(|host| host.as_bytes()).collect();
    let unknown = in_url.iter().chain(&in_headers).find(|host| !hosts.contains(host));
    let problem = match unknown {
        Some(host) => format!("unknown host {}", String::from_utf8_lossy(host)),
        None if in_headers.is_empty() => "no Host header".to_owned(),
        None => return Ok(()),
    };
    let message = format!(
        "{problem}: call the admin listener by address or as localhost, or add the name to the setting \
         admin_hosts"
    );
    Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, "unknown-host", message))
}

/// Routes `GET /healthz` (`alive` succeeds), `GET /readyz` (`ready` succeeds, and no shutdown has begun)
/// and `GET /metrics` (the text of `metrics`, in Prometheus's text format).
pub fn admin_router(
    shutdown: Shutdown,
    alive: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
    ready: impl Fn() -> BoxFuture<'static, Result<(), String>> + Clone + Send + Sync + 'static,
    metrics: impl Fn() -> BoxFuture<'static, String> + Clone + Send + Sync + 'static,
) -> Router {
    let healthz = move || {
        let answer = alive().map(|()| "ok\n").map_err(|message| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no-progress", message)
        });
        async move { answer }
    };
    let readyz = move || {
        let (ready, shutdown) = (ready(), shutdown.clone());
        async move {
            let answer = match ready.await {
                Ok(()) if shutdown.is_begun() => Err("shutting down".to_owned()),
                answer => answer,
            };
            answer.map(|()| "ok\n").map_err(|message| {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", message).retry_after(1)
            })
        }
    };
    let metrics = move || {
        let text = metrics();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text.await) }
    };
    fallback(
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_answered(url: &str, hosts: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().expect("a valid header value"));
        }
        check(&url.parse().expect("a valid URL"), &headers, &AdminHosts::default()).is_ok()
    }

    #[test]
    fn every_host_name_in_a_request_must_be_allowed() {
        assert!(is_answered("/metrics", &["127.0.0.1:9464"]));
        assert!(is_answered("http://localhost/metrics", &["127.0.0.1"]));
        for (url, hosts) in [
            ("/metrics", &[][..]),
            ("/metrics", &["evil.example"]),
            ("/metrics", &["127.0.0.1", "evil.example"]),
            ("/metrics", &["evil.example", "127.0.0.1"]),
            ("http://evil.example/metrics", &["127.0.0.1"]),
            ("http://evil.example/metrics", &[]),
            ("http://127.0.0.1/metrics", &["evil.example"]),
        ] {
            assert!(!is_answered(url, hosts), "{url} {hosts:?}");
        }
    }
}
