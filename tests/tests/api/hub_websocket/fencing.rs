//! Two sessions of one client: the newest wins, and the older one can no longer write.

use spoke_protocol::{
    limits::WINDOW_BATCHES,
    message::{Features, Frame, GoawayReason},
};
use spoke_tests::{
    service::{Kind, Service},
    websocket::{JSON_SUBPROTOCOL, hello, open, session},
};

use crate::hub_websocket::{carried, connect, hub, ms, numbers, push, token};

const WINDOW: u64 = WINDOW_BATCHES as u64;

#[tokio::test]
async fn a_newer_session_ends_the_older_one_and_says_why() {
    let stand = hub().await;
    let token = token(&stand, "dev1").await;
    let (mut older, first) = session(stand.service.address(), &token, hello()).await;
    let (mut newer, second) = session(stand.service.address(), &token, hello()).await;
    assert!(second.generation > first.generation);
    older.send_frame(&Frame::Push(push(0, 1))).await;

    assert_eq!(older.goaway().await.reason, GoawayReason::Superseded);
    older.closed().await;

    newer.send_frame(&Frame::Push(push(0, 2))).await;
    assert_eq!(newer.ack().await.seq, ms(2));
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=2));
}

#[tokio::test]
async fn with_two_hubs_the_append_script_fences_the_older_session() {
    let stand = hub().await;
    let folder = tempfile::tempdir().unwrap();
    let other = Service::start(Kind::Hub, &stand.redis.url(), &[], folder.path()).await;
    let token = token(&stand, "dev1").await;
    let (mut older, _) = session(stand.service.address(), &token, hello()).await;
    let (mut newer, _) = session(other.address(), &token, hello()).await;
    newer.send_frame(&Frame::Push(push(0, 1))).await;
    newer.ack().await;

    older.send_frame(&Frame::Push(push(1, 5))).await;

    assert_eq!(older.goaway().await.reason, GoawayReason::Superseded);
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=1));
    newer.send_frame(&Frame::Push(push(1, 2))).await;
    assert_eq!(newer.ack().await.seq, ms(2));
}

#[tokio::test]
async fn one_of_twenty_concurrent_sessions_stays_and_nothing_is_interleaved() {
    let stand = hub().await;
    let token = token(&stand, "dev1").await;
    let address = stand.service.address();
    let sessions = (0..20).map(|_| {
        let token = token.clone();
        tokio::spawn(async move {
            // Some are superseded before WELCOME, or refused as too many connections.
            let offer = spoke_tests::websocket::Offer::of(&token, "spoke.v1");
            let Ok(mut socket) = spoke_tests::websocket::Socket::connect(address, &offer).await
            else {
                return 0;
            };
            socket.send_frame(&Frame::Hello(Box::new(hello()))).await;
            let mut acked = 0;
            for n in 0..WINDOW {
                socket.send_frame(&Frame::Push(push(n, n + 1))).await;
            }
            while let spoke_tests::websocket::Heard::Bytes(bytes) = socket.next().await {
                match Frame::decode(bytes, Features::COMPRESSION).unwrap() {
                    Frame::Ack(ack) if ack.seq == ms(WINDOW) => return WINDOW,
                    Frame::Ack(ack) => acked = ack.seq.ms,
                    _ => {}
                }
            }
            acked
        })
    });
    let sessions: Vec<_> = sessions.collect();
    let mut most = 0;
    for session in sessions {
        most = most.max(session.await.unwrap());
    }
    let state = stand.redis.hash(crate::hub_websocket::CLIENT).await;
    assert_eq!(
        most, WINDOW,
        "the newest session carries all its entries; the hub's state: {state:?}"
    );
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=WINDOW));
}

#[tokio::test]
async fn a_json_session_supersedes_an_agents_session() {
    let stand = hub().await;
    let (mut older, _) = connect(&stand, "dev1").await;
    let token = token(&stand, "dev1").await;
    let mut newer = open(stand.service.address(), &token, JSON_SUBPROTOCOL).await;
    newer.ask("echo", 1, "here".into()).await;
    assert_eq!(older.goaway().await.reason, GoawayReason::Superseded);
}

#[tokio::test]
async fn sessions_of_different_clients_do_not_fence_each_other() {
    let stand = hub().await;
    let (mut dev1, _) = connect(&stand, "dev1").await;
    let (mut dev2, _) = connect(&stand, "dev2").await;
    for n in 0..5 {
        for socket in [&mut dev1, &mut dev2] {
            socket.send_frame(&Frame::Push(push(n, n + 1))).await;
            assert_eq!(socket.ack().await.seq, ms(n + 1));
        }
    }
}
