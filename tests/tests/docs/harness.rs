//! The test harness itself: a network that injects no faults, or a checker that detects nothing, would let
//! every other suite pass.

use std::{net::SocketAddr, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use spoke_tests::{
    balancer::Balancer,
    checker::{assert_same, expected, from_device, from_hub},
    entries::{Stored, awkward, numbered},
    proxy::{Direction, Proxy},
    redis::RedisServer,
    wait::{PATIENCE, eventually, eventually_is},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Far longer than the loopback interface takes.
const QUIET: Duration = Duration::from_millis(200);

/// A server that returns all bytes it receives.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
    let address = listener.local_addr().expect("a bound listener has an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.expect("the proxy accepts connections")
}

/// Sends these bytes and returns what arrives until the connection ends or is quiet.
async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(bytes).await;
    let mut back = Vec::new();
    let mut part = [0; 4096];
    while let Ok(Ok(length @ 1..)) = tokio::time::timeout(QUIET, stream.read(&mut part)).await {
        back.extend(&part[..length]);
    }
    back
}

async fn assert_ended(stream: &mut TcpStream) {
    let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await.expect("it ends");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// A server that sends this to every client.
async fn greeter(word: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
    let address = listener.local_addr().expect("a bound listener has an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(word).await;
        }
    });
    address
}

#[tokio::test]
async fn the_balancer_takes_turns_and_skips_targets_that_refuse() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let balancer = Balancer::start(&[greeter(b"a").await, closed, greeter(b"b").await]).await;
    let greeted = async || {
        let mut stream = TcpStream::connect(balancer.address()).await.unwrap();
        exchange(&mut stream, b"").await
    };
    let mut words = Vec::new();
    for _ in 0..3 {
        words.extend(greeted().await);
    }
    assert_eq!(words, b"abb");
    balancer.retarget(0, None);
    balancer.retarget(1, Some(greeter(b"c").await));
    words.clear();
    for _ in 0..3 {
        words.extend(greeted().await);
    }
    words.sort_unstable();
    assert_eq!(words, b"bcc");
    balancer.retarget(1, None);
    balancer.retarget(2, None);
    assert_eq!(greeted().await, b"", "no target is left");
}

#[tokio::test]
async fn a_redis_with_a_truncated_file_can_be_inspected_before_others_connect() {
    let mut redis = RedisServer::start().await;
    for n in 0..10 {
        redis.add("x", &numbered(n)).await;
    }
    redis.kill9();
    assert_eq!(redis.truncate(1), 1);
    redis.restart_unseen().await;
    assert_eq!(redis.length("x").await, 9);
    assert!(TcpStream::connect(("127.0.0.1", redis.port())).await.is_err());
    redis.restart().await;
    assert_eq!(redis.length("x").await, 9);
    assert!(TcpStream::connect(("127.0.0.1", redis.port())).await.is_ok());
    redis.kill9();
    assert!(redis.truncate(1_000_000) < 1_000_000, "no more entries than there are");
    redis.restart().await;
    assert_eq!(redis.length("x").await, 0);
}

#[tokio::test]
async fn the_proxy_forwards_cuts_and_refuses() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(exchange(&mut stream, b"hello").await, b"hello");
    assert_eq!((proxy.bytes(Direction::Up), proxy.bytes(Direction::Down)), (5, 5));
    proxy.cut();
    assert_ended(&mut stream).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(
        exchange(&mut stream, b"again").await,
        b"again",
        "only existing connections are cut"
    );
    proxy.refuse();
    assert_ended(&mut connect(&proxy).await).await;
    assert_eq!(exchange(&mut stream, b"still").await, b"still", "only new connections are refused");
    assert_eq!(proxy.connections(), 3);
}

#[tokio::test]
async fn a_black_hole_holds_all_bytes_until_it_is_restored() {
    let proxy = Proxy::start(echo().await).await;
    let mut old = connect(&proxy).await;
    assert_eq!(exchange(&mut old, b"before").await, b"before");
    proxy.black_hole();
    let mut new = connect(&proxy).await;
    assert_eq!(exchange(&mut old, b"old").await, b"");
    assert_eq!(exchange(&mut new, b"new").await, b"");
    proxy.restore();
    assert_eq!(exchange(&mut old, b"er").await, b"older");
    assert_eq!(exchange(&mut new, b"er").await, b"newer");
}

#[tokio::test]
async fn answers_lost_downstream_never_arrive_although_the_request_does() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    proxy.lose_downstream();
    assert_eq!(exchange(&mut stream, b"lost").await, b"");
    assert_eq!(proxy.bytes(Direction::Up), 4);
    proxy.restore();
    // After lost bytes the connection carries nothing more.
    assert_eq!(exchange(&mut stream, b"more").await, b"");
    assert_ended(&mut stream).await;
}

#[tokio::test]
async fn cuts_fall_exactly_where_the_seed_says() {
    let proxy = Proxy::start(echo().await).await;
    let bytes = 1000..50_000;
    proxy.cut_after(StdRng::seed_from_u64(7), bytes.clone(), 5);
    let mut same = StdRng::seed_from_u64(7);
    for _ in 0..5 {
        let direction = if same.random() { Direction::Up } else { Direction::Down };
        let expected: u64 = same.random_range(bytes.clone());
        let before = proxy.bytes(direction);
        let mut stream = connect(&proxy).await;
        exchange(&mut stream, &[b'x'; 60_000]).await;
        assert_ended(&mut stream).await;
        assert_eq!(proxy.bytes(direction) - before, expected, "{direction:?}");
    }
    assert_eq!(proxy.cut_by_plan(), 5);
    assert_eq!(exchange(&mut connect(&proxy).await, b"after").await, b"after");
}

#[tokio::test]
async fn a_stranded_client_sees_the_end_and_the_server_does_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await;
    let mut client = connect(&proxy).await;
    client.write_all(b"hello").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.read_exact(&mut [0; 5]).await.unwrap();
    proxy.strand();
    assert_ended(&mut client).await;
    let end = tokio::time::timeout(QUIET, server.read(&mut [0])).await;
    assert!(end.is_err(), "the server saw the end: {end:?}");
    proxy.cut();
    assert_ended(&mut server).await;
}

#[tokio::test]
async fn a_killed_redis_restarts_with_its_data_on_the_same_port() {
    let mut redis = RedisServer::start().await;
    let entries: Vec<_> = awkward().into_iter().map(|(_, fields)| fields).collect();
    let added = redis.add_all("x", &entries).await;
    let port = redis.port();
    redis.kill9();
    redis.restart().await;
    assert_eq!(redis.port(), port);
    assert!(redis.entries("x").await == added, "redis restarted with other data");
}

fn copies() -> Vec<Stored> {
    (1..=5).map(|n| Stored { id: format!("{n}-0"), fields: numbered(n) }).collect()
}

#[test]
#[should_panic(expected = "5 entries expected, 4 found, the same up to number 2")]
fn the_checker_detects_a_missing_entry() {
    let whole = expected(&copies(), Some(1));
    let mut found = whole.clone();
    found.remove(2);
    assert_same("up", &whole, &found);
}

#[test]
#[should_panic(expected = "found twice: 1")]
fn the_checker_detects_a_duplicate_entry() {
    let whole = expected(&copies(), Some(1));
    let mut found = whole.clone();
    found.insert(2, whole[1].clone());
    assert_same("up", &whole, &found);
}

#[test]
#[should_panic(expected = "the same up to number 1")]
fn the_checker_detects_two_swapped_entries() {
    let whole = expected(&copies(), Some(1));
    let mut found = whole.clone();
    found.swap(1, 2);
    assert_same("up", &whole, &found);
}

#[test]
fn the_checker_reads_the_leading_fields_and_keeps_the_rest_unchanged() {
    let fields = |front: &[(&str, &str)]| {
        let mut fields = spoke_tests::entries::fields(front.iter().copied());
        fields.extend(numbered(1));
        vec![Stored { id: "9-9".to_owned(), fields }]
    };
    let up = fields(&[("client", "dev1"), ("epoch", "2"), ("seq", "1-0")]);
    assert_eq!(from_device(&up, "dev1"), expected(&copies()[..1], Some(2)));
    assert_eq!(from_device(&up, "dev2"), []);
    assert_eq!(from_hub(&fields(&[("seq", "1-0")])), expected(&copies()[..1], None));
}

#[tokio::test]
#[should_panic(expected = "in vain for: the moon; the last look saw \"only stars\"")]
async fn a_wait_that_times_out_says_what_was_awaited_and_what_was_seen() {
    let limit = Duration::from_millis(20);
    eventually::<(), _>("the moon", limit, async || Err("only stars")).await;
}

#[tokio::test]
async fn a_wait_ends_as_soon_as_the_condition_holds() {
    let mut looks = 0;
    eventually_is("the third look", 3, async || {
        looks += 1;
        looks
    })
    .await;
    assert_eq!(looks, 3);
}
