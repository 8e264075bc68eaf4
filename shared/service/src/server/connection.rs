//! One HTTP connection, from the end of its handshake to its end or its upgrade.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc};

use axum::{Router, response::Response};
use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tower::ServiceExt;
use tracing::debug;

use super::{
    connection_handle::ConnectionHandle, peer_address::PeerAddress, rejection_log::RejectionLog,
    serve_limits::ServeLimits, write_timeout::WriteTimeout,
};
use crate::{
    last_activity::{LastActivity, ObservedStream},
    limits::HEADER_BYTES_MAX,
    shutdown::Shutdown,
};
use spoke_diagnostics::error_chain;

/// The byte stream below TLS and HTTP.
pub(super) type ConnectionStream = ObservedStream<WriteTimeout<TcpStream>>;

/// A response in progress.
pub(super) type BoxedResponse =
    futures_util::future::BoxFuture<'static, Result<Response, Infallible>>;

/// One accepted connection, with everything that its requests need.
pub(super) struct HttpConnection {
    pub(super) peer: SocketAddr,
    pub(super) handle: ConnectionHandle,
    pub(super) app: Router,
    pub(super) limits: ServeLimits,
    pub(super) rejections: Arc<RejectionLog>,
    pub(super) shutdown: Shutdown,
}

impl HttpConnection {
    /// Returns the function that answers the requests of this connection.
    pub(super) fn responder(
        &self,
        activity: LastActivity,
    ) -> impl Fn(http::Request<Incoming>) -> BoxedResponse + Clone + use<> {
        let (peer, handle, app) = (self.peer, self.handle.clone(), self.app.clone());
        let rejections = self.rejections.clone();
        move |request| {
            let mut request = request.map(axum::body::Body::new);
            let extensions = request.extensions_mut();
            extensions.insert(PeerAddress::from(peer));
            extensions.insert(activity.clone());
            extensions.insert(handle.clone());
            let (responding, rejections) = (app.clone().oneshot(request), rejections.clone());
            Box::pin(async move {
                let response = responding.await?;
                let client = response.extensions().get().copied();
                let client: PeerAddress = client.unwrap_or(peer.into());
                rejections.handle_response(client.net(), &response);
                Ok(response)
            })
        }
    }

    /// Serves HTTP/1.1 until the connection ends or is upgraded.
    pub(super) async fn serve_http1<S>(self, stream: S, activity: LastActivity)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let respond = self.responder(activity);
        let Self { peer, limits, shutdown, .. } = self;
        let stopping = shutdown.clone();
        let service = service_fn(move |request| {
            let (responding, stopping) = (respond(request), stopping.clone());
            async move {
                let mut response = responding.await?;
                if stopping.is_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => Ok(result),
            () = shutdown.begun() => {
                match tokio::time::timeout(limits.linger, connection.as_mut()).await {
                    Ok(result) => Ok(result),
                    Err(_) => {
                        connection.as_mut().graceful_shutdown();
                        tokio::time::timeout(limits.drain, connection).await
                    }
                }
            }
        };
        if let Ok(Err(error)) = result {
            debug!(%peer, error = error_chain(&error), "connection failed");
        }
    }
}
