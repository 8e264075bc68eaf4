//! Shutdown of a hub with requests in progress.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::json;
use spoke_protocol::{
    Entry, Epoch, Seq,
    limits::{RECONNECT_SPREAD, RECONNECT_WAIT_MIN},
    message::{Frame, GoawayReason, Push},
    wire::frame::SUBPROTOCOL,
};
use spoke_service::limits::DRAIN_TIMEOUT;
use spoke_tests::{
    api::Api,
    cloud::{IN, admit, out},
    entries::{every_byte, fields, numbered},
    redis::RedisServer,
    service::{Kind, Service},
    systemd::Systemd,
    wait::{PATIENCE, eventually_true},
    websocket::{JSON_SUBPROTOCOL, Socket, hello, open, session},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SESSIONS: usize = 40;

struct Hub {
    service: Service,
    redis: RedisServer,
    systemd: Systemd,
    _folder: TempDir,
}

impl Hub {
    async fn start() -> Self {
        let (redis, folder) = (RedisServer::start().await, tempfile::tempdir().unwrap());
        let systemd = Systemd::listen(folder.path());
        let [(name, value), _] = systemd.variables();
        let environment = vec![(name.to_owned(), value)];
        let service =
            Service::start_in(environment, Kind::Hub, &redis.url(), &[], folder.path()).await;
        Self { service, redis, systemd, _folder: folder }
    }

    fn address(&self) -> SocketAddr {
        self.service.address()
    }

    async fn client(&self, client: &str) -> Api {
        self.service.api().with_token(&admit(&self.redis, client).await)
    }

    async fn wait_for_connections(&self, count: usize) {
        let admin = self.service.admin();
        eventually_true("all connections to be counted", async || {
            let metrics = admin.get("/metrics").await.text;
            metrics.contains(&format!("\nspoke_hub_connections {count}\n"))
        })
        .await;
    }

    /// Makes Redis hold all writes.
    async fn hold_writes(&self) {
        self.redis.command::<()>(&["CLIENT", "PAUSE", "20000", "WRITE"]).await;
    }

    async fn wait_for_pending_write(&self) {
        eventually_true("a write to be pending", async || {
            let clients: String = self.redis.command(&["CLIENT", "LIST"]).await;
            clients.lines().any(|line| line.contains(" flags=b "))
        })
        .await;
    }

    async fn release_writes(&self) {
        self.redis.command::<()>(&["CLIENT", "UNPAUSE"]).await;
    }

    /// Sends SIGTERM and waits until the listeners are closed.
    async fn begin_shutdown(&mut self) {
        self.service.process().ask_to_end();
        let (devices, admin) = (self.address(), self.service.admin().address());
        eventually_true("the listeners to be closed", async || {
            let refused = async |address| TcpStream::connect(address).await.is_err();
            refused(devices).await && refused(admin).await
        })
        .await;
    }

    /// Waits until the hub has exited with 0. Returns how long that took from `since`.
    async fn wait_for_exit(&mut self, since: Instant) -> Duration {
        assert_eq!(self.service.process().exited().await.code(), Some(0));
        since.elapsed()
    }
}

/// One entry, the first of its stream.
fn first() -> Frame {
    let fields = vec![(Bytes::from_static(b"n"), Bytes::from_static(b"1"))];
    let entries = vec![Entry { seq: Seq::new(1, 0), fields }];
    let through = Seq::new(1, 0);
    Frame::Push(Push { epoch: Epoch(1), through, entries, ..Push::default() })
}

/// Sends a request on a new connection; `rest` follows the token.
async fn send_request(api: &Api, request: &str, rest: &str) -> TcpStream {
    let mut stream = TcpStream::connect(api.address()).await.unwrap();
    stream.write_all(request_text(api, request, rest).as_bytes()).await.unwrap();
    stream
}

fn request_text(api: &Api, request: &str, rest: &str) -> String {
    let token = api.token().unwrap();
    format!("{request} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\n{rest}")
}

async fn send_post(api: &Api) -> TcpStream {
    let entry = json!({ "seq": "1-0", "fields": { "n": "1" } }).to_string();
    let length = entry.len();
    let rest = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{entry}");
    send_request(api, "POST /xadd", &rest).await
}

/// Reads until the hub closes the connection. A reset after the answer counts as a close.
async fn read_answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the hub closes in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_shuts_down_answers_pending_requests_and_spreads_the_reconnects() {
    let mut hub = Hub::start().await;
    let mut sockets = Vec::new();
    for n in 0..SESSIONS {
        let client = format!("dev{n}");
        hub.redis.add(&out(&client), &numbered(n)).await;
        let token = admit(&hub.redis, &client).await;
        let (mut socket, _) = session(hub.address(), &token, hello()).await;
        assert!(
            matches!(socket.frame().await, Frame::Push(_)),
            "a batch is in flight to the client"
        );
        sockets.push(socket);
    }
    let (poster, reader) = (hub.client("poster").await, hub.client("reader").await);
    let reading = send_request(&reader, "GET /xread?blockMs=25000", "\r\n").await;
    hub.wait_for_connections(SESSIONS + 1).await;
    hub.hold_writes().await;
    for socket in &mut sockets {
        socket.send_frame(&first()).await;
        socket.send_frame(&Frame::Ping).await;
        assert!(
            matches!(socket.frame().await, Frame::Pong(_)),
            "the hub has read the batch before the PING"
        );
    }
    let posting = send_post(&poster).await;
    hub.wait_for_pending_write().await;

    let begun = Instant::now();
    hub.begin_shutdown().await;
    assert!(
        read_answer(reading).await.contains(r#""entries":[]"#),
        "at once, although redis hangs"
    );
    hub.release_writes().await;

    let mut waits = BTreeSet::new();
    for mut socket in sockets {
        assert_eq!(socket.ack().await.seq, Seq::new(1, 0));
        let goaway = socket.goaway().await;
        assert_eq!(goaway.reason, GoawayReason::Restart);
        waits.insert(goaway.wait_ms);
        assert_eq!(socket.closed().await, Some((1012, "restart".to_owned())));
    }
    let bounds = RECONNECT_WAIT_MIN.as_millis() as u64
        ..=(RECONNECT_WAIT_MIN + RECONNECT_SPREAD).as_millis() as u64;
    assert!(waits.iter().all(|wait| bounds.contains(wait)), "{waits:?}");
    let width = waits.last().unwrap() - waits.first().unwrap();
    let spread = RECONNECT_SPREAD.as_millis() as u64;
    assert!(waits.len() > SESSIONS / 2 && width > spread / 2, "{waits:?}");
    let answer = read_answer(posting).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert!(hub.wait_for_exit(begun).await < DRAIN_TIMEOUT);
    assert!(hub.systemd.heard().contains(&"STOPPING=1".to_owned()));
    assert_eq!(hub.redis.length(IN).await, SESSIONS + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_requests_are_answered_before_the_hub_exits() {
    let mut hub = Hub::start().await;
    let token = admit(&hub.redis, "dev1").await;
    let mut socket = open(hub.address(), &token, JSON_SUBPROTOCOL).await;
    socket.send_json(&json!({ "type": "xread", "id": 1, "payload": { "blockMs": 25000 } })).await;
    hub.wait_for_connections(2).await;
    hub.hold_writes().await;
    let payload = json!({ "seq": "1-0", "fields": { "n": "1" } });
    socket.send_json(&json!({ "type": "xadd", "id": 2, "payload": payload })).await;
    hub.wait_for_pending_write().await;

    hub.begin_shutdown().await;
    hub.release_writes().await;

    let mut answers = vec![socket.json().await, socket.json().await];
    answers.sort_by_key(|answer| answer["id"].as_u64());
    assert_eq!(answers[0]["payload"]["entries"], json!([]), "{answers:?}");
    assert!(answers[1]["payload"]["id"].is_string(), "{answers:?}");
    assert_eq!(socket.closed().await, Some((1012, "restart".to_owned())));
    hub.wait_for_exit(Instant::now()).await;
}

/// The clients have connected and sent their requests, but the hub has not accepted the connections yet.
#[tokio::test(flavor = "multi_thread")]
async fn connections_in_the_accept_queue_at_shutdown_are_answered() {
    let mut hub = Hub::start().await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(hub.client(&format!("dev{n}")).await);
    }
    hub.service.process().pause();
    let mut posting = Vec::new();
    for client in &clients {
        posting.push(send_post(client).await);
    }
    let mut upgrading = Vec::new();
    let offer = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    for client in &clients {
        upgrading.push(send_request(client, "GET /sync", &offer).await);
    }

    hub.service.process().ask_to_end();
    hub.service.process().resume();

    for stream in posting {
        let answer = read_answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
    for stream in upgrading {
        let answer = read_answer(stream).await.to_lowercase();
        let is_refused = answer.starts_with("http/1.1 503") && answer.contains("\r\nretry-after: ");
        // Or it was accepted before the shutdown, and got a GOAWAY.
        let is_closed_with_frame = answer.starts_with("http/1.1 101") && answer.contains("restart");
        assert!(is_refused || is_closed_with_frame, "{answer:?}");
    }
    assert_eq!(hub.redis.length(IN).await, clients.len());
    hub.wait_for_exit(Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_read_nothing_delay_shutdown_to_its_limit_and_silent_ones_do_not() {
    const ASKED: usize = 40;
    let mut hub = Hub::start().await;
    let blob = every_byte(900 * 1024);
    hub.redis.add(&out("greedy"), &fields([("blob", &blob)])).await;
    let greedy = hub.client("greedy").await;
    let all = request_text(&greedy, "GET /xread", "\r\n").repeat(ASKED);
    let mut not_reading = TcpStream::connect(hub.address()).await.unwrap();
    not_reading.write_all(all.as_bytes()).await.unwrap();
    let talker = admit(&hub.redis, "talker").await;
    let mut talking = open(hub.address(), &talker, JSON_SUBPROTOCOL).await;
    let echo = json!({ "type": "echo", "id": 1, "payload": "x".repeat(1024 * 1024) });
    for _ in 0..ASKED {
        // From then on neither side reads.
        let sending = talking.send_json(&echo);
        if tokio::time::timeout(Duration::from_secs(1), sending).await.is_err() {
            break;
        }
    }
    let silent = admit(&hub.redis, "silent").await;
    let mut silent = open(hub.address(), &silent, SUBPROTOCOL).await;

    let begun = Instant::now();
    hub.begin_shutdown().await;
    assert_eq!(silent.goaway().await.reason, GoawayReason::Restart);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

    let took = hub.wait_for_exit(begun).await;
    assert!(took < DRAIN_TIMEOUT + Duration::from_secs(4), "{took:?}");
    let answers = read_answer(not_reading).await.matches("HTTP/1.1 200").count();
    assert!(answers < ASKED, "the hub answered everything: {answers}");
    assert!(took > Duration::from_secs(5), "the hub did not wait for them: {took:?}");
    drop::<Socket>(talking);
}
