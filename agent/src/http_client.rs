//! Requests to the services, over the one way out of this device.

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

use crate::dial::{DialError, Dialer, Purpose, Stream};

/// How the agent names itself.
pub(crate) const USER_AGENT: &str = concat!("spoke-agent/", env!("CARGO_PKG_VERSION"));

/// Asks one service. Cheap to clone. A redirect is an answer: a token must not follow wherever somebody
/// points.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client<Connector, Full<Bytes>>,
    dialer: Dialer,
    service: ServiceUrl,
}

/// An answer whose body was read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// There is no connection.
    #[error(transparent)]
    Dial(DialErrorOf),
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing came in time.
    #[error("no answer came within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// What the library holds of a `DialError`; it shows that one and its causes.
#[derive(Debug)]
pub struct DialErrorOf(legacy::Error);

impl DialErrorOf {
    fn inner(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

impl std::fmt::Display for DialErrorOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.inner() {
            Some(error) => std::fmt::Display::fmt(error, f),
            None => std::fmt::Display::fmt(&self.0, f),
        }
    }
}

impl std::error::Error for DialErrorOf {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner()?.source()
    }
}

impl Http {
    /// Does not connect yet.
    pub fn new(dialer: &Dialer, service: &ServiceUrl) -> Self {
        let connector = Connector { dialer: dialer.clone(), service: service.clone() };
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { client, dialer: dialer.clone(), service: service.clone() }
    }

    /// The service that is asked.
    pub fn service(&self) -> &ServiceUrl {
        &self.service
    }

    /// A request to an endpoint of the service.
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(self.service.join(path));
        let request = request.header(http::header::USER_AGENT, USER_AGENT);
        // Where it is handed to the proxy whole, it bears what the proxy wants to see.
        match self.dialer.route(&self.service).forwards(&self.service) {
            Some(Some(auth)) => request.header(PROXY_AUTHORIZATION, auth),
            Some(None) | None => request,
        }
    }

    /// The head of the answer; its body is for the caller to read.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpError> {
        self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => HttpError::Dial(DialErrorOf(error)),
            false => HttpError::Broken(error.into()),
        })
    }

    /// The whole answer, its body cut off after `most` bytes.
    pub(crate) async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        within: Duration,
        most: usize,
    ) -> Result<Answer, HttpError> {
        let asking = async {
            let (head, mut incoming) = self.send(request).await?.into_parts();
            let mut body = Vec::new();
            while body.len() < most
                && let Some(frame) = incoming.frame().await
            {
                let frame = frame.map_err(|error| HttpError::Broken(error.into()))?;
                let data = frame.into_data().unwrap_or_default();
                body.extend_from_slice(&data[..data.len().min(most - body.len())]);
            }
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        let asked = tokio::time::timeout(within, asking).await;
        asked.unwrap_or(Err(HttpError::TimedOut(within)))
    }
}

impl HttpError {
    /// Whether nobody was reached.
    pub(crate) fn is_connect(&self) -> bool {
        matches!(self, Self::Dial(_))
    }
}

/// A request with a body of JSON.
pub(crate) fn with_json(request: http::request::Builder, body: &Value) -> Request<Full<Bytes>> {
    let request = request.header(CONTENT_TYPE, "application/json");
    let body = Full::new(body.to_string().into());
    request.body(body).expect("a service URL and checked headers make a request")
}

/// A request without a body, in a session or not.
pub(crate) fn plain(
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
struct Connector {
    dialer: Dialer,
    service: ServiceUrl,
}

impl Service<Uri> for Connector {
    type Response = Open;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Open, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dialer, service } = self.clone();
        async move {
            let stream = dialer.open(&service, Purpose::Requests).await?;
            let is_forwarded = dialer.route(&service).forwards(&service).is_some();
            Ok(Open { io: TokioIo::new(stream), is_forwarded })
        }
        .boxed()
    }
}

struct Open {
    io: TokioIo<Stream>,
    /// The proxy is told the whole URL.
    is_forwarded: bool,
}

impl Connection for Open {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_forwarded)
    }
}

impl Read for Open {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Open {
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
