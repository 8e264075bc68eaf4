//! The handshake of a connection: none, or TLS.

use std::future::Future;

use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::connection::{ConnectionStream, HttpConnection};
#[cfg(feature = "http2")]
use super::http2;
use crate::last_activity::LastActivity;
use spoke_diagnostics::error_chain;

/// The handshake that a connection begins with.
pub(super) trait Security: Clone + Send + 'static {
    /// Performs the handshake and serves the connection to its end.
    fn serve(
        self,
        connection: HttpConnection,
        stream: ConnectionStream,
        activity: LastActivity,
    ) -> impl Future<Output = ()> + Send;
}

/// Plain TCP, without TLS.
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
        activity: LastActivity,
    ) {
        connection.serve_http1(stream, activity).await;
    }
}

impl Security for Encrypted {
    async fn serve(
        self,
        connection: HttpConnection,
        stream: ConnectionStream,
        activity: LastActivity,
    ) {
        let (peer, limit) = (connection.peer, connection.limits.tls_handshake);
        match tokio::time::timeout(limit, self.0.accept(stream)).await {
            #[cfg(feature = "http2")]
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                // Boxed, since HTTP/2 is rare and every connection would reserve its memory.
                Box::pin(http2::serve(connection, stream, activity)).await;
            }
            Ok(Ok(stream)) => connection.serve_http1(stream, activity).await,
            Ok(Err(error)) => debug!(%peer, error = error_chain(&error), "TLS handshake failed"),
            Err(_) => debug!(%peer, "TLS handshake timed out"),
        }
    }
}
