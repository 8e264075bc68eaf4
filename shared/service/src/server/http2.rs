//! HTTP/2 over TLS, with the bounds of HTTP/1.1.
//!
//! Two bounds are missing in the library and are added here: how long a connection may be open without a
//! request in progress, and how long a response may wait for the peer's flow-control window. A WebSocket is a
//! connection of its own with HTTP/1.1: RFC 8441 would save nothing, since a device has one.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::pin, time::Duration};

use hyper::{rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tracing::debug;

use super::connection::HttpConnection;
use crate::{
    last_activity::LastActivity,
    limits::{HEADER_BYTES_MAX, HTTP2_WINDOW_BYTES, REQUESTS_PER_CLIENT_MAX},
    shutdown::Shutdown,
};
use spoke_diagnostics::error_chain;

/// Counts the requests in progress of one connection.
#[derive(Clone)]
struct OpenRequests(watch::Sender<usize>);

struct OpenRequest(OpenRequests);

/// Runs each request as a task that the shutdown waits for.
#[derive(Clone)]
struct TrackedExecutor {
    shutdown: Shutdown,
    peer: SocketAddr,
}

/// Serves until the connection ends, is idle for too long, or the shutdown has begun and the requests in
/// progress are finished.
pub(super) async fn serve<S>(connection: HttpConnection, stream: S, activity: LastActivity)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let respond = connection.responder(activity.clone());
    let HttpConnection { peer, limits, shutdown, .. } = connection;
    let open_requests = OpenRequests(watch::Sender::new(0));
    let counts = open_requests.clone();
    let service = service_fn(move |request| {
        let (responding, open) = (respond(request), counts.begin());
        async move {
            let _open = open;
            responding.await as Result<_, Infallible>
        }
    });
    let window = Some(HTTP2_WINDOW_BYTES);
    let tasks = TrackedExecutor { shutdown: shutdown.clone(), peer };
    let connection = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .max_concurrent_streams(REQUESTS_PER_CLIENT_MAX as u32)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = shutdown.begun() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(limits.drain, connection).await.ok()
        }
        () = open_requests.idle(limits.header_read) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => Some(result),
                () = silent(&activity, limits.write_stall) => None,
            }
        }
    };
    if let Some(Err(error)) = result {
        debug!(%peer, error = error_chain(&error), "connection failed");
    }
}

/// Resolves when the peer has sent nothing for `limit`. A peer that reads a response sends window updates.
async fn silent(activity: &LastActivity, limit: Duration) {
    loop {
        let since = activity.at().elapsed();
        if since >= limit {
            return;
        }
        tokio::time::sleep(limit - since).await;
    }
}

impl OpenRequests {
    fn begin(&self) -> OpenRequest {
        self.0.send_modify(|count| *count += 1);
        OpenRequest(self.clone())
    }

    /// Resolves when there was no request in progress for `limit`.
    async fn idle(&self, limit: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // The sender lives as long as `self`, so this does not fail.
            let _ = count.wait_for(|count| *count == 0).await;
            if tokio::time::timeout(limit, count.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for TrackedExecutor {
    fn execute(&self, request: F) {
        self.shutdown.spawn_one("request", self.peer, request);
    }
}
