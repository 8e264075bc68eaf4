//! Connection limits: of all clients, and of one.

use spoke_protocol::wire::frame::SUBPROTOCOL;
use spoke_tests::{
    service::Kind,
    single_service::Stand,
    wait::{PATIENCE, eventually, eventually_is},
    websocket::{JSON_SUBPROTOCOL, Offer, Socket},
};
use tokio::{io::AsyncReadExt, net::TcpStream};

#[tokio::test]
async fn a_client_cannot_exceed_its_connection_limit_and_others_are_served() {
    let stand = Stand::start(Kind::Hub, &[("connections_per_client", "3")]).await;
    let address = stand.service.address();
    let dev1 = stand.client("dev1").await;
    let offer = Offer::of(dev1.token().unwrap(), SUBPROTOCOL);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(Socket::connect(address, &offer).await.expect("three connections are allowed"));
    }

    let refused = Socket::connect(address, &offer).await.expect_err("a fourth is too many");

    assert_eq!(refused.refusal().0, 429, "{refused:?}");
    assert_eq!(
        dev1.get("/xread?blockMs=10").await.refusal().0,
        429,
        "a waiting read counts as a connection"
    );
    dev1.get("/seq").await.ok();
    let dev2 = stand.client("dev2").await;
    let offer2 = Offer::of(dev2.token().unwrap(), JSON_SUBPROTOCOL);
    assert!(Socket::connect(address, &offer2).await.is_ok(), "another client is served");
    open.pop();
    eventually("a connection to be accepted again", PATIENCE, async || {
        Socket::connect(address, &offer).await.map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn a_hub_at_its_connection_limit_closes_the_next_one_at_once_and_recovers() {
    let stand = Stand::start(Kind::Hub, &[("connections", "5")]).await;
    let address = stand.service.address();
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(TcpStream::connect(address).await.unwrap());
    }
    let mut sixth = TcpStream::connect(address).await.unwrap();
    let read = tokio::time::timeout(PATIENCE, sixth.read(&mut [0]))
        .await
        .expect("the connection is closed");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(
        stand.service.admin().get("/healthz").await.status,
        200,
        "the admin listener has its own limit"
    );
    drop(open);
    let dev1 = stand.client("dev1").await;
    eventually_is("the hub to accept connections again", Some(200), async || {
        let answer = dev1.try_call(dev1.request(http::Method::GET, "/seq")).await;
        answer.ok().map(|answer| answer.status)
    })
    .await;
}
