//! One connection, from its handshake to its end or its upgrade.

use std::{
    convert::Infallible, future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Instant,
};

use axum::{Router, response::Response};
use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use tracing::debug;

#[cfg(feature = "http2")]
use super::http2;
use super::{
    ConnectionHandle, PeerAddress, ServeLimits, rejection_log::RejectionLog,
    write_timeout::WriteTimeout,
};
use crate::{
    last_activity::{LastActivity, ObservedStream},
    limits::HEADER_BYTES_MAX,
    shutdown::Shutdown,
};
use spoke_diagnostics::error_chain::error_chain;

/// A connection's bytes.
pub(super) type ConnectionStream = ObservedStream<WriteTimeout<TcpStream>>;

/// What a connection begins with.
pub(super) trait Security: Clone + Send + 'static {
    /// Shakes hands and serves what follows, to its end.
    fn serve(
        self,
        connection: HttpConnection,
        stream: ConnectionStream,
        heard: LastActivity,
    ) -> impl Future<Output = ()> + Send;
}

/// Nothing.
#[derive(Clone)]
pub(super) struct Plain;

/// TLS.
#[derive(Clone)]
pub(super) struct Encrypted(pub(super) TlsAcceptor);

impl Security for Plain {
    async fn serve(
        self,
        connection: HttpConnection,
        stream: ConnectionStream,
        heard: LastActivity,
    ) {
        connection.serve_http(stream, heard).await;
    }
}

impl Security for Encrypted {
    async fn serve(
        self,
        connection: HttpConnection,
        stream: ConnectionStream,
        heard: LastActivity,
    ) {
        let (address, limit) = (connection.address, connection.limits.tls_handshake);
        match tokio::time::timeout(limit, self.0.accept(stream)).await {
            #[cfg(feature = "http2")]
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                // Rare, so that the others do not have to have room for it.
                Box::pin(http2::serve(connection, stream, heard)).await;
            }
            Ok(Ok(stream)) => connection.serve_http(stream, heard).await,
            Ok(Err(error)) => debug!(%address, error = error_chain(&error), "TLS handshake failed"),
            Err(_) => debug!(%address, "TLS handshake took too long"),
        }
    }
}

pub(super) struct HttpConnection {
    pub(super) address: SocketAddr,
    pub(super) place: ConnectionHandle,
    pub(super) app: Router,
    pub(super) limits: ServeLimits,
    pub(super) refusals: Arc<RejectionLog>,
    pub(super) shutdown: Shutdown,
}

impl HttpConnection {
    /// Until it ends, is upgraded, or has to make room.
    pub(super) async fn serve(self, stream: TcpStream, security: impl Security) {
        let (visitor, address) = (self.place.0.visitor.clone(), self.address);
        // Small frames that wait for nobody: latency is ours to keep.
        let _ = stream.set_nodelay(true);
        let heard = LastActivity::new(Instant::now());
        let stream =
            ObservedStream::new(WriteTimeout::new(stream, self.limits.write_stall), heard.clone());
        tokio::select! {
            () = security.serve(self, stream, heard) => {}
            () = visitor.has_to_go() => debug!(%address, "closed to make room"),
        }
    }

    /// How a request of this connection is answered.
    pub(super) fn answering(
        &self,
        heard: LastActivity,
    ) -> impl Fn(http::Request<Incoming>) -> BoxedResponse + Clone + use<> {
        let (address, place, app) = (self.address, self.place.clone(), self.app.clone());
        let refusals = self.refusals.clone();
        move |request| {
            let mut request = request.map(axum::body::Body::new);
            let extensions = request.extensions_mut();
            extensions.insert(PeerAddress::from(address));
            extensions.insert(heard.clone());
            extensions.insert(place.clone());
            let (answering, refusals) = (app.clone().oneshot(request), refusals.clone());
            Box::pin(async move {
                let response = answering.await?;
                let client = response.extensions().get().copied();
                let client: PeerAddress = client.unwrap_or(address.into());
                refusals.handle_answer(client.site(), &response);
                Ok(response)
            })
        }
    }

    async fn serve_http<S>(self, stream: S, heard: LastActivity)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = self.answering(heard);
        let Self { address, limits, shutdown, .. } = self;
        let stops = shutdown.clone();
        let service = service_fn(move |request| {
            let (answering, stops) = (answer(request), stops.clone());
            async move {
                let mut response = answering.await?;
                if stops.is_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
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
            debug!(%address, error = error_chain(&error), "connection ended with an error");
        }
    }
}

/// An answer under way.
pub(super) type BoxedResponse =
    futures_util::future::BoxFuture<'static, Result<Response, Infallible>>;
