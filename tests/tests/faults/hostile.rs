//! Hostile clients against the real hub and the real auth: row 14 of the table of faults. Whatever they
//! send, they get a clear answer, other clients do not notice, memory and log stay bounded, and
//! no client reads or writes another client's streams.

mod amplification;
mod flood;
mod identity;
mod injection;
mod lengths;
mod log;
mod logins;
mod memory;
mod numbers;
mod reserve;
mod slow;
mod stolen;
mod websocket;

use std::time::Duration;

use serde_json::json;
use spoke_protocol::wire::json::CursorBody;
use spoke_tests::{
    cloud::{admit, now_ms, one_time_code, provision},
    hostile::raw::{self, request, websocket_frame},
    load_probe::Recorder,
    service::Kind,
    single_service::Stand,
    websocket::{JSON_SUBPROTOCOL, open},
};
use tokio::net::TcpStream;

/// The secret of every client that registers here.
const SECRET: &str = "a-secret-of-32-bytes-as-devices-";
/// The pause between two requests of the good client.
const PAUSE: Duration = Duration::from_millis(5);

/// A hub with the log level of production.
async fn hub(settings: &[(&str, &str)]) -> Stand {
    let mut all = vec![("log.level", "info")];
    all.extend(settings);
    Stand::start(Kind::Hub, &all).await
}

/// Auth with the log level of production, and a good client's token; `SECRET` is its secret.
async fn auth(settings: &[(&str, &str)]) -> (Stand, String) {
    let mut all = vec![("log.level", "info")];
    all.extend(settings);
    let stand = Stand::start(Kind::Auth, &all).await;
    let token = register(&stand, "good").await;
    (stand, token)
}

/// Registers a client with `SECRET` and returns the token of its first session.
async fn register(stand: &Stand, client: &str) -> String {
    provision(&stand.redis, client, now_ms() + 3_600_000).await;
    let body = json!({ "client": client, "secret": SECRET, "otp": one_time_code(0) });
    stand.api().post_json("/register", &body).await.ok();
    let login = json!({ "client": client, "secret": SECRET });
    let session = stand.api().post_json("/login", &login).await.ok();
    session["sessionToken"].as_str().expect("a login gives a token").to_owned()
}

/// Runs a good client of a hub without end: it alternates an entry over its WebSocket and a request on a
/// new connection.
async fn good_client(stand: &Stand, recorder: Recorder) {
    let token = admit(&stand.redis, "good").await;
    let mut socket = open(stand.service.address(), &token, JSON_SUBPROTOCOL).await;
    let api = stand.api().with_token(&token);
    let cursor: CursorBody =
        serde_json::from_value(api.get("/seq").await.ok()).expect("the hub answers with a cursor");
    for n in cursor.seq.ms + 1.. {
        let entry = json!({ "seq": format!("{n}-0"), "fields": { "n": n.to_string() } });
        let added = recorder.time(socket.ask("xadd", n, entry)).await;
        assert!(added["error"].is_null(), "a good entry was refused: {added}");
        let cursor = recorder.time(api.get("/seq")).await.ok();
        assert_eq!(cursor["seq"], format!("{n}-0"));
        tokio::time::sleep(PAUSE).await;
    }
}

async fn connect(stand: &Stand) -> TcpStream {
    TcpStream::connect(stand.service.address()).await.expect("the service accepts connections")
}

/// An open WebSocket as a plain stream, to send bytes that no library would.
async fn raw_socket(stand: &Stand, token: &str, subprotocol: &str) -> TcpStream {
    raw::socket(stand.service.address(), token, subprotocol).await.expect("the hub accepts it")
}
