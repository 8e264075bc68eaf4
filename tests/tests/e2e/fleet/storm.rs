//! A hub that restarts with many agents connected.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use spoke_agent::CONNECT_RETRY;
use spoke_protocol::{
    InstanceId, RetryDelay,
    message::{Frame, Goaway, GoawayReason, Hello},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    api::Api,
    cloud::{Cloud, Settings, admit},
    device::{Device, OUT},
    entries::numbered,
    redis::free_port,
    wait::eventually_true,
    websocket::{Offer, Socket, hello, session},
};
use tokio::{
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};

const AGENTS: usize = 500;
/// The shortest wait that the hub sends to its agents.
const WAIT_MS: u64 = 1000;
/// The range over which the hub spreads the waits.
const SPREAD_MS: u64 = 2_500;

struct Agent {
    token: String,
    hello: Hello,
}

/// Reconnects as an agent does: after the wait of the GOAWAY, then with its own backoff.
async fn reconnect(hub: SocketAddr, agent: Agent, goaway: Goaway) -> (Socket, Instant) {
    let mut retry = RetryDelay::new(CONNECT_RETRY.0, Duration::from_secs(5));
    let mut hint = Some(Duration::from_millis(goaway.wait_ms));
    loop {
        tokio::time::sleep(retry.next(hint.take(), rand::random())).await;
        // The hub has not started yet: its port is closed.
        if TcpStream::connect(hub).await.is_err() {
            continue;
        }
        let offer = Offer::of(&agent.token, SUBPROTOCOL);
        let mut socket = match Socket::connect(hub, &offer).await {
            Ok(socket) => socket,
            Err(answer) => {
                assert_eq!(answer.status, 503, "no other refusal: {answer:?}");
                hint = answer.retry_after().map(Duration::from_secs);
                assert!(hint.is_some(), "the refusal says when to retry: {answer:?}");
                continue;
            }
        };
        socket.send_frame(&Frame::Hello(Box::new(agent.hello.clone()))).await;
        match socket.frame().await {
            Frame::Welcome(_) => return (socket, Instant::now()),
            Frame::Goaway(goaway) => {
                assert_eq!(
                    goaway.reason,
                    GoawayReason::Unavailable,
                    "no other refusal: {goaway:?}"
                );
                assert!(goaway.wait_ms > 0, "the refusal says when to retry: {goaway:?}");
                hint = Some(Duration::from_millis(goaway.wait_ms));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Number of logins at auth, each of which costs a bcrypt.
fn logins(cloud: &Cloud) -> usize {
    cloud.auth.log().matches("client logged in").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarting_hub_spreads_its_agents_and_all_return_without_a_login() {
    let listen = format!("127.0.0.1:{}", free_port());
    let settings = Settings { hub: &[("listen", &listen)], ..Settings::default() };
    let mut cloud = Cloud::start_with(settings).await;
    let real = [Device::start(&cloud, "real1").await, Device::start(&cloud, "real2").await];
    for device in &real {
        device.redis.add(OUT, &numbered(1)).await;
        device.carried_both_ways(&cloud).await;
    }
    let (hub, before) = (cloud.hub.address(), logins(&cloud));
    assert_eq!(before, real.len());
    let mut goaways = JoinSet::new();
    for n in 0..AGENTS {
        let token = admit(&cloud.redis, &format!("dev{n}")).await;
        let agent = Agent { token, hello: Hello { instance: InstanceId(1 + n as u64), ..hello() } };
        let (mut socket, _) = session(hub, &agent.token, agent.hello.clone()).await;
        goaways.spawn(async move { (socket.goaway().await, agent) });
    }

    assert_eq!(cloud.hub.terminate().await.code(), Some(0));
    let goaways = goaways.join_all().await;
    assert_eq!(goaways.len(), AGENTS);
    assert!(goaways.iter().all(|(goaway, _)| goaway.reason == GoawayReason::Restart));
    assert_spread(goaways.iter().map(|(goaway, _)| goaway.wait_ms).collect());
    let reconnecting: Vec<JoinHandle<_>> = goaways
        .into_iter()
        .map(|(goaway, agent)| tokio::spawn(reconnect(hub, agent, goaway)))
        .collect();
    cloud.hub.restart().await;

    let mut sockets = Vec::new();
    for agent in reconnecting {
        sockets.push(agent.await.unwrap());
    }
    eventually_true("all connections to be counted", async || {
        let text = cloud.hub.admin().get("/metrics").await.text;
        text.contains(&format!("\nspoke_hub_connections {}\n", AGENTS + real.len()))
    })
    .await;
    for device in &real {
        device.redis.add(OUT, &numbered(2)).await;
        device.carried_both_ways(&cloud).await;
        assert!(!device.log().contains("\"cause\":\"clone\""));
    }
    assert_eq!(logins(&cloud), before, "all agents still have a token");
    let metrics = cloud.hub.admin().get("/metrics").await.text;
    for zero in ["sessions_refused_clone", "unauthorized", "store_errors"] {
        assert!(metrics.contains(&format!("\nspoke_hub_{zero}_total 0\n")), "{zero}: {metrics}");
    }
}

/// Asserts that each fifth of the window has about a fifth of the waits: 60 to 140 instead of 100 is more than
/// five sigma.
fn assert_spread(waits_ms: Vec<u64>) {
    let mut fifths = [0usize; 5];
    for wait_ms in &waits_ms {
        assert!((WAIT_MS..=WAIT_MS + SPREAD_MS).contains(wait_ms), "{wait_ms}");
        fifths[((*wait_ms - WAIT_MS) * 5 / (SPREAD_MS + 1)) as usize] += 1;
    }
    let fair = waits_ms.len() / 5;
    let is_fair = |count: &usize| (fair * 6 / 10..=fair * 14 / 10).contains(count);
    assert!(fifths.iter().all(is_fair), "{fifths:?}");
}

#[tokio::test]
async fn a_request_in_progress_when_the_hub_stops_is_answered() {
    let mut cloud = Cloud::start().await;
    let dev1: Api = cloud.client("dev1").await;
    let waiting = tokio::spawn({
        let dev1 = dev1.clone();
        async move { dev1.get("/xread?blockMs=25000").await }
    });
    let admin = cloud.hub.admin();
    eventually_true("the read to wait", async || {
        admin.get("/metrics").await.text.contains("\nspoke_hub_connections 1\n")
    })
    .await;
    cloud.hub.terminate().await;
    let answer = waiting.await.unwrap().ok();
    assert_eq!(answer["entries"], serde_json::json!([]));
}
