//! Empty WebSocket frames: the library limits bytes only, and these have none.

use std::time::Duration;

use spoke_protocol::{
    limits::{CONTROL_FRAME_INTERVAL, CONTROL_FRAMES_BURST, FRAGMENT_BYTES, FRAGMENTS_MAX},
    message::{Features, Frame, GoawayReason},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    cloud::admit,
    hostile::{
        frames::greeting,
        raw::{binary, read_message, socket, text, websocket_frame},
    },
    single_service::Stand,
    websocket::JSON_SUBPROTOCOL,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::hostile::hub;

const BEGIN_BINARY: u8 = 0x02;
const BEGIN_TEXT: u8 = 0x01;
const CONTINUE: u8 = 0x00;
const END: u8 = 0x80;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// A close frame's first byte.
const CLOSE: u8 = 0x88;

/// Opens a session and returns its plain stream.
async fn session(stand: &Stand, client: &str, subprotocol: &str) -> TcpStream {
    let token = admit(&stand.redis, client).await;
    let mut stream =
        socket(stand.service.address(), &token, subprotocol).await.expect("the hub upgrades");
    if subprotocol == SUBPROTOCOL {
        stream.write_all(&binary(&greeting(Features::default()))).await.expect("the hub reads");
        let welcome = Frame::decode(
            read_message(&mut stream).await.expect("the hub answers").into(),
            Features(0),
        );
        assert!(matches!(welcome, Ok(Frame::Welcome(_))), "{welcome:?}");
    }
    stream
}

/// Reads until the hub closes the connection, which it must do within five seconds.
async fn read_to_close(stream: TcpStream) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let mut stream = stream;
    let mut received = Vec::new();
    let reading = stream.read_to_end(&mut received);
    let read = tokio::time::timeout(Duration::from_secs(5), reading).await;
    let _ = read.expect("the hub closes it");
    received
}

/// Sends `most` frames, `each` per write, or until the hub closes the connection.
async fn pour(stream: &mut TcpStream, frames: &[u8], each: usize, most: usize) {
    for _ in 0..most.div_ceil(each) {
        if stream.write_all(frames).await.is_err() {
            return;
        }
    }
}

fn contains(received: &[u8], reason: &str) -> bool {
    received.windows(reason.len()).any(|window| window == reason.as_bytes())
}

#[tokio::test]
async fn an_endless_message_of_empty_frames_is_closed_with_a_reason() {
    let stand = hub(&[]).await;
    for (n, (subprotocol, begin, with, length)) in [
        (SUBPROTOCOL, BEGIN_BINARY, CONTINUE, 0),
        (SUBPROTOCOL, BEGIN_BINARY, CONTINUE, 1),
        (JSON_SUBPROTOCOL, BEGIN_TEXT, CONTINUE, 0),
        (JSON_SUBPROTOCOL, BEGIN_TEXT, CONTINUE, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = session(&stand, &format!("evil-{n}"), subprotocol).await;
        stream.write_all(&websocket_frame(begin, 0, b"")).await.unwrap();
        let empty = websocket_frame(with, length, &vec![b' '; length as usize]).repeat(500);
        pour(&mut stream, &empty, 500, 10_000).await;
        let received = read_to_close(stream).await;
        assert!(contains(&received, "too many frames"), "{subprotocol} {length}: {received:?}");
        assert!(received.contains(&CLOSE), "{subprotocol} {length}: {received:?}");
    }
}

#[tokio::test]
async fn endless_pings_and_pongs_are_closed_with_a_reason_even_between_other_frames() {
    let stand = hub(&[]).await;
    let ping = websocket_frame(PING, 4, b"ping");
    let pong = websocket_frame(PONG, 0, b"");
    let echo = text(r#"{"type":"echo","payload":1}"#);
    let agents = binary(&Frame::Ping.encode(Features(0)));
    for (n, (subprotocol, frames)) in [
        (SUBPROTOCOL, ping.clone()),
        (SUBPROTOCOL, pong.clone()),
        (JSON_SUBPROTOCOL, ping.clone()),
        (JSON_SUBPROTOCOL, pong.clone()),
        (JSON_SUBPROTOCOL, [echo, ping.clone()].concat()),
        (SUBPROTOCOL, [agents, ping].concat()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = session(&stand, &format!("evil-{n}"), subprotocol).await;
        let some = CONTROL_FRAMES_BURST as usize;
        pour(&mut stream, &frames.repeat(some), some, 4 * some).await;
        let received = read_to_close(stream).await;
        assert!(contains(&received, "too many WebSocket control frames"), "{n}: {received:?}");
    }
}

#[tokio::test]
async fn a_client_that_fragments_messages_and_pings_occasionally_is_served() {
    let stand = hub(&[]).await;
    let mut stream = session(&stand, "good", JSON_SUBPROTOCOL).await;
    let long = format!(r#"{{"type":"echo","id":7,"payload":"{}"}}"#, "x".repeat(200_000));
    let mut parts = long.as_bytes().chunks(FRAGMENT_BYTES as usize).peekable();
    let mut frames = Vec::new();
    let mut first = BEGIN_TEXT;
    while let Some(part) = parts.next() {
        let end = if parts.peek().is_none() { END } else { 0 };
        frames.extend(websocket_frame(first | end, part.len() as u64, part));
        first = CONTINUE;
    }
    // As many small fragments as a message may have, with pings in between.
    let word = br#"{"type":"echo","id":8,"payload":"x"}"#;
    frames.extend(websocket_frame(BEGIN_TEXT, word.len() as u64, word));
    for n in 2..FRAGMENTS_MAX {
        if n % 16 == 0 {
            frames.extend(websocket_frame(PING, 0, b""));
        }
        frames.extend(websocket_frame(CONTINUE, 0, b""));
    }
    frames.extend(websocket_frame(CONTINUE | END, 0, b""));
    stream.write_all(&frames).await.unwrap();
    let mut answers = 0;
    while answers < 2 {
        let message = read_message(&mut stream).await.unwrap();
        answers += usize::from(contains(&message, "payload"));
    }
    // More pings than the burst allows, at a rate that is allowed.
    for _ in 0..20 {
        stream.write_all(&websocket_frame(PING, 0, b"")).await.unwrap();
        tokio::time::sleep(CONTROL_FRAME_INTERVAL / 4).await;
    }
    stream.write_all(&text(r#"{"type":"echo","id":9,"payload":"still here"}"#)).await.unwrap();
    while !contains(&read_message(&mut stream).await.unwrap(), "still here") {}
}

#[tokio::test]
async fn a_session_that_floods_is_closed_with_a_protocol_goaway() {
    let stand = hub(&[]).await;
    let mut stream = session(&stand, "evil", SUBPROTOCOL).await;
    stream.write_all(&websocket_frame(BEGIN_BINARY, 0, b"")).await.unwrap();
    pour(&mut stream, &websocket_frame(CONTINUE, 0, b"").repeat(200), 200, 200).await;
    let last = read_message(&mut stream).await.unwrap();
    match Frame::decode(last.into(), Features(0)) {
        Ok(Frame::Goaway(goaway)) => assert_eq!(goaway.reason, GoawayReason::Protocol),
        other => panic!("a GOAWAY was expected: {other:?}"),
    }
}
