//! TLS, HTTP/2 and a limit that changes.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::config::TlsSettings;

struct Authority {
    dir: tempfile::TempDir,
    roots: RootCertStore,
}

impl Authority {
    /// Creates a CA, and a certificate signed by it for `localhost`, with its key, as files.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        Self { dir, roots }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings { cert_file: self.path("cert.pem"), key_file: self.path("key.pem") }
    }
}

/// Connects and offers these ALPN protocols.
async fn connect(authority: &Authority, running: &Running, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
    let mut client = ClientConfig::builder()
        .with_root_certificates(authority.roots.clone())
        .with_no_client_auth();
    client.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let connector = TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("localhost").unwrap();
    connector.connect(name, running.connect().await).await.unwrap()
}

/// Sends a GET over HTTP/2 and returns the whole body.
async fn get(sender: &h2::client::SendRequest<Bytes>, path: &str) -> Result<String, h2::Error> {
    let request = http::Request::get(format!("https://localhost{path}")).body(()).unwrap();
    let mut ready = sender.clone().ready().await?;
    let mut body = ready.send_request(request, true)?.0.await?.into_body();
    let mut text = Vec::new();
    while let Some(part) = body.data().await {
        text.extend_from_slice(&part?);
    }
    Ok(String::from_utf8(text).unwrap())
}

/// Returns an HTTP/2 client, and a task that ends with its connection.
async fn http2(
    authority: &Authority,
    running: &Running,
) -> (h2::client::SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = connect(authority, running, &[b"h2"]).await;
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    (sender, tokio::spawn(connection))
}

#[tokio::test]
async fn an_idle_http_2_connection_is_closed_after_the_header_timeout() {
    let authority = Authority::new();
    let limits =
        ServeLimits { header_read: 4 * BRIEF, write_stall: SOON, ..ServeLimits::default() };
    let (app, begun, go) = slow();
    let tls = Certificate::open(&authority.settings()).unwrap();
    let running = start(app, limits, tls).await;
    let (sender, mut ended) = http2(&authority, &running).await;
    let slow = tokio::spawn({
        let sender = sender.clone();
        async move { get(&sender, "/slow").await }
    });
    begun.notified().await;
    assert!(timeout(8 * BRIEF, &mut ended).await.is_err(), "a request is in progress");
    go.notify_one();
    assert_eq!(slow.await.unwrap().unwrap(), "finished");
    timeout(SOON, ended).await.expect("the idle connection is still open").unwrap().unwrap();
    running.end().await;
}

#[tokio::test]
async fn an_http_2_response_that_is_not_read_closes_the_connection() {
    let authority = Authority::new();
    let limits = ServeLimits { header_read: BRIEF, write_stall: BRIEF, ..ServeLimits::default() };
    let large = || async { "x".repeat(1024 * 1024) };
    let tls = Certificate::open(&authority.settings()).unwrap();
    let running =
        start(Router::new().route("/large", axum::routing::get(large)), limits, tls).await;
    let (sender, ended) = http2(&authority, &running).await;
    let request = http::Request::get("https://localhost/large").body(()).unwrap();
    let mut ready = sender.clone().ready().await.unwrap();
    // Its body is never read, so the flow-control window stays closed.
    let _answer = ready.send_request(request, true).unwrap().0.await.unwrap();
    drop(sender);
    let _ = timeout(SOON, ended).await.expect("the connection is never closed").unwrap();
    running.end().await;
}

#[tokio::test]
async fn an_http_2_request_in_progress_is_finished_at_shutdown() {
    let authority = Authority::new();
    let (app, begun, go) = slow();
    let tls = Certificate::open(&authority.settings()).unwrap();
    let running = start(app, ServeLimits::default(), tls).await;
    let (sender, _ended) = http2(&authority, &running).await;
    let slow = tokio::spawn(async move { get(&sender, "/slow").await });
    begun.notified().await;
    running.shutdown.begin();
    go.notify_one();
    assert_eq!(slow.await.unwrap().unwrap(), "finished");
    running.end().await;
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_and_served_once_the_limit_is_raised() {
    let limit = ConnectionLimit::of(&ServeLimits::of(1));
    let listener = bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
    let serving = serve_devices(listener, None, hello(), limit.clone(), shutdown.clone());
    shutdown.spawn("listener", serving);
    let running = Running { address, shutdown };
    let _held = running.connect().await;
    assert_eq!(running.get("/").await, "");
    limit.resize(2);
    assert!(running.get("/").await.ends_with("hello"));
    running.end().await;
}

#[tokio::test]
async fn tls_is_served_with_the_configured_certificate() {
    let authority = Authority::new();
    let tls = Certificate::open(&authority.settings()).unwrap();
    assert!(tls.is_some());
    let running = start(hello(), ServeLimits::default(), tls).await;
    let mut stream = connect(&authority, &running, &[b"http/1.1"]).await;
    stream.write_all(request("/").as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("hello"));
    let (sender, _ended) = http2(&authority, &running).await;
    assert_eq!(get(&sender, "/").await.unwrap(), "hello");
    running.end().await;
}

#[tokio::test]
async fn a_tls_handshake_that_takes_too_long_closes_the_connection() {
    let authority = Authority::new();
    let limits = ServeLimits { tls_handshake: BRIEF, ..ServeLimits::default() };
    let running = start(hello(), limits, Certificate::open(&authority.settings()).unwrap()).await;
    let mut stream = running.connect().await;
    assert_eq!(read_to_end(&mut stream).await, "");
    running.end().await;
}

#[test]
fn an_unusable_tls_setting_is_named() {
    let authority = Authority::new();
    let other = Authority::new();
    fs::write(authority.path("empty.pem"), "").unwrap();
    assert!(Certificate::open(&TlsSettings::default()).unwrap().is_none());
    for (cert_file, key_file, key) in [
        (authority.path("cert.pem"), PathBuf::new(), "tls.key_file"),
        (PathBuf::new(), authority.path("key.pem"), "tls.cert_file"),
        (authority.path("none.pem"), authority.path("key.pem"), "tls.cert_file"),
        (authority.path("empty.pem"), authority.path("key.pem"), "tls.cert_file"),
        (authority.path("cert.pem"), authority.path("none.pem"), "tls.key_file"),
        (authority.path("cert.pem"), authority.path("empty.pem"), "tls.key_file"),
        (authority.path("cert.pem"), other.path("key.pem"), "tls.key_file"),
    ] {
        let message =
            Certificate::open(&TlsSettings { cert_file, key_file }).unwrap_err().to_string();
        assert!(message.starts_with(key), "{key}: {message}");
    }
}
