//! Clients that take their time.

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

/// A handshake or a header has ten seconds; what is over by then is closed, on a busy machine too.
const IN_TIME: Duration = Duration::from_secs(20);
/// Between two bytes of one that trickles.
const DRIP: Duration = Duration::from_millis(100);

/// Sends one byte after the other until the other side closes; what it said, and when it closed.
async fn trickle(stream: &mut TcpStream, bytes: &[u8]) -> (String, Duration) {
    let begun = Instant::now();
    let (mut reading, mut writing) = stream.split();
    let dripping = async {
        for byte in bytes.iter().cycle() {
            if writing.write_all(&[*byte]).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(DRIP).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = dripping => {}
        // A reset is an end too.
        _ = tokio::time::timeout(2 * PATIENCE, reading.read_to_end(&mut answer)) => {}
    }
    (String::from_utf8_lossy(&answer).into_owned(), begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_trickle_are_given_up_in_time_while_a_good_client_notices_nothing() {
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
            assert!(took < IN_TIME, "it was borne for {took:?}");
        }
    };

    let siege = Siege::lay(pid, async |recorder| good_client(&stand, recorder).await, attack).await;

    siege.assert_borne("400 headers that trickle", 32);
}

#[tokio::test]
async fn a_connection_that_idles_between_two_requests_is_given_up_in_time() {
    let stand = hub(&[]).await;
    let token = admit(&stand.redis, "evil").await;
    let mut stream = TcpStream::connect(stand.service.address()).await.unwrap();
    stream.write_all(&request("GET", "/seq", Some(&token), &[])).await.unwrap();
    let begun = Instant::now();
    let mut answer = String::new();
    let closed = tokio::time::timeout(IN_TIME, stream.read_to_string(&mut answer)).await;
    assert!(closed.is_ok(), "it is open after {:?}", begun.elapsed());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_handshakes_that_never_end_are_given_up_in_time_while_a_good_client_notices_nothing() {
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
    // The beginning of a ClientHello of 16 KiB, and of a record that no one sends.
    let beginnings =
        [&b""[..], b"\x16", b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03", b"\x17\x03\x03\xff"];
    let attack = async || {
        let slow = (0..400).map(|n| beginnings[n % beginnings.len()]).map(async |beginning| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(beginning).await.unwrap();
            trickle(&mut stream, b"\x01").await.1
        });
        let longest = join_all(slow).await.into_iter().max().unwrap();
        assert!(longest < IN_TIME, "one was borne for {longest:?}");
    };

    let siege = Siege::lay(pid, good, attack).await;

    siege.assert_borne("400 TLS handshakes that never end", 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_trickle_take_one_clients_places_while_a_good_client_notices_nothing() {
    let mut stand = hub(&[]).await;
    let pid = stand.service.process().pid();
    let evil = stand.client("evil").await;
    let address = stand.service.address();
    let json = ("content-type", "application/json");
    let head = |token| request("POST", "/xadd", token, &[json, ("content-length", "4000000")]);
    let (known, nobody) = (head(evil.token()), head(None));
    let attack = async || {
        let mut open = Vec::new();
        // As many as it has places, and one for each that what looks whether all are taken takes itself.
        while open.len() < 32 || evil.get("/seq").await.status != 429 {
            assert!(open.len() < 200, "its places are never all taken");
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&known).await.unwrap();
            let _ = stream.write_all(&vec![b' '; 1 << 20]).await;
            open.push(stream);
        }
        let mut one_more = TcpStream::connect(address).await.unwrap();
        one_more.write_all(&known).await.unwrap();
        let (answer, _) = trickle(&mut one_more, b" ").await;
        assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after"), "{answer}");
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(&nobody).await.unwrap();
        let (answer, _) = trickle(&mut stranger, b" ").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        open
    };

    let siege = Siege::lay(pid, async |recorder| good_client(&stand, recorder).await, attack).await;

    siege.assert_borne("32 bodies that trickle", 96);
    evil.get("/seq").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_bounded_while_a_good_client_notices_nothing() {
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

    // Thirty-two answers and as many as wait on four sockets, of 1.4 MiB, as entry and as JSON.
    siege.assert_borne("answers that nobody reads", 128);
}

#[tokio::test]
async fn a_body_for_auth_that_trickles_is_given_up_in_time() {
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
        assert!(took < IN_TIME, "it took {took:?}");
    }
}
