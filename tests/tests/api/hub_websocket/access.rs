//! Authentication of WebSocket connections.

use std::time::{Duration, Instant};

use spoke_protocol::{
    message::{Frame, GoawayReason},
    wire::frame::SUBPROTOCOL,
};
use spoke_store::session_tokens::{digest, session_key};
use spoke_tests::websocket::{JSON_SUBPROTOCOL, Offer, Socket, hello, open, session};

use crate::hub_websocket::{carried, connect, hub, push, token};

#[tokio::test]
async fn an_invalid_token_gets_401_instead_of_an_upgrade() {
    let stand = hub().await;
    let live = token(&stand, "dev1").await;
    for subprotocol in [SUBPROTOCOL, JSON_SUBPROTOCOL] {
        for bad in [None, Some(""), Some("x"), Some(&*"A".repeat(43)), Some(&*digest(&live))] {
            let offer = Offer {
                token: bad.map(str::to_owned),
                subprotocols: vec![subprotocol.to_owned()],
                ..Offer::default()
            };
            let answer = Socket::connect(stand.service.address(), &offer).await;
            let answer = answer.expect_err("the token must be refused");
            assert_eq!(answer.refusal().0, 401, "{bad:?}: {answer:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_token_in_the_url_is_refused() {
    let stand = hub().await;
    let live = token(&stand, "dev1").await;
    for token in [None, Some(live.clone())] {
        let offer = Offer {
            token,
            subprotocols: vec![SUBPROTOCOL.to_owned()],
            query: format!("?token={live}"),
        };
        let answer = Socket::connect(stand.service.address(), &offer).await;
        let answer = answer.expect_err("the token must be refused");
        assert_eq!(answer.refusal(), (400, "token-in-url".to_owned()));
    }
}

#[tokio::test]
async fn a_browser_may_offer_its_token_as_the_second_subprotocol_of_json_only() {
    let stand = hub().await;
    let live = token(&stand, "dev1").await;
    let offer = |subprotocol: &str, token: &str| Offer {
        subprotocols: vec![subprotocol.to_owned(), token.to_owned()],
        ..Offer::default()
    };
    let address = stand.service.address();

    let json = Socket::connect(address, &offer(JSON_SUBPROTOCOL, &live)).await;
    let frames = Socket::connect(address, &offer(SUBPROTOCOL, &live)).await;
    let unknown = Socket::connect(address, &offer(JSON_SUBPROTOCOL, &"A".repeat(43))).await;

    let chosen = json.expect("the token is accepted").subprotocol;
    assert_eq!(chosen.as_deref(), Some(JSON_SUBPROTOCOL), "the token is not returned");
    assert_eq!(frames.expect_err("an agent can set a header").status, 401);
    assert_eq!(unknown.expect_err("the token must be refused").status, 401);
}

#[tokio::test]
async fn the_hub_selects_a_subprotocol_that_was_offered() {
    let stand = hub().await;
    let live = token(&stand, "dev1").await;
    let address = stand.service.address();
    for (offered, chosen) in [
        (vec![SUBPROTOCOL], SUBPROTOCOL),
        (vec![JSON_SUBPROTOCOL], JSON_SUBPROTOCOL),
        (vec!["spoke.v9", SUBPROTOCOL], SUBPROTOCOL),
    ] {
        let offered = offered.iter().map(ToString::to_string).collect();
        let offer = Offer { token: Some(live.clone()), subprotocols: offered, ..Offer::default() };
        let socket = Socket::connect(address, &offer).await.expect("the token is accepted");
        assert_eq!(socket.subprotocol.as_deref(), Some(chosen));
    }
    for offered in [vec![], vec!["spoke.v9".to_owned()], vec!["mqtt".to_owned()]] {
        let offer = Offer { token: Some(live.clone()), subprotocols: offered, ..Offer::default() };
        let answer = Socket::connect(address, &offer).await;
        let answer = answer.expect_err("no subprotocol is known");
        assert_eq!(answer.refusal().0, 400, "{answer:?}");
    }
}

#[tokio::test]
async fn a_plain_request_to_sync_is_told_to_upgrade() {
    let stand = hub().await;
    let answer = stand.client("dev1").await.get("/sync").await;
    let (status, _) = answer.refusal();
    assert!(matches!(status, 400 | 426), "{answer:?}");
}

#[tokio::test]
async fn a_revoked_session_is_closed_within_a_second() {
    let stand = hub().await;
    let (revoked, staying) = (token(&stand, "dev1").await, token(&stand, "dev2").await);
    let address = stand.service.address();
    let (mut frames, _) = session(address, &revoked, hello()).await;
    let (mut other, _) = session(address, &staying, hello()).await;

    let key = session_key("spoke-auth", &digest(&revoked));
    stand.redis.command::<()>(&["DEL", &key]).await;
    let begun = Instant::now();

    assert_eq!(frames.goaway().await.reason, GoawayReason::Unauthorized);
    let closed = frames.closed().await;
    // One second, and another for a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    assert_eq!(closed.map(|(code, _)| code), Some(4401));
    other.send_frame(&Frame::Push(push(0, 1))).await;
    assert_eq!(
        other.ack().await.seq,
        crate::hub_websocket::ms(1),
        "another client is not affected"
    );
}

#[tokio::test]
async fn a_revoked_json_session_is_closed_within_a_second() {
    let stand = hub().await;
    let revoked = token(&stand, "dev1").await;
    let mut socket = open(stand.service.address(), &revoked, JSON_SUBPROTOCOL).await;
    socket.ask("echo", 1, "here".into()).await;
    let key = session_key("spoke-auth", &digest(&revoked));
    stand.redis.command::<()>(&["DEL", &key]).await;
    let begun = Instant::now();
    assert_eq!(socket.closed().await.map(|(code, _)| code), Some(4401));
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_blocked_by_hand_is_disconnected_within_a_second() {
    let key = "spoke-auth:client:dev1:h";
    for by_hand in [
        &["HSET", key, "disabled", "1"][..],
        &["DEL", key],
        &["UNLINK", key],
        &["HDEL", key, "secret"],
    ] {
        let stand = hub().await;
        let (blocked, staying) = (token(&stand, "dev1").await, token(&stand, "dev2").await);
        let address = stand.service.address();
        let (mut frames, _) = session(address, &blocked, hello()).await;
        let mut json = open(address, &blocked, JSON_SUBPROTOCOL).await;
        json.ask("echo", 1, "here".into()).await;
        let (mut other, _) = session(address, &staying, hello()).await;

        stand.redis.command::<()>(by_hand).await;
        let begun = Instant::now();

        assert_eq!(json.closed().await.map(|(code, _)| code), Some(4401), "{by_hand:?}");
        // The later session may have superseded this one; it is closed in either case.
        frames.closed().await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{by_hand:?}: {:?}", begun.elapsed());
        other.send_frame(&Frame::Push(push(0, 1))).await;
        assert_eq!(
            other.ack().await.seq,
            crate::hub_websocket::ms(1),
            "{by_hand:?}: another client is affected"
        );
    }
}

#[tokio::test]
async fn an_agents_session_is_closed_when_its_client_is_disabled_by_hand() {
    let stand = hub().await;
    let token = token(&stand, "dev1").await;
    let (mut frames, _) = session(stand.service.address(), &token, hello()).await;
    let by_hand = ["HSET", "spoke-auth:client:dev1:h", "disabled", "1"];
    stand.redis.command::<()>(&by_hand).await;
    assert_eq!(frames.goaway().await.reason, GoawayReason::Unauthorized);
    assert_eq!(frames.closed().await.map(|(code, _)| code), Some(4401));
}

#[tokio::test]
async fn an_expired_session_closes_its_connection() {
    let stand = hub().await;
    let live = token(&stand, "dev1").await;
    let (mut socket, _) = session(stand.service.address(), &live, hello()).await;
    let key = session_key("spoke-auth", &digest(&live));
    stand.redis.command::<()>(&["PEXPIRE", &key, "300"]).await;
    assert_eq!(socket.goaway().await.reason, GoawayReason::Unauthorized);
}

#[tokio::test]
async fn two_clients_never_see_each_others_streams() {
    let stand = hub().await;
    let (mut dev1, _) = connect(&stand, "dev1").await;
    let (mut dev2, _) = connect(&stand, "dev2").await;
    stand.redis.add("spoke-hub:out:dev2:x", &spoke_tests::entries::numbered(22)).await;
    dev1.send_frame(&Frame::Push(push(0, 3))).await;
    assert_eq!(dev1.ack().await.seq, crate::hub_websocket::ms(3));

    let received = crate::hub_websocket::next_push(&mut dev2).await;

    assert_eq!(received.entries[0].fields[1].1, "22");
    dev2.send_frame(&Frame::Push(push(0, 2))).await;
    assert_eq!(dev2.ack().await.seq, crate::hub_websocket::ms(2), "each client has its own cursor");
    let mut expected = crate::hub_websocket::numbers("dev1", 1..=3);
    expected.extend(crate::hub_websocket::numbers("dev2", 1..=2));
    assert_eq!(carried(&stand).await, expected);
    // An entry sent to dev1 would arrive before this answer.
    dev1.send_frame(&Frame::Ping).await;
    assert!(matches!(dev1.frame().await, Frame::Pong(_)));
}
