//! The HTTP transport against a fake hub, whose answers the test decides.

use std::collections::HashMap;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use spoke_protocol::{
    InstanceId, PartnerId, RejectReason,
    message::{Cursor, GoawayReason, OriginState},
};
use tokio::{net::TcpListener, sync::oneshot};

use super::*;
use crate::dial::{Dialer, ProxySetting};

const DEADLINE: Duration = Duration::from_secs(10);

/// A request with the sender of its response.
struct PendingRequest {
    path: &'static str,
    query: HashMap<String, String>,
    generation: Option<String>,
    token: String,
    body: Value,
    answer: oneshot::Sender<(u16, Value)>,
}

struct FakeHub {
    requests: mpsc::Receiver<PendingRequest>,
    channel: FrameChannel,
    tokens: watch::Sender<SecretString>,
}

async fn forward(
    to: mpsc::Sender<PendingRequest>,
    path: &'static str,
    query: HashMap<String, String>,
    headers: HeaderMap,
    body: Value,
) -> Response {
    let generation = headers
        .get(spoke_protocol::wire::json::GENERATION_HEADER)
        .map(|v| v.to_str().unwrap().to_owned());
    let token = headers["authorization"].to_str().unwrap().to_owned();
    let (answer, answered) = oneshot::channel();
    to.send(PendingRequest { path, query, generation, token, body, answer }).await.unwrap();
    match answered.await {
        Ok((status, body)) => (StatusCode::from_u16(status).unwrap(), Json(body)).into_response(),
        Err(_) => std::future::pending().await,
    }
}

impl FakeHub {
    async fn start() -> Self {
        let (to, requests) = mpsc::channel(8);
        let posts = |path: &'static str| {
            post(move |State(to): State<_>, headers: HeaderMap, Json(body): Json<Value>| {
                forward(to, path, HashMap::new(), headers, body)
            })
        };
        let polls = |State(to): State<_>, Query(query): Query<_>, headers: HeaderMap| {
            forward(to, "/xread", query, headers, Value::Null)
        };
        let app = Router::new()
            .route("/session", posts("/session"))
            .route("/xadd", posts("/xadd"))
            .route("/xread", get(polls))
            .with_state(to);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let dialer = Dialer::new(&ProxySetting::None, tls.into()).unwrap();
        let tokens = watch::Sender::new("t0ken".into());
        let channel = http_frames(HttpClient::new(&dialer, &hub), tokens.subscribe());
        Self { requests, channel, tokens }
    }

    /// Returns a hub that has answered HELLO, and the first poll, which waits for its response.
    async fn welcomed() -> (Self, PendingRequest) {
        let mut hub = Self::start().await;
        hub.send(Frame::Hello(Box::new(hello()))).await;
        let request = hub.request("/session").await;
        assert_eq!(request.body["cursor"]["seq"], "7-0");
        assert_eq!(request.body["instance"], "0000000000000007");
        request.answer.send((200, welcome())).unwrap();
        let Some(Frame::Welcome(welcome)) = hub.frame().await else { panic!("no WELCOME") };
        assert_eq!((welcome.generation, welcome.cursor.seq), (3, Seq::new(5, 0)));
        let poll = hub.request("/xread").await;
        (hub, poll)
    }

    async fn send(&mut self, frame: Frame) {
        self.channel.outbox.send(frame).await.unwrap();
    }

    /// Returns the next request. The channel makes progress only while its frames are polled.
    async fn request(&mut self, path: &str) -> PendingRequest {
        let request = async {
            tokio::select! {
                request = self.requests.recv() => request.unwrap(),
                frame = self.channel.frames.next() => panic!("unexpected {frame:?} before {path}"),
            }
        };
        let request = tokio::time::timeout(DEADLINE, request).await.expect("no request in time");
        assert_eq!(request.path, path);
        request
    }

    async fn frame(&mut self) -> Option<Frame> {
        let frame = tokio::time::timeout(DEADLINE, self.channel.frames.next());
        frame.await.expect("no frame in time").map(Result::unwrap)
    }
}

fn hello() -> Hello {
    Hello {
        major: MAJOR,
        minor: MINOR,
        version: "1".to_owned(),
        origin: OriginState::default(),
        cursor: Cursor { epoch: Epoch(2), seq: Seq::new(7, 0), ..Cursor::default() },
        features: Features::default(),
        instance: InstanceId(7),
        partner: PartnerId::UNKNOWN,
    }
}

fn welcome() -> Value {
    let origin = json!({
        "epoch": 2, "start": "0-0", "first": "1-0", "last": "9-0", "added": 9, "acked": "7-0",
    });
    json!({
        "version": "1", "generation": 3, "serverTimeMs": 1, "partner": PartnerId([1; 16]),
        "cursor": { "epoch": 1, "seq": "5-0" },
        "origin": origin,
        "position": {
            "epoch": 2, "after": "7-0", "tally": "7,0,0", "joint": "7-0", "inherited": "0-0"
        },
        "granted": { "windowBatches": 8, "batchEntries": 1000, "batchBytes": 1_048_576,
            "entryFields": 128, "entryValueBytes": 1_048_576 },
    })
}

fn push_frame() -> Frame {
    let (epoch, after, through) = (Epoch(1), Seq::new(5, 0), Seq::new(6, 0));
    let fields = vec![("a".into(), "b".into())];
    Frame::Push(Push {
        epoch,
        after,
        through,
        entries: vec![Entry { seq: through, fields }],
        ..Push::default()
    })
}

#[tokio::test]
async fn a_batch_is_sent_while_a_poll_waits() {
    let (mut hub, poll) = FakeHub::welcomed().await;
    hub.send(push_frame()).await;
    let request = hub.request("/xadd").await;
    assert_eq!(request.generation.as_deref(), Some("3"));
    assert_eq!((&request.body["after"], &request.body["through"]), (&json!("5-0"), &json!("6-0")));
    let refused = json!([{ "seq": "6-0", "reason": "too-large" }]);
    let added = json!({ "seq": "6-0", "accepted": 0, "duplicates": 0, "refused": refused });
    request.answer.send((200, added)).unwrap();
    let refused = vec![(Seq::new(6, 0), RejectReason::TooLarge)];
    let ack = Ack { epoch: Epoch(1), seq: Seq::new(6, 0), refused };
    assert_eq!(hub.frame().await, Some(Frame::Ack(ack)));
    drop(poll);
}

#[tokio::test]
async fn received_entries_are_acknowledged_by_the_next_poll_and_not_earlier() {
    let (mut hub, poll) = FakeHub::welcomed().await;
    assert_eq!((poll.query["seq"].as_str(), poll.query["epoch"].as_str()), ("7-0", "2"));
    assert_eq!(poll.generation.as_deref(), Some("3"));
    let entries = json!([{ "id": "8-0", "fields": [["a", "b"]] }]);
    let read = json!({ "epoch": 2, "entries": entries, "seq": "9-0" });
    poll.answer.send((200, read)).unwrap();
    let Some(Frame::Push(push)) = hub.frame().await else { panic!("no PUSH") };
    assert_eq!((push.after, push.through), (Seq::new(7, 0), Seq::new(9, 0)));
    assert_eq!(push.entries[0].seq, Seq::new(8, 0));
    // The batch is the next request. A ping makes no request.
    hub.send(Frame::Ping).await;
    hub.send(push_frame()).await;
    let _in_progress = hub.request("/xadd").await;
    let (epoch, seq) = (Epoch(2), Seq::new(9, 0));
    hub.send(Frame::Ack(Ack { epoch, seq, refused: vec![] })).await;
    assert_eq!(hub.request("/xread").await.query["seq"], "9-0");
}

#[tokio::test]
async fn the_next_request_has_the_refreshed_token() {
    let (mut hub, poll) = FakeHub::welcomed().await;
    assert_eq!(poll.token, "Bearer t0ken");
    hub.tokens.send_replace("n3xt".into());
    hub.send(push_frame()).await;
    assert_eq!(hub.request("/xadd").await.token, "Bearer n3xt");
}

#[tokio::test]
async fn a_refusal_ends_the_channel_with_its_reason() {
    let (mut hub, poll) = FakeHub::welcomed().await;
    let body = json!({ "code": 409, "reason": "superseded", "message": "m" });
    poll.answer.send((409, body)).unwrap();
    let Some(Frame::Goaway(goaway)) = hub.frame().await else { panic!("no GOAWAY") };
    assert_eq!(goaway.reason, GoawayReason::Superseded);
    assert_eq!(hub.frame().await, None);
}

#[tokio::test]
async fn a_refused_hello_gives_a_goaway_with_the_reason() {
    let mut hub = FakeHub::start().await;
    hub.send(Frame::Hello(Box::new(hello()))).await;
    let request = hub.request("/session").await;
    request
        .answer
        .send((401, json!({ "code": 401, "reason": "unauthorized", "message": "m" })))
        .unwrap();
    let Some(Frame::Goaway(goaway)) = hub.frame().await else { panic!("no GOAWAY") };
    assert_eq!(goaway.reason, GoawayReason::Unauthorized);
}

#[tokio::test]
async fn a_response_from_another_server_is_a_broken_connection() {
    let mut hub = FakeHub::start().await;
    hub.send(Frame::Hello(Box::new(hello()))).await;
    let request = hub.request("/session").await;
    request.answer.send((404, json!("nothing here"))).unwrap();
    let ended = tokio::time::timeout(DEADLINE, hub.channel.frames.next()).await.unwrap();
    assert!(matches!(ended, Some(Err(TransportError::Broken(_)))));
}
