//! The hub over WebSocket: contract section 6, both subprotocols.

mod access;
mod downstream;
mod fencing;
mod handshake;
mod json;
mod upstream;

use bytes::Bytes;
use spoke_protocol::{
    Entry, Epoch, Seq,
    message::{Frame, Push, Welcome},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    entries::{Fields, numbered},
    service::Kind,
    single_service::Stand,
    websocket::{Socket, hello, open, session},
};

const IN: &str = "spoke-hub:in:x";
const OUT: &str = "spoke-hub:out:dev1:x";
const CLIENT: &str = "spoke-hub:client:dev1:h";

async fn hub() -> Stand {
    Stand::start(Kind::Hub, &[]).await
}

async fn token(stand: &Stand, client: &str) -> String {
    stand.client(client).await.token().expect("the client has a token").to_owned()
}

/// Opens a session of a client with empty streams, up to WELCOME.
async fn connect(stand: &Stand, client: &str) -> (Socket, Welcome) {
    session(stand.service.address(), &token(stand, client).await, hello()).await
}

/// Opens a socket without sending HELLO.
async fn connect_without_hello(stand: &Stand, client: &str) -> Socket {
    open(stand.service.address(), &token(stand, client).await, SUBPROTOCOL).await
}

fn ms(ms: u64) -> Seq {
    Seq::new(ms, 0)
}

fn entry(seq: Seq, fields: &Fields) -> Entry {
    let bytes = |bytes: &Vec<u8>| Bytes::from(bytes.clone());
    Entry { seq, fields: fields.iter().map(|(name, value)| (bytes(name), bytes(value))).collect() }
}

/// Numbered entries `after+1 ..= through` in the first epoch.
fn push(after: u64, through: u64) -> Push {
    let entries = (after + 1..=through).map(|n| entry(ms(n), &numbered(n as usize))).collect();
    Push { epoch: Epoch(1), after: ms(after), through: ms(through), entries, ..Push::default() }
}

/// Client, seq and number of every entry that the hub holds.
async fn carried(stand: &Stand) -> Vec<(String, String, String)> {
    let text = |entry: &spoke_tests::entries::Stored, name| entry.text(name).unwrap_or_default();
    let entries = stand.redis.entries(IN).await;
    let words = |entry| (text(entry, "client"), text(entry, "seq"), text(entry, "n"));
    entries.iter().map(words).collect()
}

fn numbers(client: &str, all: std::ops::RangeInclusive<u64>) -> Vec<(String, String, String)> {
    all.map(|n| (client.to_owned(), format!("{n}-0"), n.to_string())).collect()
}

/// Returns the hub's next frame, which must be a PUSH.
async fn next_push(socket: &mut Socket) -> Push {
    match socket.frame().await {
        Frame::Push(push) => push,
        other => panic!("expected a PUSH, got {other:?}"),
    }
}
