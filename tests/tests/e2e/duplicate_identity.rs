//! Two devices with one identity, as from a copied SD card, and which one counts as connected: guarantees.md
//! section 3, row 10.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod agents;
mod hubs;
mod presence;
mod sessions;

use http::Method;
use serde_json::{Value, json};
use spoke_protocol::{
    Entry, Epoch, InstanceId, Seq,
    message::{Frame, Goaway, Hello, Push},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    api::{Answer, Api},
    service::{Kind, Service},
    single_service::Stand,
    websocket::{Socket, hello, open, session},
};

const CLIENT: &str = "spoke-hub:client:dev1:h";
const BELL: &str = "spoke-hub:bell:dev1";
/// Instances of two devices, and of the first one after a restart.
const A: InstanceId = InstanceId(0xa);
const B: InstanceId = InstanceId(0xb);
const A_RESTARTED: InstanceId = InstanceId(0xaa);

async fn hub() -> Stand {
    Stand::start(Kind::Hub, &[]).await
}

async fn token(stand: &Stand) -> String {
    stand.client("dev1").await.token().unwrap().to_owned()
}

fn hello_of(instance: InstanceId) -> Hello {
    Hello { instance, ..hello() }
}

/// Opens a session over WebSocket, up to WELCOME.
async fn connect(hub: &Service, token: &str, instance: InstanceId) -> Socket {
    session(hub.address(), token, hello_of(instance)).await.0
}

/// Tries to open a session over WebSocket, and returns the GOAWAY that refuses it.
async fn refusal(hub: &Service, token: &str, instance: InstanceId) -> Goaway {
    let mut socket = open(hub.address(), token, SUBPROTOCOL).await;
    socket.send_frame(&Frame::Hello(Box::new(hello_of(instance)))).await;
    socket.goaway().await
}

/// Opens a session with `POST /session`.
async fn post_session(api: &Api, instance: InstanceId) -> Answer {
    let origin = json!({
        "epoch": 0, "start": "0-0", "first": "0-0", "last": "0-0", "added": 0, "acked": "0-0",
    });
    let cursor = json!({ "epoch": 0, "seq": "0-0" });
    let body =
        json!({ "version": "0-test", "origin": origin, "cursor": cursor, "instance": instance });
    api.post_json("/session", &body).await
}

async fn poll(api: &Api, generation: &Value, block_ms: u64) -> Answer {
    let request = api.request(Method::GET, &format!("/xread?blockMs={block_ms}"));
    api.call(request.header("spoke-generation", generation.to_string())).await
}

/// A PUSH of one entry that starts at the beginning.
fn first_entry() -> Frame {
    let seq = Seq::new(1, 0);
    let entries = vec![Entry { seq, fields: vec![("n".into(), "1".into())] }];
    Frame::Push(Push {
        epoch: Epoch(1),
        after: Seq::ZERO,
        through: seq,
        entries,
        ..Push::default()
    })
}

async fn assert_carries(socket: &mut Socket) {
    socket.send_frame(&first_entry()).await;
    assert_eq!(socket.ack().await.seq, Seq::new(1, 0), "the connected session still works");
}

async fn refused_sessions(stand: &Stand) -> Option<String> {
    stand.redis.hash(CLIENT).await.get("clones").cloned()
}

async fn is_connected(stand: &Stand) -> bool {
    let rows = stand.command(&["clients", "--json"]).await.done().json();
    rows[0]["connectedSince"].is_u64()
}

/// Starts another hub on the same Redis.
async fn another_hub(stand: &Stand) -> (tempfile::TempDir, Service) {
    let folder = tempfile::tempdir().unwrap();
    let hub = Service::start(Kind::Hub, &stand.redis.url(), &[], folder.path()).await;
    (folder, hub)
}
