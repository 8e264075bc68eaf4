//! The limits of a listener, on real sockets.

mod tls;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Extension, Router, routing::get};
use futures_util::future::BoxFuture;
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    acceptor::accept,
    security::{Encrypted, Plain},
    *,
};
use crate::shutdown::Shutdown;

/// The deadline of events that are expected at once.
const SOON: Duration = Duration::from_secs(10);
/// A timeout whose end a test waits for.
const BRIEF: Duration = Duration::from_millis(50);

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
}

async fn start(app: Router, limits: ServeLimits, certificate: Option<Certificate>) -> Running {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let (limits, stop) = ((limits, ConnectionLimit::of(&limits)), shutdown.clone());
    match certificate {
        Some(certificate) => {
            let security = Encrypted(TlsAcceptor::from(certificate.config()));
            shutdown.spawn("listener", accept(listener, security, app, limits, stop));
        }
        None => shutdown.spawn("listener", accept(listener, Plain, app, limits, stop)),
    }
    Running { address, shutdown }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Returns the whole response to one GET; empty if the connection was closed at once.
    async fn get(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        // A refused connection may be reset before the request is written.
        let _ = stream.write_all(request(path).as_bytes()).await;
        read_to_end(&mut stream).await
    }

    async fn end(self) {
        self.shutdown.begin();
        assert!(self.shutdown.finish(SOON).await, "tasks are still running");
    }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

/// Reads until the peer closes.
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection was not closed in time");
    if let Err(error) = read {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(bytes).unwrap()
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

/// Returns a handler that notifies when it begins, and waits for a notification to continue.
fn slow() -> (Router, Arc<Notify>, Arc<Notify>) {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, goes) = (begun.clone(), go.clone());
    let handler = move || {
        let (begins, goes) = (begins.clone(), goes.clone());
        async move {
            begins.notify_one();
            goes.notified().await;
            "finished"
        }
    };
    (Router::new().route("/slow", get(handler)), begun, go)
}

#[tokio::test]
async fn a_request_is_answered_and_its_handler_gets_the_peer_address() {
    let peer = |Extension(peer): Extension<PeerAddress>| async move { peer.to_string() };
    let running = start(hello().route("/peer", get(peer)), ServeLimits::default(), None).await;
    assert!(running.get("/").await.ends_with("\r\n\r\nhello"));
    let mut stream = running.connect().await;
    let own = stream.local_addr().unwrap().to_string();
    stream.write_all(request("/peer").as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with(&own));
    running.end().await;
}

#[tokio::test]
async fn a_header_that_takes_too_long_closes_the_connection() {
    let limits = ServeLimits { header_read: BRIEF, ..ServeLimits::default() };
    let running = start(hello(), limits, None).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: te").await.unwrap();
    assert!(!read_to_end(&mut stream).await.contains("hello"));
    running.end().await;
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let limits = ServeLimits { header_read: BRIEF, ..ServeLimits::default() };
    let running = start(hello(), limits, None).await;
    let mut stream = running.connect().await;
    read_to_end(&mut stream).await;
    running.end().await;
}

#[tokio::test]
async fn a_request_in_progress_is_finished_at_shutdown_and_no_new_one_is_accepted() {
    let (app, begun, go) = slow();
    let running = start(app, ServeLimits::default(), None).await;
    let address = running.address;
    let mut stream = running.connect().await;
    stream.write_all(request("/slow").as_bytes()).await.unwrap();
    timeout(SOON, begun.notified()).await.unwrap();
    running.shutdown.begin();
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(SOON, refused).await.expect("the listener is still open");
    go.notify_one();
    assert!(read_to_end(&mut stream).await.ends_with("finished"));
    running.end().await;
}

#[tokio::test]
async fn a_request_that_does_not_end_is_aborted_after_the_drain_timeout() {
    let (app, begun, _go) = slow();
    let limits = ServeLimits { drain: BRIEF, ..ServeLimits::default() };
    let running = start(app, limits, None).await;
    let mut stream = running.connect().await;
    stream.write_all(request("/slow").as_bytes()).await.unwrap();
    timeout(SOON, begun.notified()).await.unwrap();
    running.end().await;
    assert!(!read_to_end(&mut stream).await.contains("finished"));
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_a_shutdown() {
    let limits = ServeLimits { header_read: SOON * 10, drain: SOON * 10, ..ServeLimits::default() };
    let running = start(hello(), limits, None).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).await.unwrap();
    running.end().await;
}

#[tokio::test]
async fn a_request_on_its_way_at_shutdown_is_answered_with_connection_close() {
    let limits = ServeLimits { linger: SOON * 10, ..ServeLimits::default() };
    let running = start(hello(), limits, None).await;
    let mut stream = running.connect().await;
    let keep_alive = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    stream.write_all(keep_alive).await.unwrap();
    stream.read_exact(&mut [0; 1]).await.unwrap();
    running.shutdown.begin();
    stream.write_all(keep_alive).await.unwrap();
    let answers = read_to_end(&mut stream).await;
    assert_eq!(answers.matches("hello").count(), 2, "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
    running.end().await;
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_until_another_one_ends() {
    let limits = ServeLimits { connections: 1, ..ServeLimits::default() };
    let running = start(hello(), limits, None).await;
    let mut first = running.connect().await;
    first.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    first.read_exact(&mut [0; 1]).await.unwrap();
    assert_eq!(running.get("/").await, "");
    drop(first);
    let again = async { while running.get("/").await.is_empty() {} };
    timeout(SOON, again).await.expect("the permit was not returned");
    running.end().await;
}

#[tokio::test]
async fn a_kept_handle_counts_as_a_connection_after_its_own_has_ended() {
    let kept: Arc<Mutex<Option<ConnectionHandle>>> = Arc::default();
    let keeper = kept.clone();
    let keep = move |Extension(handle): Extension<ConnectionHandle>| async move {
        *keeper.lock().unwrap() = Some(handle);
    };
    let app = hello().route("/keep", get(keep));
    let limits = ServeLimits { connections: 1, ..ServeLimits::default() };
    let running = start(app, limits, None).await;
    assert!(running.get("/keep").await.contains("200 OK"));
    assert_eq!(running.get("/").await, "");
    kept.lock().unwrap().take();
    let again = async { while running.get("/").await.is_empty() {} };
    timeout(SOON, again).await.expect("the permit was not returned");
    running.end().await;
}

#[tokio::test]
async fn the_oldest_unauthenticated_connection_is_evicted_and_no_authenticated_one() {
    let authenticate = |Extension(handle): Extension<ConnectionHandle>| async move {
        let _guard = handle.mark_authenticated();
        std::future::pending::<()>().await;
    };
    let limits = ServeLimits { unauthenticated: 2, drain: BRIEF, ..ServeLimits::default() };
    let running = start(hello().route("/mark", get(authenticate)), limits, None).await;
    let mut authenticated = running.connect().await;
    authenticated.write_all(request("/mark").as_bytes()).await.unwrap();
    let mut first = running.connect().await;
    first.write_all(b"GET / HTTP/1.1\r\nhost: te").await.unwrap();
    let _second = running.connect().await;
    let _third = running.connect().await;

    assert_eq!(read_to_end(&mut first).await, "", "the oldest is evicted");

    // All earlier unauthenticated connections are open or closed, and the newest is still served.
    for _ in 0..10 {
        assert!(running.get("/").await.ends_with("hello"));
    }
    let waits = timeout(BRIEF, authenticated.read(&mut [0])).await;
    assert!(waits.is_err(), "the authenticated connection was closed: {waits:?}");
    running.end().await;
}

#[tokio::test]
async fn a_response_that_is_not_read_closes_the_connection() {
    let large = || async { vec![b'x'; 64 * 1024 * 1024] };
    let kept: Arc<Mutex<Option<ConnectionHandle>>> = Arc::default();
    let keeper = kept.clone();
    let keep = move |Extension(handle): Extension<ConnectionHandle>| async move {
        *keeper.lock().unwrap() = Some(handle);
        large().await
    };
    let limits = ServeLimits { write_stall: BRIEF, ..ServeLimits::default() };
    let running = start(hello().route("/large", get(keep)), limits, None).await;
    let mut stream = running.connect().await;
    stream.write_all(request("/large").as_bytes()).await.unwrap();
    let ended = async {
        let handle = loop {
            let handle = kept.lock().unwrap().take();
            match handle {
                Some(handle) => break Arc::downgrade(&handle.0),
                None => tokio::task::yield_now().await,
            }
        };
        while handle.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, ended).await.expect("the connection is still open");
    running.end().await;
}

#[tokio::test]
async fn a_header_has_a_maximum_length() {
    let running = start(hello(), ServeLimits::default(), None).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n").await.unwrap();
    let line = format!("x-long: {}\r\n", "x".repeat(8000));
    for _ in 0..20 {
        // The server may close before all of it is sent.
        let _ = stream.write_all(line.as_bytes()).await;
    }
    let answer = read_to_end(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    running.end().await;
}

#[tokio::test]
async fn a_panic_in_one_request_does_not_affect_another() {
    let panics = || async {
        if true {
            panic!("on purpose");
        }
    };
    let running = start(hello().route("/panic", get(panics)), ServeLimits::default(), None).await;
    assert_eq!(running.get("/panic").await, "");
    assert!(running.get("/").await.ends_with("hello"));
    assert!(!running.shutdown.is_begun());
    running.end().await;
}

#[tokio::test]
async fn an_address_in_use_is_named_with_help() {
    let taken = bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let message = bind(&address).await.unwrap_err().to_string();
    assert!(message.contains(&address) && message.contains("free"), "{message}");
}

#[tokio::test]
async fn the_admin_routes_serve_liveness_readiness_and_metrics() {
    let is_ready = Arc::new(Mutex::new(false));
    let readiness = is_ready.clone();
    let ready = move || -> BoxFuture<'static, Result<(), String>> {
        let is_ready = *readiness.lock().unwrap();
        Box::pin(async move { is_ready.then_some(()).ok_or_else(|| "no redis".to_owned()) })
    };
    let stops = Shutdown::new();
    let is_alive = Arc::new(Mutex::new(true));
    let liveness = is_alive.clone();
    let alive =
        move || liveness.lock().unwrap().then_some(()).ok_or_else(|| "no progress".to_owned());
    let metrics = || -> BoxFuture<'static, String> { Box::pin(async { "metric 1\n".to_owned() }) };
    let app = admin_router(stops.clone(), alive, ready, metrics);
    let running = start(app, ServeLimits::default(), None).await;
    let status = |answer: &str, status: StatusCode| {
        assert!(answer.starts_with(&format!("HTTP/1.1 {}", status.as_u16())), "{answer}");
    };
    status(&running.get("/healthz").await, StatusCode::OK);
    let answer = running.get("/readyz").await;
    status(&answer, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.contains("no redis"), "{answer}");
    *is_ready.lock().unwrap() = true;
    status(&running.get("/readyz").await, StatusCode::OK);
    assert!(running.get("/metrics").await.ends_with("metric 1\n"));
    status(&running.get("/nowhere").await, StatusCode::NOT_FOUND);
    *is_alive.lock().unwrap() = false;
    let answer = running.get("/healthz").await;
    status(&answer, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.contains("no progress"), "{answer}");
    *is_alive.lock().unwrap() = true;
    stops.begin();
    status(&running.get("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    status(&running.get("/healthz").await, StatusCode::OK);
    running.end().await;
}
