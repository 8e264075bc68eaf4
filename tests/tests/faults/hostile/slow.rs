//! Slow clients.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::json;
use spoke_tests::{
    certificates::Certificates,
    cloud::admit,
    entries::{every_byte, fields},
    load_probe::Siege,
    wait::PATIENCE,
    websocket::{JSON_SUBPROTOCOL, open},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::hostile::{auth, good_client, hub, request};

/// The hub's timeout for a handshake or a header is ten seconds; the rest is for a busy machine.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);
/// The pause between two bytes of a slow client.
const BYTE_PAUSE: Duration = Duration::from_millis(100);

/// Sends one byte after another until the other side closes; returns its answer, and when it closed.
async fn trickle(stream: &mut TcpStream, bytes: &[u8]) -> (String, Duration) {
    let begun = Instant::now();
    let (mut reading, mut writing) = stream.split();
    let sending = async {
        for byte in bytes.iter().cycle() {
            if writing.write_all(&[*byte]).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(BYTE_PAUSE).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = sending => {}
        // A reset ends the connection too.
        _ = tokio::time::timeout(2 * PATIENCE, reading.read_to_end(&mut answer)) => {}
    }
    (String::from_utf8_lossy(&answer).into_owned(), begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_headers_time_out_while_a_good_client_notices_nothing() {
    let mut stand = hub(&[]).await;
    let pid = stand.service.process().pid();
    let address = stand.service.address();
    let token = admit(&stand.redis, "evil").await;
    let get = request("GET", "/seq", Some(&token), &[]);
    let upgrade = request("GET", "/sync", Some(&token), &[("upgrade", "websocket")]);
    let unfinished = [&b"G"[..], &b""[..], &get[..get.len() - 2], &upgrade[..upgrade.len() - 4]];
    let attack = async || {
        let slow = (0..400).map(|n| unfinished[n % unfinished.len()]).map(async |head| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head).await.unwrap();
            trickle(&mut stream, b"x").await
        });
        for (answer, took) in join_all(slow).await {
            assert!(!answer.contains("200 OK"), "{answer}");
            assert!(took < CLOSED_WITHIN, "it was open for {took:?}");
        }
    };

    let siege = Siege::lay(pid, async |recorder| good_client(&stand, recorder).await, attack).await;

    siege.assert_borne("400 slow headers", 32);
}

#[tokio::test]
async fn a_connection_idle_between_two_requests_is_closed_in_time() {
    let stand = hub(&[]).await;
    let token = admit(&stand.redis, "evil").await;
    let mut stream = TcpStream::connect(stand.service.address()).await.unwrap();
    stream.write_all(&request("GET", "/seq", Some(&token), &[])).await.unwrap();
    let begun = Instant::now();
    let mut answer = String::new();
    let closed = tokio::time::timeout(CLOSED_WITHIN, stream.read_to_string(&mut answer)).await;
    assert!(closed.is_ok(), "it is still open after {:?}", begun.elapsed());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_tls_handshakes_time_out_while_a_good_client_notices_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let files = Certificates::make(folder.path());
    let (cert, key) = (files.cert_file.display().to_string(), files.key_file.display().to_string());
    let mut stand = hub(&[("tls.cert_file", &cert), ("tls.key_file", &key)]).await;
    let (pid, address) = (stand.service.process().pid(), stand.service.address());
    let token = admit(&stand.redis, "good").await;
    spoke_tests::api::install_tls();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&files.ca_file).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
    let client = client.tls_backend_preconfigured(config).timeout(PATIENCE).build().unwrap();
    let url = format!("https://{address}/seq");
    let good = async |recorder: spoke_tests::load_probe::Recorder| loop {
        let request = client.request(Method::GET, &url).bearer_auth(&token).send();
        assert_eq!(recorder.time(request).await.unwrap().status(), 200);
        tokio::time::sleep(crate::hostile::PAUSE).await;
    };
    // The beginning of a ClientHello of 16 KiB, and of a record whose rest is never sent.
    let beginnings =
        [&b""[..], b"\x16", b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03", b"\x17\x03\x03\xff"];
    let attack = async || {
        let slow = (0..400).map(|n| beginnings[n % beginnings.len()]).map(async |beginning| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(beginning).await.unwrap();
            trickle(&mut stream, b"\x01").await.1
        });
        let longest = join_all(slow).await.into_iter().max().unwrap();
        assert!(longest < CLOSED_WITHIN, "one was open for {longest:?}");
    };

    let siege = Siege::lay(pid, good, attack).await;

    siege.assert_borne("400 unfinished TLS handshakes", 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_use_up_one_clients_request_limit_while_a_good_client_notices_nothing() {
    let mut stand = hub(&[]).await;
    let pid = stand.service.process().pid();
    let evil = stand.client("evil").await;
    let address = stand.service.address();
    let json = ("content-type", "application/json");
    let head = |token| request("POST", "/xadd", token, &[json, ("content-length", "4000000")]);
    let (with_token, without_token) = (head(evil.token()), head(None));
    let attack = async || {
        let mut open = Vec::new();
        // As many as the request limit, and one for each that the check itself uses up.
        while open.len() < 32 || evil.get("/seq").await.status != 429 {
            assert!(open.len() < 200, "the request limit is never reached");
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&with_token).await.unwrap();
            let _ = stream.write_all(&vec![b' '; 1 << 20]).await;
            open.push(stream);
        }
        let mut one_more = TcpStream::connect(address).await.unwrap();
        one_more.write_all(&with_token).await.unwrap();
        let (answer, _) = trickle(&mut one_more, b" ").await;
        assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after"), "{answer}");
        let mut unauthenticated = TcpStream::connect(address).await.unwrap();
        unauthenticated.write_all(&without_token).await.unwrap();
        let (answer, _) = trickle(&mut unauthenticated, b" ").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        open
    };

    let siege = Siege::lay(pid, async |recorder| good_client(&stand, recorder).await, attack).await;

    siege.assert_borne("32 slow bodies", 96);
    evil.get("/seq").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_are_bounded_while_a_good_client_notices_nothing() {
    let mut stand = hub(&[]).await;
    let pid = stand.service.process().pid();
    let evil = stand.client("evil").await;
    let (address, token) = (stand.service.address(), evil.token().unwrap());
    let large = fields([("blob", every_byte(1 << 20))]);
    stand.redis.add_all("spoke-hub:out:evil:x", &vec![large; 4]).await;
    let ask = request("GET", "/xread", Some(token), &[]).repeat(100);
    let attack = async || {
        let mut sockets = Vec::new();
        for _ in 0..4 {
            let mut socket = open(address, token, JSON_SUBPROTOCOL).await;
            for id in 0..100 {
                socket.send_json(&json!({ "type": "xread", "id": id, "payload": {} })).await;
            }
            sockets.push(socket);
        }
        let mut streams = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&ask).await.unwrap();
            streams.push(stream);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        (sockets, streams)
    };

    let siege = Siege::lay(pid, async |recorder| good_client(&stand, recorder).await, attack).await;

    // Thirty-two responses, and the queues of four sockets, of 1.4 MiB each, as entry and as JSON.
    siege.assert_borne("unread responses", 128);
}

#[tokio::test]
async fn a_slow_body_to_auth_times_out() {
    let (stand, _) = auth(&[]).await;
    let slow = ["/login", "/register"].map(async |path| {
        let mut stream = TcpStream::connect(stand.service.address()).await.unwrap();
        let json = ("content-type", "application/json");
        let head = request("POST", path, None, &[json, ("content-length", "500")]);
        stream.write_all(&head).await.unwrap();
        trickle(&mut stream, b" ").await
    });
    for (answer, took) in join_all(slow).await {
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(took < CLOSED_WITHIN, "it took {took:?}");
    }
}
