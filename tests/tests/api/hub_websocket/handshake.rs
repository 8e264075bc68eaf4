//! HELLO and WELCOME of `spoke.v1`, and violations of the protocol.

use std::time::{Duration, Instant};

use spoke_protocol::{
    Epoch,
    limits::BATCH_ENTRIES_GRANTED,
    message::{Ack, Features, Frame, GoawayReason, Hello, MAJOR, MINOR, ReceiveLimits},
};
use spoke_tests::{
    entries::numbered,
    websocket::{Heard, hello, session},
};
use tokio_tungstenite::tungstenite::Message;

use crate::hub_websocket::{
    IN, OUT, carried, connect, connect_without_hello, hub, ms, numbers, push,
};

#[tokio::test]
async fn a_welcome_reports_both_streams_positions_and_the_hubs_limits() {
    let stand = hub().await;
    let (mut first, first_welcome) = connect(&stand, "dev1").await;
    first.send_frame(&Frame::Push(push(0, 4))).await;
    first.ack().await;
    let last = stand.redis.add(OUT, &numbered(1)).await;

    let (_second, welcome) = connect(&stand, "dev1").await;

    assert_eq!((welcome.major, welcome.minor), (MAJOR, MINOR));
    assert!(!welcome.version.is_empty());
    assert!(welcome.generation > first_welcome.generation);
    assert_eq!((welcome.cursor.epoch, welcome.cursor.seq), (Epoch(1), ms(4)));
    assert!(welcome.cursor.digest.is_some(), "the cursor has the digest of its entry");
    assert_eq!((welcome.origin.last.to_string(), welcome.origin.added), (last, 1));
    let granted =
        ReceiveLimits { batch_entries: BATCH_ENTRIES_GRANTED, ..ReceiveLimits::default() };
    assert_eq!(welcome.granted, granted);
    assert_eq!(welcome.heartbeat_ms, 45_000);
    assert!(welcome.server_time_ms.abs_diff(spoke_tests::cloud::now_ms()) < 60_000);
}

#[tokio::test]
async fn features_are_those_that_both_sides_support() {
    let stand = hub().await;
    for (offered, common) in [
        (Features::default(), Features::default()),
        (Features::COMPRESSION, Features::COMPRESSION),
        (Features(u64::MAX), Features::COMPRESSION),
    ] {
        let token = crate::hub_websocket::token(&stand, "dev1").await;
        let hello = Hello { features: offered, ..hello() };
        let (_socket, welcome) = session(stand.service.address(), &token, hello).await;
        assert_eq!(welcome.features, common);
    }
}

#[tokio::test]
async fn an_agent_one_minor_version_newer_keeps_working() {
    let stand = hub().await;
    let token = crate::hub_websocket::token(&stand, "dev1").await;
    let hello = Hello { minor: MINOR + 1, ..hello() };
    let (mut socket, _) = session(stand.service.address(), &token, hello).await;
    socket.send_frame(&Frame::Push(push(0, 1))).await;
    assert_eq!(socket.ack().await.seq, ms(1));
}

#[tokio::test]
async fn another_major_version_is_refused_with_the_reason() {
    let stand = hub().await;
    let mut socket = connect_without_hello(&stand, "dev1").await;
    socket.send_frame(&Frame::Hello(Box::new(Hello { major: MAJOR + 1, ..hello() }))).await;
    let goaway = socket.goaway().await;
    assert_eq!(goaway.reason, GoawayReason::Version);
    assert!(!goaway.message.is_empty());
    socket.closed().await;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_with_hello_is_closed() {
    let stand = hub().await;
    let ack = Ack { epoch: Epoch(1), seq: ms(1), refused: vec![] };
    for frame in [Frame::Push(push(0, 1)), Frame::Ping, Frame::Ack(ack.clone()), Frame::Pong(ack)] {
        let mut socket = connect_without_hello(&stand, "dev1").await;
        socket.send_frame(&frame).await;
        assert_eq!(socket.goaway().await.reason, GoawayReason::Protocol, "{frame:?}");
        socket.closed().await;
    }
    assert_eq!(stand.redis.length(IN).await, 0);
    let generation = stand.redis.hash(crate::hub_websocket::CLIENT).await.remove("generation");
    assert_eq!(generation, None, "no session was opened, so none was fenced");
}

#[tokio::test]
async fn a_second_hello_and_other_unexpected_frames_are_protocol_errors() {
    let stand = hub().await;
    let (_, welcome) = connect(&stand, "dev1").await;
    let sent_nothing = Ack { epoch: Epoch(1), seq: ms(99), refused: vec![] };
    for frame in [
        Frame::Hello(Box::new(hello())),
        Frame::Welcome(Box::new(welcome)),
        Frame::Ack(sent_nothing),
    ] {
        let (mut socket, _) = connect(&stand, "dev1").await;
        socket.send_frame(&frame).await;
        assert_eq!(socket.goaway().await.reason, GoawayReason::Protocol, "{frame:?}");
        socket.closed().await;
    }
}

#[tokio::test]
async fn invalid_frames_end_the_connection_and_affect_no_other_client() {
    let stand = hub().await;
    let (mut other, _) = connect(&stand, "dev2").await;
    let hello_bytes = Frame::Hello(Box::new(hello())).encode(Features::default());
    let zip_bomb = [&b"\x93\x08\xce\xff\xff\xff\xff\xc4\x04"[..], b"bomb"].concat();
    let invalid: Vec<Vec<u8>> = vec![
        vec![],
        vec![0xc1],
        b"\x91\x63".to_vec(),
        b"\xdd\xff\xff\xff\xff".to_vec(),
        b"\x97\x03\x01\x00\x00\x01\x00\xdd\x7f\xff\xff\xff".to_vec(),
        zip_bomb,
        hello_bytes[..hello_bytes.len() - 1].to_vec(),
        vec![0x91; 100_000],
    ];
    for bytes in invalid {
        for is_welcomed in [false, true] {
            let mut socket = match is_welcomed {
                true => connect(&stand, "dev1").await.0,
                false => connect_without_hello(&stand, "dev1").await,
            };
            socket.send(Message::binary(bytes.clone())).await;
            let goaway = socket.goaway().await;
            assert_eq!(
                goaway.reason,
                GoawayReason::Protocol,
                "{:.20}",
                bytes.escape_ascii().to_string()
            );
            socket.closed().await;
        }
    }
    other.send_frame(&Frame::Push(push(0, 1))).await;
    assert_eq!(other.ack().await.seq, ms(1));
    assert_eq!(carried(&stand).await, numbers("dev2", 1..=1));
}

#[tokio::test]
async fn a_text_message_is_a_protocol_error() {
    let stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    socket.send(Message::text(r#"{"type":"echo"}"#)).await;
    assert_eq!(socket.goaway().await.reason, GoawayReason::Protocol);
    socket.closed().await;
}

#[tokio::test]
async fn a_message_over_four_mebibytes_ends_the_connection() {
    let stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    socket.send(Message::binary(vec![0x91; 4 * 1024 * 1024 + 1])).await;
    socket.closed().await;
    let (mut again, _) = connect(&stand, "dev1").await;
    again.send_frame(&Frame::Push(push(0, 1))).await;
    assert_eq!(again.ack().await.seq, ms(1));
}

#[tokio::test]
async fn a_connection_without_a_hello_is_closed_after_ten_seconds() {
    let stand = hub().await;
    let begun = Instant::now();
    let mut socket = connect_without_hello(&stand, "dev1").await;
    loop {
        match socket.next().await {
            Heard::Closed(_) => break,
            Heard::Bytes(bytes) => {
                let frame = Frame::decode(bytes, Features::COMPRESSION).unwrap();
                assert!(matches!(frame, Frame::Goaway(_)), "{frame:?}");
            }
            Heard::Text(text) => panic!("{text}"),
        }
    }
    let took = begun.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(14)).contains(&took), "{took:?}");
}
