//! The hub's memory for an idle client.

use spoke_tests::{
    process_usage::private_bytes,
    service::Kind,
    single_service::Stand,
    websocket::{Socket, hello, session},
};

/// Clients of which each is measured a part, after so many that the hub has what it needs but once.
const CLIENTS: usize = 400;
const WARM_UP: usize = 100;
/// Bytes of one client: 9 KB were measured, and 18 KB before the session's futures were small.
const BYTES_MAX: u64 = 12_000;

#[tokio::test]
async fn an_idle_client_takes_little_memory_of_the_hub() {
    let mut stand = Stand::start(Kind::Hub, &[("log.level", "info")]).await;
    let pid = stand.service.process().pid();
    let _first = connect(&stand, 0..WARM_UP).await;
    let before = private_bytes(pid);

    let _clients = connect(&stand, WARM_UP..WARM_UP + CLIENTS).await;

    let each = private_bytes(pid).saturating_sub(before) / CLIENTS as u64;
    assert!(each <= BYTES_MAX, "an idle client takes {each} bytes");
}

/// Opens the sessions one after the other, so that the memory of their handshakes is used again.
async fn connect(stand: &Stand, clients: std::ops::Range<usize>) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for n in clients {
        let client = stand.client(&format!("dev{n}")).await;
        let token = client.token().expect("the client has a token").to_owned();
        sockets.push(session(stand.service.address(), &token, hello()).await.0);
    }
    sockets
}
