//! HTTP/2 over TLS, with the bounds that HTTP/1.1 has.
//!
//! What the library does not bound: how long a connection may be open with no request in hand, and how
//! long an answer may lie that the other side makes no room for. A WebSocket is a connection of its own
//! with HTTP/1.1: RFC 8441 would save nothing, since a device has one.

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
use spoke_diagnostics::error_chain::error_chain;

/// Requests of one connection in hand.
#[derive(Clone)]
struct OpenRequests(watch::Sender<usize>);

struct OpenRequest(OpenRequests);

/// Each request is a task that the shutdown waits for.
#[derive(Clone)]
struct TrackedExecutor {
    shutdown: Shutdown,
    address: SocketAddr,
}

/// Serves until the connection ends, is idle for too long, or the shutdown has begun and what is in
/// hand is finished.
pub(super) async fn serve<S>(connection: HttpConnection, stream: S, heard: LastActivity)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = connection.answering(heard.clone());
    let HttpConnection { address, limits, shutdown, .. } = connection;
    let in_hand = OpenRequests(watch::Sender::new(0));
    let counts = in_hand.clone();
    let service = service_fn(move |request| {
        let (answering, one) = (answer(request), counts.one());
        async move {
            let _one = one;
            answering.await as Result<_, Infallible>
        }
    });
    let window = Some(HTTP2_WINDOW_BYTES);
    let tasks = TrackedExecutor { shutdown: shutdown.clone(), address };
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
        () = in_hand.idle(limits.header_read) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => Some(result),
                () = silent(&heard, limits.write_stall) => None,
            }
        }
    };
    if let Some(Err(error)) = result {
        debug!(%address, error = error_chain(&error), "connection ended with an error");
    }
}

/// Resolves when the other side has said nothing for so long. Whoever takes an answer says so, bit by
/// bit.
async fn silent(heard: &LastActivity, limit: Duration) {
    loop {
        let since = heard.at().elapsed();
        if since >= limit {
            return;
        }
        tokio::time::sleep(limit - since).await;
    }
}

impl OpenRequests {
    fn one(&self) -> OpenRequest {
        self.0.send_modify(|count| *count += 1);
        OpenRequest(self.clone())
    }

    /// Resolves when there was none for so long.
    async fn idle(&self, limit: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // The sender is here: it does not end.
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
        self.shutdown.spawn_one("request", self.address, request);
    }
}
