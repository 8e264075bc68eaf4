//! The answers of hub and auth while their Redis fails, for each fault.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use spoke_protocol::{
    Entry, Epoch, Seq,
    limits::{RECONNECT_SPREAD, RECONNECT_WAIT_MIN},
    message::{Frame, Goaway, GoawayReason, Push},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    api::{Answer, Api},
    cloud::{now_ms, one_time_code, provision},
    redis_fault::Fault,
    service::Kind,
    single_service::Stand,
    wait::eventually_is,
    websocket::{Heard, Offer, Socket, hello, session},
};

const SECRET: &str = "a-secret-of-more-than-24-bytes";

fn one(seq: u64) -> Value {
    json!({ "seq": format!("{seq}-0"), "fields": [["n", seq.to_string()]] })
}

fn batch(seq: u64) -> Frame {
    let (after, through) = (Seq::new(seq - 1, 0), Seq::new(seq, 0));
    let fields = vec![(Bytes::from("n"), Bytes::from(seq.to_string()))];
    let entries = vec![Entry { seq: through, fields }];
    Frame::Push(Push { epoch: Epoch(1), after, through, entries, ..Push::default() })
}

fn new_session() -> Value {
    let origin = json!({ "epoch": 0, "start": "0-0", "first": "0-0", "last": "0-0", "added": 0,
        "acked": "0-0" });
    json!({ "version": "test", "origin": origin, "cursor": { "epoch": 0, "seq": "0-0" } })
}

/// Asserts 503 with a valid `Retry-After`.
fn assert_unavailable(what: &str, fault: Fault, answer: &Answer) {
    assert_eq!(answer.status, 503, "{what} while its redis is {fault:?}: {answer:?}");
    assert_eq!(answer.refusal().1, "unavailable", "{what} while its redis is {fault:?}");
    let longest = (RECONNECT_WAIT_MIN + RECONNECT_SPREAD).as_secs();
    assert!(answer.retry_after() <= Some(longest), "{what}, {fault:?}: {answer:?}");
}

/// Asserts the answer to a read: 200 if the fault allows reads, otherwise 503.
fn assert_read(what: &str, fault: Fault, answer: &Answer) {
    match fault.allows_reads() {
        true => assert_eq!(answer.status, 200, "{what} while its redis is {fault:?}: {answer:?}"),
        false => assert_unavailable(what, fault, answer),
    }
}

#[tokio::test]
async fn a_hub_whose_redis_fails_answers_503_with_retry_after_and_then_continues() {
    for fault in Fault::ALL {
        let mut stand = Stand::start(Kind::Hub, &[]).await;
        let dev1 = stand.client("dev1").await;
        dev1.post_json("/xadd", &one(1)).await.ok();
        fault.begin(&mut stand.redis).await;

        let (entry, hello) = (one(2), new_session());
        let (added, begun, cursor, read) = tokio::join!(
            dev1.post_json("/xadd", &entry),
            dev1.post_json("/session", &hello),
            dev1.get("/seq"),
            dev1.get("/xread?seq=0-0"),
        );

        assert_unavailable("POST /xadd", fault, &added);
        assert_unavailable("POST /session", fault, &begun);
        assert_read("GET /seq", fault, &cursor);
        // A read records what it sends, which is a write; a full Redis still accepts that one.
        match fault {
            Fault::Full => assert_read("GET /xread", fault, &read),
            _ => assert_unavailable("GET /xread", fault, &read),
        }
        assert_eq!(
            stand.service.admin().get("/healthz").await.status,
            200,
            "it is alive: {fault:?}"
        );

        fault.end(&mut stand.redis).await;
        let awaited = format!("the entry to be taken after {fault:?}");
        // 409, since the entry may have been taken although its answer was lost with the connection.
        eventually_is(&awaited, 409, async || dev1.post_json("/xadd", &one(2)).await.status).await;
        dev1.post_json("/session", &new_session()).await.ok();
        assert_eq!(stand.redis.length("spoke-hub:in:x").await, 2, "{fault:?}");
    }
}

#[tokio::test]
async fn after_an_outage_of_its_redis_the_first_request_is_served() {
    let mut stand = Stand::start(Kind::Hub, &[]).await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &one(1)).await.ok();
    stand.redis.kill9();
    stand.redis.restart().await;
    dev1.post_json("/xadd", &one(2)).await.ok();
}

#[tokio::test]
async fn auth_whose_redis_fails_answers_503_with_retry_after_and_accepts_the_code_later() {
    for fault in Fault::ALL {
        let mut stand = Stand::start(Kind::Auth, &[]).await;
        for client in ["dev1", "dev2"] {
            provision(&stand.redis, client, now_ms() + 3_600_000).await;
        }
        let api = stand.api();
        register(&api, "dev1").await.ok();
        let token = log_in(&api).await.ok()["sessionToken"].as_str().unwrap().to_owned();
        fault.begin(&mut stand.redis).await;

        let with_token = api.with_token(&token);
        let (registered, logged_in, refreshed) =
            tokio::join!(register(&api, "dev2"), log_in(&api), with_token.post("/refresh"));

        assert_unavailable("POST /register", fault, &registered);
        fault.end(&mut stand.redis).await;
        for (what, answer) in [("POST /login", logged_in), ("POST /refresh", refreshed)] {
            // Auth deletes an old session first, so a full Redis accepts the new one.
            match (fault, answer.status) {
                (Fault::Full, 200) => {
                    let token = answer.json()["sessionToken"].as_str().unwrap().to_owned();
                    api.with_token(&token).post("/refresh").await.ok();
                }
                _ => assert_unavailable(what, fault, &answer),
            }
        }
        let awaited = format!("dev2 to be registered after {fault:?}");
        eventually_is(&awaited, 200, async || register(&api, "dev2").await.status).await;
        log_in(&api).await.ok();
        api.with_token(&token).post("/refresh").await.ok();
    }
}

async fn register(api: &Api, client: &str) -> Answer {
    let body = json!({ "client": client, "secret": SECRET, "otp": one_time_code(0) });
    api.post_json("/register", &body).await
}

async fn log_in(api: &Api) -> Answer {
    api.post_json("/login", &json!({ "client": "dev1", "secret": SECRET })).await
}

#[tokio::test]
async fn a_session_whose_batch_fails_gets_goaway_unavailable_with_a_wait() {
    for fault in Fault::ALL {
        let mut stand = Stand::start(Kind::Hub, &[]).await;
        let token = stand.client("dev1").await.token().unwrap().to_owned();
        let (mut socket, _) = session(stand.service.address(), &token, hello()).await;
        fault.begin(&mut stand.redis).await;

        socket.send_frame(&batch(1)).await;
        assert_goaway(&format!("{fault:?}"), socket.frame().await);
        // A reconnect is refused too during the fault.
        match Socket::connect(stand.service.address(), &Offer::of(&token, SUBPROTOCOL)).await {
            Ok(mut socket) => {
                socket.send_frame(&Frame::Hello(Box::new(hello()))).await;
                assert_goaway(&format!("HELLO, {fault:?}"), socket.frame().await);
            }
            Err(answer) => assert_unavailable("GET /sync", fault, &answer),
        }

        fault.end(&mut stand.redis).await;
        let (mut socket, welcome) = session(stand.service.address(), &token, hello()).await;
        // The batch that was not acknowledged may have been on its way, and is in the copy then.
        if welcome.cursor.seq.is_zero() {
            socket.send_frame(&batch(1)).await;
            assert!(matches!(socket.frame().await, Frame::Ack(_)), "{fault:?}");
        }
        assert_eq!(stand.redis.length("spoke-hub:in:x").await, 1, "{fault:?}");
    }
}

/// Asserts GOAWAY `unavailable`; returns its wait.
fn assert_goaway(what: &str, frame: Frame) -> Duration {
    let Frame::Goaway(Goaway { reason: GoawayReason::Unavailable, wait_ms, .. }) = frame else {
        panic!("{what}: expected GOAWAY unavailable, got {frame:?}");
    };
    let wait = Duration::from_millis(wait_ms);
    assert!(
        (RECONNECT_WAIT_MIN..=RECONNECT_WAIT_MIN + RECONNECT_SPREAD).contains(&wait),
        "{what}: {wait:?}"
    );
    wait
}

#[tokio::test]
async fn clients_disconnected_by_one_fault_are_given_different_waits() {
    let mut stand = Stand::start(Kind::Hub, &[]).await;
    let mut sockets = Vec::new();
    for n in 0..24 {
        let token = stand.client(&format!("dev{n}")).await.token().unwrap().to_owned();
        sockets.push(session(stand.service.address(), &token, hello()).await.0);
    }
    Fault::Full.begin(&mut stand.redis).await;

    let mut waits = Vec::new();
    for socket in &mut sockets {
        socket.send_frame(&batch(1)).await;
        waits.push(assert_goaway("a session", socket.frame().await));
    }

    // By chance, one fifth of the span stays empty in one of two hundred runs, and three never do.
    let fifth = |wait: &Duration| {
        (*wait - RECONNECT_WAIT_MIN).as_millis() * 5 / RECONNECT_SPREAD.as_millis()
    };
    let fifths: std::collections::HashSet<_> = waits.iter().map(fifth).collect();
    assert!(fifths.len() >= 3, "{waits:?}");
}

#[tokio::test]
async fn a_session_that_needs_nothing_from_a_failing_redis_stays_open() {
    let mut stand = Stand::start(Kind::Hub, &[]).await;
    let token = stand.client("dev1").await.token().unwrap().to_owned();
    stand.redis.command::<String>(&["XADD", "spoke-hub:out:dev1:x", "*", "n", "1"]).await;
    let (mut socket, _) = session(stand.service.address(), &token, hello()).await;
    // Before this the hub needs Redis: when a session begins, it reads and marks the out stream.
    assert!(matches!(socket.frame().await, Frame::Push(_)));

    for fault in [Fault::Full, Fault::Replica, Fault::NoSnapshot] {
        fault.begin(&mut stand.redis).await;
        socket.send_frame(&Frame::Ping).await;
        assert!(matches!(socket.next().await, Heard::Bytes(_)), "{fault:?}");
        fault.end(&mut stand.redis).await;
    }
    socket.send_frame(&batch(1)).await;
    assert!(matches!(socket.frame().await, Frame::Ack(_)));
}
