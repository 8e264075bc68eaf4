//! WebSocket clients of the hub, written by hand so that they can misbehave.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use spoke_protocol::{
    InstanceId, PartnerId,
    message::{Ack, Cursor, Features, Frame, Goaway, Hello, MAJOR, MINOR, OriginState, Welcome},
    wire::frame::SUBPROTOCOL,
};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::Request, protocol::CloseFrame},
};

use crate::{api::Answer, wait::PATIENCE};

/// The name of the subprotocol that speaks JSON.
pub const JSON_SUBPROTOCOL: &str = "spoke.v1.json";

/// An open WebSocket to the hub.
pub struct Socket {
    inner: WebSocketStream<TcpStream>,
    /// The subprotocol that the server chose.
    pub subprotocol: Option<String>,
}

/// An event on a WebSocket.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// A binary message.
    Bytes(Bytes),
    /// A text message.
    Text(String),
    /// The end, with its code and reason if the server sent them.
    Closed(Option<(u16, String)>),
}

/// How to connect.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// The `Authorization` header's token.
    pub token: Option<String>,
    /// Offered subprotocols.
    pub subprotocols: Vec<String>,
    /// What follows `/sync` in the URL.
    pub query: String,
}

impl Offer {
    /// A token and one subprotocol.
    pub fn of(token: &str, subprotocol: &str) -> Self {
        let subprotocols = vec![subprotocol.to_owned()];
        Self { token: Some(token.to_owned()), subprotocols, ..Self::default() }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("subprotocol", &self.subprotocol).finish_non_exhaustive()
    }
}

impl Socket {
    /// Connects to `/sync`.
    ///
    /// # Errors
    /// If the upgrade is refused, with the answer.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn connect(address: SocketAddr, offer: &Offer) -> Result<Self, Answer> {
        let url = format!("ws://{address}/sync{}", offer.query);
        let mut request: Request<()> = url.into_client_request().expect("the URL is well formed");
        let headers = request.headers_mut();
        if let Some(token) = &offer.token {
            let value = format!("Bearer {token}").parse().expect("a token can be a header");
            headers.insert("authorization", value);
        }
        if !offer.subprotocols.is_empty() {
            let value = offer.subprotocols.join(", ").parse().expect("a name can be a header");
            headers.insert("sec-websocket-protocol", value);
        }
        let stream = TcpStream::connect(address).await.expect("the hub accepts connections");
        stream.set_nodelay(true).expect("a socket takes options");
        match in_time("the hub's answer to an upgrade", client_async(request, stream)).await {
            Ok((inner, response)) => {
                let chosen = response.headers().get("sec-websocket-protocol");
                let subprotocol = chosen.and_then(|name| name.to_str().ok()).map(str::to_owned);
                Ok(Self { inner, subprotocol })
            }
            Err(Error::Http(response)) => Err(Answer {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                text: String::from_utf8_lossy(response.body().as_deref().unwrap_or_default())
                    .into_owned(),
            }),
            Err(error) => panic!("the hub did not answer the upgrade: {error}"),
        }
    }

    /// The next message or the end; pings and pongs are skipped.
    ///
    /// # Panics
    /// If none comes within `PATIENCE`.
    pub async fn next(&mut self) -> Heard {
        loop {
            let message = in_time("a message from the hub", self.inner.next()).await;
            return match message {
                Some(Ok(Message::Binary(bytes))) => Heard::Bytes(bytes),
                Some(Ok(Message::Text(text))) => Heard::Text(text.to_string()),
                Some(Ok(Message::Close(frame))) => Heard::Closed(frame.map(close_words)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(_)) | None => Heard::Closed(None),
            };
        }
    }

    /// Sends a message, which is lost if the hub has closed the connection.
    pub async fn send(&mut self, message: Message) {
        let _ = in_time("the hub to take a message", self.inner.send(message)).await;
    }

    /// Sends a frame of `spoke.v1`.
    pub async fn send_frame(&mut self, frame: &Frame) {
        self.send(Message::Binary(frame.encode(Features::default()))).await;
    }

    /// The next message, which must be a frame of `spoke.v1`.
    ///
    /// # Panics
    /// If it is anything else.
    pub async fn frame(&mut self) -> Frame {
        match self.next().await {
            Heard::Bytes(bytes) => {
                Frame::decode(bytes, Features::COMPRESSION).expect("the hub speaks the protocol")
            }
            other => panic!("expected a frame, got {other:?}"),
        }
    }

    /// Sends HELLO and returns the hub's WELCOME.
    ///
    /// # Panics
    /// If the hub answers otherwise.
    pub async fn greet(&mut self, hello: Hello) -> Welcome {
        self.send_frame(&Frame::Hello(Box::new(hello))).await;
        match self.frame().await {
            Frame::Welcome(welcome) => *welcome,
            other => panic!("expected a WELCOME, got {other:?}"),
        }
    }

    /// The next ACK; frames before it are skipped.
    ///
    /// # Panics
    /// If a GOAWAY or the end comes first.
    pub async fn ack(&mut self) -> Ack {
        loop {
            match self.frame().await {
                Frame::Ack(ack) => return ack,
                Frame::Goaway(goaway) => panic!("expected an ACK, got {goaway:?}"),
                _ => {}
            }
        }
    }

    /// The next GOAWAY; frames before it are skipped.
    ///
    /// # Panics
    /// If the end comes first.
    pub async fn goaway(&mut self) -> Goaway {
        loop {
            if let Frame::Goaway(goaway) = self.frame().await {
                return goaway;
            }
        }
    }

    /// All frames until none has come for `quiet`, for what must not be sent.
    ///
    /// # Panics
    /// If anything but a frame comes.
    pub async fn frames_until_quiet(&mut self, quiet: Duration) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Ok(frame) = tokio::time::timeout(quiet, self.frame()).await {
            frames.push(frame);
        }
        frames
    }

    /// Skips messages up to the end; returns its code and reason if there are any.
    pub async fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            if let Heard::Closed(how) = self.next().await {
                return how;
            }
        }
    }

    /// Sends a request of `spoke.v1.json` and returns its answer, which must be the next message.
    ///
    /// # Panics
    /// If the next message has another type or id.
    pub async fn ask(&mut self, kind: &str, id: impl Into<Value>, payload: Value) -> Value {
        let id = id.into();
        self.send_json(&json!({ "type": kind, "id": id, "payload": payload })).await;
        let answer = self.json().await;
        assert_eq!((&answer["type"], &answer["id"]), (&json!(kind), &id), "{answer}");
        answer
    }

    /// Sends JSON as text.
    pub async fn send_json(&mut self, value: &Value) {
        self.send(Message::text(value.to_string())).await;
    }

    /// The next message, which must be JSON.
    ///
    /// # Panics
    /// If it is anything else.
    pub async fn json(&mut self) -> Value {
        match self.next().await {
            Heard::Text(text) => serde_json::from_str(&text).expect("the hub answers in JSON"),
            other => panic!("expected text, got {other:?}"),
        }
    }
}

/// The HELLO of an agent with empty streams.
pub fn hello() -> Hello {
    Hello {
        major: MAJOR,
        minor: MINOR,
        version: "0.1.0-test".to_owned(),
        origin: OriginState::default(),
        cursor: Cursor::default(),
        features: Features::default(),
        instance: InstanceId::UNKNOWN,
        partner: PartnerId::UNKNOWN,
    }
}

/// Opens a session over `spoke.v1` up to its WELCOME.
///
/// # Panics
/// If the hub refuses it.
pub async fn session(address: SocketAddr, token: &str, hello: Hello) -> (Socket, Welcome) {
    let mut socket = open(address, token, SUBPROTOCOL).await;
    let welcome = socket.greet(hello).await;
    (socket, welcome)
}

/// Opens a WebSocket.
///
/// # Panics
/// If the hub refuses it.
pub async fn open(address: SocketAddr, token: &str, subprotocol: &str) -> Socket {
    let socket = Socket::connect(address, &Offer::of(token, subprotocol)).await;
    socket.unwrap_or_else(|answer| panic!("the hub refused: {answer:?}"))
}

fn close_words(frame: CloseFrame) -> (u16, String) {
    (frame.code.into(), frame.reason.to_string())
}

async fn in_time<T: fmt::Debug>(awaited: &str, future: impl Future<Output = T>) -> T {
    let awaited = format!("waited {PATIENCE:?} in vain for {awaited}");
    tokio::time::timeout(PATIENCE, future).await.expect(&awaited)
}
