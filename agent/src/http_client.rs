//! The HTTP client for auth and the hub, over the connections of [`Dialer`].

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, PROXY_AUTHORIZATION},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    client::legacy::{
        self, Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use serde_json::Value;
use spoke_service::config::ServiceUrl;
use tower::Service;

use crate::{
    dial::{DialError, DialPurpose, DialStream, Dialer},
    http_headers::USER_AGENT,
};

/// Sends requests to one service. Cheap to clone. Does not follow redirects: a token must not be
/// sent elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    dialer: Dialer,
    service: ServiceUrl,
}

/// A response with its body.
#[derive(Debug)]
pub(crate) struct HttpResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// A request has no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The connection cannot be opened.
    #[error(transparent)]
    Dial(ConnectFailure),
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There was no response in time.
    #[error("no response within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// A [`DialError`] within the error of the library. Prints the [`DialError`] and its causes.
#[derive(Debug)]
pub(crate) struct ConnectFailure(legacy::Error);

impl ConnectFailure {
    fn inner(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

impl std::fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.inner() {
            Some(error) => std::fmt::Display::fmt(error, f),
            None => std::fmt::Display::fmt(&self.0, f),
        }
    }
}

impl std::error::Error for ConnectFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner()?.source()
    }
}

impl HttpClient {
    /// Creates a client. Does not connect yet.
    pub(crate) fn new(dialer: &Dialer, service: &ServiceUrl) -> Self {
        let connector = HttpConnector { dialer: dialer.clone(), service: service.clone() };
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { client, dialer: dialer.clone(), service: service.clone() }
    }

    /// Returns the URL of the service.
    pub(crate) fn service(&self) -> &ServiceUrl {
        &self.service
    }

    /// Starts a request to an endpoint of the service.
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(self.service.join(path));
        let request = request.header(http::header::USER_AGENT, USER_AGENT);
        // A request that the proxy forwards carries the credentials of the proxy.
        match self.dialer.route(&self.service).forwards(&self.service) {
            Some(Some(auth)) => request.header(PROXY_AUTHORIZATION, auth),
            Some(None) | None => request,
        }
    }

    /// Sends a request, and returns the response with its body unread.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpError> {
        self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => HttpError::Dial(ConnectFailure(error)),
            false => HttpError::Broken(error.into()),
        })
    }

    /// Sends a request, and reads the body up to `bytes_max` bytes.
    pub(crate) async fn fetch(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<HttpResponse, HttpError> {
        let response = async {
            let (head, mut incoming) = self.send(request).await?.into_parts();
            let mut body = Vec::new();
            while body.len() < bytes_max
                && let Some(frame) = incoming.frame().await
            {
                let frame = frame.map_err(|error| HttpError::Broken(error.into()))?;
                let data = frame.into_data().unwrap_or_default();
                body.extend_from_slice(&data[..data.len().min(bytes_max - body.len())]);
            }
            Ok(HttpResponse { status: head.status, headers: head.headers, body })
        };
        let result = tokio::time::timeout(timeout, response).await;
        result.unwrap_or(Err(HttpError::TimedOut(timeout)))
    }
}

impl HttpError {
    /// Returns whether no connection was established.
    pub(crate) fn is_connect(&self) -> bool {
        matches!(self, Self::Dial(_))
    }
}

/// Completes a request with a JSON body.
pub(crate) fn with_json(request: http::request::Builder, body: &Value) -> Request<Full<Bytes>> {
    let request = request.header(CONTENT_TYPE, "application/json");
    let body = Full::new(body.to_string().into());
    request.body(body).expect("a service URL and checked headers make a request")
}

/// Completes a request without a body, with a token or without.
pub(crate) fn without_body(
    request: http::request::Builder,
    bearer: Option<HeaderValue>,
) -> Request<Full<Bytes>> {
    let request = match bearer {
        Some(bearer) => request.header(AUTHORIZATION, bearer),
        None => request,
    };
    request.body(Full::default()).expect("a service URL and checked headers make a request")
}

#[derive(Debug, Clone)]
struct HttpConnector {
    dialer: Dialer,
    service: ServiceUrl,
}

impl Service<Uri> for HttpConnector {
    type Response = HttpStream;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<HttpStream, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dialer, service } = self.clone();
        async move {
            let stream = dialer.open(&service, DialPurpose::Requests).await?;
            let is_forwarded = dialer.route(&service).forwards(&service).is_some();
            Ok(HttpStream { io: TokioIo::new(stream), is_forwarded })
        }
        .boxed()
    }
}

struct HttpStream {
    io: TokioIo<DialStream>,
    /// Whether requests carry the whole URL, for a proxy that forwards them.
    is_forwarded: bool,
}

impl Connection for HttpStream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_forwarded)
    }
}

impl Read for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
