//! Agents and hubs one minor version apart: one end is the current program, the other sends the bytes of
//! version 0.1, or bytes that a later version may send.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use spoke_protocol::{
    message::{Features, Frame, Goaway, Hello, Push, Welcome},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    cloud::{Cloud, IN, admit, out},
    device::{Device, OUT, STATE},
    entries::{Fields, fields},
    service::Kind,
    single_service::Stand,
    wait::{PATIENCE, eventually_is},
    websocket::{Heard, Socket, open},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

use crate::fleet::golden::{HELP, frames};

/// The frames of a session, by the names in the file.
type Script = BTreeMap<&'static str, Vec<u8>>;

/// How the HELLO or WELCOME of the other end is changed: not at all, or to a later version.
const AGES: [fn(&[u8]) -> Bytes; 2] = [Bytes::copy_from_slice, newer];

fn script() -> Script {
    frames(include_str!("../../../../shared/protocol/src/wire/golden/0.1/session.hex"))
}

/// The same HELLO or WELCOME of a later minor version: with unknown features and an additional field.
fn newer(greeting: &[u8]) -> Bytes {
    let features = Features(!Features::COMPRESSION.0);
    let (minor, version) = (1, "0.2.0".to_owned());
    let greeting = match decoded(greeting) {
        Frame::Hello(hello) => Frame::Hello(Box::new(Hello { minor, version, features, ..*hello })),
        Frame::Welcome(welcome) => {
            Frame::Welcome(Box::new(Welcome { minor, version, features, ..*welcome }))
        }
        other => panic!("neither HELLO nor WELCOME: {other:?}"),
    };
    let mut bytes = greeting.encode(Features(0)).to_vec();
    bytes[0] += 1;
    bytes.push(0xc0);
    bytes.into()
}

fn decoded(bytes: &[u8]) -> Frame {
    Frame::decode(Bytes::copy_from_slice(bytes), Features::COMPRESSION)
        .unwrap_or_else(|error| panic!("{error}: {HELP}"))
}

/// Asserts that HELLO or WELCOME equals that of 0.1, except for fields that change with each session or that
/// the hub may choose.
fn assert_same_greeting(golden: &[u8], heard: &[u8]) {
    let expected = match (decoded(golden), decoded(heard)) {
        (Frame::Hello(golden), Frame::Hello(heard)) => {
            let Hello { version, features, instance, .. } = *heard;
            Frame::Hello(Box::new(Hello { version, features, instance, ..*golden }))
        }
        (Frame::Welcome(golden), Frame::Welcome(heard)) => {
            let Welcome { version, generation, server_time_ms, partner, .. } = *heard;
            let Welcome { heartbeat_ms, granted, .. } = *heard;
            let fresh = Welcome { version, generation, server_time_ms, partner, ..*golden };
            Frame::Welcome(Box::new(Welcome { heartbeat_ms, granted, ..fresh }))
        }
        other => panic!("{other:?}: {HELP}"),
    };
    assert_same_frame(&expected.encode(Features(0)), heard);
}

fn assert_same_frame(golden: &[u8], heard: &[u8]) {
    // The key of a seal is new in each epoch of a stream.
    let sealed = |frame, seal| match frame {
        Frame::Push(push) => Frame::Push(Push { seal, ..push }),
        other => other,
    };
    let fresh = match decoded(heard) {
        Frame::Push(push) => push.seal,
        _ => None,
    };
    let golden = sealed(decoded(golden), fresh);
    assert_eq!(golden, decoded(heard), "{HELP}");
    assert_eq!(golden.encode(Features(0)), heard, "{HELP}");
}

/// An entry that is so repetitive that it would be compressed if both ends supported it.
fn entry(n: usize) -> Fields {
    let (n, payload) = (n.to_string(), "x".repeat(512));
    fields([("topic", "test"), ("n", &n), ("payload", &payload)])
}

async fn heard(socket: &mut Socket) -> Bytes {
    match socket.next().await {
        Heard::Bytes(bytes) => bytes,
        other => panic!("expected a frame, got {other:?}"),
    }
}

#[tokio::test]
async fn the_hub_answers_an_agent_of_0_1_and_a_later_one_as_the_hub_of_0_1_did() {
    for aged in AGES {
        let script = script();
        let mut stand = Stand::start(Kind::Hub, &[]).await;
        stand.redis.add_as(&out("dev1"), "1700000000005-0", &entry(3)).await;
        let token = admit(&stand.redis, "dev1").await;
        let mut socket = open(stand.service.address(), &token, SUBPROTOCOL).await;
        let say = |what: &str| Message::binary(script[what].clone());

        socket.send(Message::binary(aged(&script["agent hello"]))).await;
        assert_same_greeting(&script["hub welcome"], &heard(&mut socket).await);
        assert_same_frame(&script["hub push"], &heard(&mut socket).await);
        socket.send(say("agent push")).await;
        assert_same_frame(&script["hub ack"], &heard(&mut socket).await);
        socket.send(say("agent ack")).await;
        socket.send(say("agent ping")).await;
        assert_same_frame(&script["hub pong"], &heard(&mut socket).await);
        eventually_is("the hub to store the acknowledgement", true, async || {
            let client = stand.redis.hash("spoke-hub:client:dev1:h").await;
            client.get("out_acked").is_some_and(|acked| acked == "1700000000005-0")
        })
        .await;

        assert_eq!(stand.service.terminate().await.code(), Some(0));
        let goaway = heard(&mut socket).await;
        let Frame::Goaway(Goaway { wait_ms, .. }) = decoded(&goaway) else { panic!("{goaway:?}") };
        let Frame::Goaway(golden) = decoded(&script["hub goaway"]) else { panic!("{HELP}") };
        let golden = Frame::Goaway(Goaway { wait_ms, ..golden });
        assert_same_frame(&golden.encode(Features(0)), &goaway);
        let received = stand.redis.entries(IN).await;
        let words = received.iter().map(|entry| (entry.text("seq"), entry.text("n")));
        let expected = [("1700000000001-0", "1"), ("1700000000002-0", "2")];
        let expected = expected.map(|(seq, n)| (Some(seq.to_owned()), Some(n.to_owned())));
        assert_eq!(words.collect::<Vec<_>>(), expected);
    }
}

/// A fake hub that only sends the frames of the script.
struct Hub {
    listener: TcpListener,
}

impl Hub {
    async fn accept(&self) -> WebSocketStream<TcpStream> {
        let connection = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            accept_hdr_async(stream, choose).await.unwrap()
        };
        tokio::time::timeout(PATIENCE, connection).await.expect("the agent connects")
    }
}

#[expect(clippy::result_large_err, reason = "the library defines this type")]
fn choose(_: &Request, mut answer: Response) -> Result<Response, ErrorResponse> {
    let protocol = HeaderValue::from_static(SUBPROTOCOL);
    answer.headers_mut().insert("sec-websocket-protocol", protocol);
    Ok(answer)
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Bytes {
    let message = async {
        loop {
            if let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() {
                return bytes;
            }
        }
    };
    tokio::time::timeout(PATIENCE, message).await.expect("the agent sends a frame")
}

#[tokio::test]
async fn the_agent_answers_a_hub_of_0_1_and_a_later_one_as_the_agent_of_0_1_did() {
    for aged in AGES {
        let script = script();
        let hub = Hub { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() };
        let cloud = Cloud::start().await;
        cloud.hub_proxy.retarget(hub.listener.local_addr().unwrap());
        let mut device = Device::without_agent(&cloud, "dev1", &[("transport", "ws")]).await;
        for n in 1..=2 {
            device.redis.add_as(OUT, &format!("170000000000{n}-0"), &entry(n)).await;
        }
        device.start_agent();
        let say = |what: &str| Message::binary(script[what].clone());

        let mut socket = hub.accept().await;
        assert_same_greeting(&script["agent hello"], &next(&mut socket).await);
        socket.send(Message::binary(aged(&script["hub welcome"]))).await.unwrap();
        assert_same_frame(&script["agent push"], &next(&mut socket).await);
        socket.send(say("hub push")).await.unwrap();
        assert_same_frame(&script["agent ack"], &next(&mut socket).await);
        socket.send(say("hub ack")).await.unwrap();
        eventually_is("the agent to store the acknowledgement", true, async || {
            let state = device.redis.hash(STATE).await;
            state.get("out_acked").is_some_and(|acked| acked == "1700000000002-0")
        })
        .await;
        socket.send(say("hub goaway")).await.unwrap();
        socket.close(None).await.unwrap();

        let mut socket = hub.accept().await;
        let Frame::Hello(again) = decoded(&next(&mut socket).await) else { panic!("no HELLO") };
        assert_eq!(again.origin.acked.to_string(), "1700000000002-0");
        assert_eq!(again.cursor.seq.to_string(), "1700000000005-0");
        let received = device.carried().await;
        assert_eq!((received.len(), received[0].seq.as_str()), (1, "1700000000005-0"));
    }
}
