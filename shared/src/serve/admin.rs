//! The admin listener: is it alive, is it of use, and its figures.

use axum::{Router, routing::get};
use futures_util::future::BoxFuture;
use http::{StatusCode, header::CONTENT_TYPE};

use crate::{
    refusal::{Refusal, fallback},
    shutdown::Shutdown,
};

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
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", message).retry_after(1)
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
