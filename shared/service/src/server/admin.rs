//! The admin listener: is it alive, is it of use, and its figures.
//!
//! It has no login: whoever reaches it may read. So that no website in an operator's browser can, it answers
//! only under an address, `localhost` or a name that is set: a stranger's name that resolves to our address
//! is refused, whatever is asked for. Rejected: to answer `/healthz` and `/metrics` under any name, since
//! they tell a stranger what runs here and which clients are lost.

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

use super::{ServeLimits, serve};
use crate::{
    api_error::{ApiError, fallback},
    config::AdminHosts,
    limits::ADMIN_CONNECTIONS_MAX,
    shutdown::Shutdown,
};

/// Serves the admin listener until the shutdown begins; every route of it, and what is no route, under these
/// names alone.
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
                Err(refusal) => refusal.into_response(),
            }
        }
    }));
    serve(listener, app, ServeLimits::of(ADMIN_CONNECTIONS_MAX), shutdown).await;
}

/// Whether all that the request calls us is known: the Host header, each of them where there are several, and
/// the host in the URL itself, which goes over it. A browser always names one.
fn check(uri: &Uri, headers: &HeaderMap, hosts: &AdminHosts) -> Result<(), ApiError> {
    let in_url = uri.authority().map(|authority| authority.as_str().as_bytes());
    let in_headers: Vec<_> = headers.get_all(HOST).iter().map(|host| host.as_bytes()).collect();
    let stranger = in_url.iter().chain(&in_headers).find(|host| !hosts.know(host));
    let problem = match stranger {
        Some(host) => format!("the name {}", String::from_utf8_lossy(host)),
        None if in_headers.is_empty() => "no name at all".to_owned(),
        None => return Ok(()),
    };
    let message = format!(
        "the admin listener does not answer under {problem}: call it by address or as localhost, or \
         give the name to the setting admin_hosts"
    );
    Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, "unknown-host", message))
}

/// `GET /healthz`: the process lives. `GET /readyz`: `ready` says so, and it does not stop. `GET
/// /metrics`: the text of `metrics`, in Prometheus's form (`exposition`).
pub fn admin_router(
    shutdown: Shutdown,
    ready: impl Fn() -> BoxFuture<'static, Result<(), String>> + Clone + Send + Sync + 'static,
    metrics: impl Fn() -> BoxFuture<'static, String> + Clone + Send + Sync + 'static,
) -> Router {
    let readyz = move || {
        let (ready, shutdown) = (ready(), shutdown.clone());
        async move {
            let answer = match ready.await {
                Ok(()) if shutdown.is_begun() => Err("it stops".to_owned()),
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
            .route("/healthz", get(|| async { "ok\n" }))
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
            headers.append(HOST, host.parse().expect("a header takes it"));
        }
        check(&url.parse().expect("a URL"), &headers, &AdminHosts::default()).is_ok()
    }

    #[test]
    fn each_name_that_a_request_bears_has_to_be_known() {
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
