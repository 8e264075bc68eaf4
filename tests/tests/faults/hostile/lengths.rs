//! Lengths that are announced but never sent, and requests that never end.

use std::time::{Duration, Instant};

use serde_json::json;
use spoke_protocol::{
    message::{Features, Frame},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    api::Api,
    cloud::admit,
    load_probe::{Siege, resident_kib},
    service::Kind,
    single_service::Stand,
    wait::PATIENCE,
    websocket::hello,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::hostile::{connect, good_client, hub, raw_socket, request, websocket_frame};

const GIBIBYTE_4: u64 = 4 << 30;
const JSON: (&str, &str) = ("content-type", "application/json");

/// Writes until the other side closes, or everything is written; returns what the other side sent.
async fn pour(stream: &mut TcpStream, bytes: &[u8], times: usize) -> String {
    let (mut reading, mut writing) = stream.split();
    let sending = async {
        for _ in 0..times {
            if writing.write_all(bytes).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let closing = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut answer));
    tokio::select! {
        () = sending => {}
        closed = closing => {
            assert!(closed.is_ok(), "the connection was never closed; {} bytes were received", answer.len());
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

async fn connect_and_pour(stand: &Stand, head: &[u8], bytes: &[u8], times: usize) -> String {
    let mut stream = connect(stand).await;
    // It may be refused before it is complete.
    let _ = stream.write_all(head).await;
    pour(&mut stream, bytes, times).await
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_requests_and_messages_are_cut_off_while_a_good_client_notices_nothing() {
    let mut stand = hub(&[]).await;
    let pid = stand.service.process().pid();
    let token = admit(&stand.redis, "evil").await;
    let post = |headers: &[(&str, &str)]| {
        request("POST", "/xadd", Some(&token), &[&[JSON], headers].concat())
    };
    let megabyte = vec![b' '; 1 << 20];
    let chunk = [b"100000\r\n".to_vec(), megabyte.clone(), b"\r\n".to_vec()].concat();
    let header = [b"x-long: ".to_vec(), vec![b'x'; 1000], b"\r\n".to_vec()].concat();
    let attack = async || {
        let endless = [
            ("a chunked body", post(&[("transfer-encoding", "chunked")]), chunk),
            ("headers", b"GET /seq HTTP/1.1\r\n".to_vec(), header.clone()),
            ("small headers", b"GET /seq HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(100)),
            ("one header", b"GET /seq HTTP/1.1\r\nx: ".to_vec(), megabyte.clone()),
            ("a URI", b"GET /".to_vec(), vec![b'x'; 1 << 20]),
            ("a method", Vec::new(), vec![b'X'; 1 << 20]),
            ("blank lines", Vec::new(), b"\r\n".repeat(1 << 19)),
            (
                "a chunk's extension",
                [post(&[("transfer-encoding", "chunked")]), b"1;".to_vec()].concat(),
                megabyte.clone(),
            ),
            (
                "trailers",
                [post(&[("transfer-encoding", "chunked")]), b"2\r\n{}\r\n0\r\n".to_vec()].concat(),
                header,
            ),
        ];
        for (what, head, bytes) in endless {
            let answer = connect_and_pour(&stand, &head, &bytes, 100).await;
            // A client that goes on sending may lose the answer to a reset.
            let is_refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
            assert!(is_refused, "{what}: {answer}");
        }
        for frame in [
            &websocket_frame(0x02, 1 << 16, &[0x91; 1 << 16]),
            &websocket_frame(0x00, 1 << 16, &[0x91; 1 << 16]),
        ] {
            let mut socket = raw_socket(&stand, &token, SUBPROTOCOL).await;
            socket.write_all(&websocket_frame(0x02, 1 << 16, &[0x91; 1 << 16])).await.unwrap();
            pour(&mut socket, frame, 10_000).await;
        }
    };

    let siege = Siege::lay(pid, async |recorder| good_client(&stand, recorder).await, attack).await;

    siege.assert_borne("endless requests and messages", 64);
}

#[tokio::test]
async fn an_announced_length_of_four_gibibytes_is_refused_at_once_and_allocates_nothing() {
    let mut stand = hub(&[]).await;
    let pid = stand.service.process().pid();
    let token = admit(&stand.redis, "evil").await;
    stand.client("evil").await.get("/seq").await.ok();
    let before = resident_kib(pid);
    for (length, status) in [
        (GIBIBYTE_4.to_string(), 413),
        (u64::MAX.to_string(), 413),
        ("99999999999999999999999".to_owned(), 400),
        ("-1".to_owned(), 400),
        ("0x10".to_owned(), 400),
    ] {
        let begun = Instant::now();
        let head = request("POST", "/xadd", Some(&token), &[JSON, ("content-length", &length)]);
        let answer = connect_and_pour(&stand, &head, b"{", 1).await;
        // A length that overflows every integer is an invalid header.
        let is_expected = answer.starts_with(&format!("HTTP/1.1 {status}"));
        assert!(is_expected || answer.starts_with("HTTP/1.1 431"), "{length}: {answer}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{length}: {:?}", begun.elapsed());
    }
    for length in [(1 << 22) + 1, GIBIBYTE_4, 1 << 62, u64::MAX] {
        for opcode in [0x82, 0x81, 0x02] {
            let mut socket = raw_socket(&stand, &token, SUBPROTOCOL).await;
            let begun = Instant::now();
            socket.write_all(&websocket_frame(opcode, length, b"x")).await.unwrap();
            pour(&mut socket, b"", 0).await;
            assert!(begun.elapsed() < Duration::from_secs(8), "{length}: {:?}", begun.elapsed());
        }
    }
    let more = resident_kib(pid).saturating_sub(before);
    assert!(more < 16 * 1024, "{more} KiB were allocated for announced lengths");
}

#[tokio::test]
async fn lengths_inside_a_frame_allocate_no_more_than_the_frame() {
    let mut stand = hub(&[]).await;
    let pid = stand.service.process().pid();
    let token = admit(&stand.redis, "evil").await;
    stand.client("evil").await.get("/seq").await.ok();
    let before = resident_kib(pid);
    let zeros = zstd::bulk::compress(&vec![0; 1 << 26], 19).unwrap();
    let packed = |length: u32, zstd: &[u8]| {
        let mut frame = vec![0x93, 0x08, 0xce];
        frame.extend(length.to_be_bytes());
        frame.push(0xc6);
        frame.extend((zstd.len() as u32).to_be_bytes());
        [&frame, zstd].concat()
    };
    let frames = [
        ("an array", b"\xdd\xff\xff\xff\xff".to_vec()),
        ("a map after a PING", b"\x92\x05\xdf\xff\xff\xff\xff".to_vec()),
        ("a batch", b"\x97\x03\x01\x00\x00\x01\x00\xdd\xff\xff\xff\xff".to_vec()),
        ("fields", b"\x97\x03\x01\x00\x00\x01\x00\x93\x01\x00\xdd\xff\xff\xff\xff".to_vec()),
        (
            "a value",
            b"\x97\x03\x01\x00\x00\x01\x00\x93\x01\x00\x92\xc4\x01a\xc6\xff\xff\xff\xff".to_vec(),
        ),
        ("a version", b"\x97\x01\x01\x00\xdb\xff\xff\xff\xff".to_vec()),
        ("packed bytes", b"\x93\x08\xce\x00\x40\x00\x00\xc6\xff\xff\xff\xff".to_vec()),
        ("an unpacked length", packed(u32::MAX, &zeros)),
        ("a bomb", packed(1 << 22, &zeros)),
        ("nested arrays", vec![0x91; 1 << 20]),
    ];
    for (what, frame) in frames {
        for is_welcomed in [false, true] {
            let mut socket =
                spoke_tests::websocket::open(stand.service.address(), &token, SUBPROTOCOL).await;
            if is_welcomed {
                socket.greet(hello()).await;
            }
            socket.send(tokio_tungstenite::tungstenite::Message::binary(frame.clone())).await;
            let goaway = socket.goaway().await;
            assert_eq!(goaway.reason, spoke_protocol::message::GoawayReason::Protocol, "{what}");
            socket.closed().await;
        }
    }
    let more = resident_kib(pid).saturating_sub(before);
    assert!(more < 32 * 1024, "{more} KiB were allocated for announced lengths");
    let hello = Frame::Hello(Box::new(hello())).encode(Features::default());
    assert!(Frame::decode(hello, Features::COMPRESSION).is_ok(), "a well-formed HELLO is decoded");
}

#[tokio::test]
async fn out_of_range_numbers_are_refused_or_clamped() {
    let stand = hub(&[]).await;
    let evil = stand.client("evil").await;
    let get = async |path: &str| evil.get(path).await;
    let digits = "9".repeat(5000);
    for query in [
        "count=99999999999999999999999",
        "count=-1",
        "count=1e3",
        "count=0x10",
        "epoch=9007199254740992",
        "epoch=-1",
        "blockMs=99999999999999999999999",
        "blockMs=-1",
        "seq=18446744073709551616-0",
        "seq=-1-0",
        "seq=1-",
        &format!("seq={digits}-{digits}"),
    ] {
        assert_eq!(get(&format!("/xread?{query}")).await.refusal().0, 400, "{query:.60}");
    }
    let most = u64::MAX;
    get(&format!("/xread?count={most}")).await.ok();
    for generation in ["-1", "1e9", "18446744073709551616", &digits] {
        let request =
            evil.request(http::Method::GET, "/seq").header("spoke-generation", generation);
        assert_eq!(evil.call(request).await.refusal().0, 400, "{generation:.60}");
    }
}

#[tokio::test]
async fn auth_reads_no_more_than_a_client_name_and_a_secret() {
    let mut stand = Stand::start(Kind::Auth, &[("log.level", "info")]).await;
    let pid = stand.service.process().pid();
    let api: Api = stand.api();
    api.post_json("/login", &json!({ "client": "dev1", "secret": "s".repeat(32) })).await;
    let before = resident_kib(pid);
    for path in ["/login", "/register"] {
        for length in [GIBIBYTE_4.to_string(), "9000".to_owned()] {
            let head = request("POST", path, None, &[JSON, ("content-length", &length)]);
            let answer = connect_and_pour(&stand, &head, &[b' '; 1 << 20], 100).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
        }
        let head = request("POST", path, None, &[JSON, ("transfer-encoding", "chunked")]);
        let answer = connect_and_pour(
            &stand,
            &head,
            &[b"1000\r\n".to_vec(), vec![b' '; 4096], b"\r\n".to_vec()].concat(),
            10_000,
        )
        .await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
        for body in [
            format!("{}1{}", "[".repeat(4000), "]".repeat(4000)),
            r#"{"client":1e999}"#.to_owned(),
            "{".repeat(8000),
        ] {
            assert_eq!(api.post_body(path, "application/json", body).await.refusal().0, 400);
        }
    }
    let more = resident_kib(pid).saturating_sub(before);
    assert!(more < 16 * 1024, "{more} KiB more");
}
