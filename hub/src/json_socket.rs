//! One WebSocket of `spoke.v1.json`: text frames `{"type", "id", "payload"}`, each answered with
//! the same `type` and `id`.
//!
//! A refusal is such an answer with `"error": true`, and the connection goes on. Reads that wait
//! are held apart, so that nothing else on the same socket waits for them.

use std::time::{Duration, Instant};

use axum::extract::ws::{Message, WebSocket};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use spoke_shared::{
    limits::{GOODBYE_TIMEOUT, HEARTBEAT, IDLE_TIMEOUT},
    refusal::Refusal,
    wire::frame::{Goaway, Reason},
};
use tracing::{Instrument, Span, info};

use crate::{
    bearer::{Caller, malformed},
    entries,
    hub::Hub,
    session::{Arrived, close},
    xread::{self, Xread},
};

/// The subprotocol's name in the WebSocket handshake.
pub const SUBPROTOCOL: &str = "spoke.v1.json";
/// Reads that may wait at a time on one socket.
const WAITING_MAX: usize = 8;

/// The payload stays text until its own form reads it: a tree would lose order and repeats.
#[derive(Deserialize)]
struct Request<'a> {
    r#type: String,
    #[serde(default)]
    id: Value,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// Serves a client to the end of its connection.
pub async fn serve(arrived: Arrived, socket: WebSocket) {
    let span = arrived.span();
    run(arrived, socket).instrument(span).await;
}

async fn run(mut arrived: Arrived, mut socket: WebSocket) {
    let begun = arrived.begin(SUBPROTOCOL).await;
    let Ok(generation) = arrived.hub.checked(begun) else {
        let message = "the hub's store does not answer".to_owned();
        let goaway = Goaway { reason: Reason::Unavailable, message, wait_ms: 2000 };
        return dismiss(&mut socket, &goaway).await;
    };
    Span::current().record("generation", generation);
    info!("session begins");
    let caller = Caller { generation: Some(generation), ..arrived.caller.clone() };
    let goodbye = talk(&mut arrived, &caller, &mut socket).await;
    if let Some(goaway) = &goodbye {
        dismiss(&mut socket, goaway).await;
    }
    let cause =
        goodbye.map_or("the other side closed the connection", |goaway| goaway.reason.word());
    info!(cause, "session ends");
    arrived.end(generation).await;
}

/// Answers until the other side goes, or has to go.
async fn talk(arrived: &mut Arrived, caller: &Caller, socket: &mut WebSocket) -> Option<Goaway> {
    let (hub, heard) = (arrived.hub.clone(), arrived.heard.clone());
    let mut waiting: FuturesUnordered<BoxFuture<'_, Value>> = FuturesUnordered::new();
    let leave = arrived.leave();
    let mut leave = std::pin::pin!(leave);
    let mut ping = tokio::time::interval_at((Instant::now() + HEARTBEAT).into(), HEARTBEAT);
    loop {
        let answer = tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    match request(&hub, caller, text.as_str(), &mut waiting).await {
                        Some(answer) => answer,
                        None => continue,
                    }
                }
                Some(Ok(Message::Binary(_))) => {
                    answered("", &Value::Null, Err(malformed("this protocol is text frames of JSON")))
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            },
            Some(answer) = waiting.next(), if !waiting.is_empty() => answer,
            // A browser cannot ping, but it answers one.
            _ = ping.tick() => {
                let silent = Instant::now().duration_since(heard.at());
                if silent > IDLE_TIMEOUT || socket.send(Message::Ping(Default::default())).await.is_err() {
                    return None;
                }
                continue;
            }
            goaway = &mut leave => return Some(goaway),
        };
        let sending = socket.send(Message::Text(answer.to_string().into()));
        // One who asks and does not listen is not waited for.
        tokio::select! {
            sent = tokio::time::timeout(Duration::from_secs(30), sending) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            },
            goaway = &mut leave => return Some(goaway),
        }
    }
}

/// The answer to one request; none if it waits.
async fn request<'a>(
    hub: &'a Hub,
    caller: &'a Caller,
    text: &str,
    waiting: &mut FuturesUnordered<BoxFuture<'a, Value>>,
) -> Option<Value> {
    let Request { r#type, id, payload } = match serde_json::from_str(text) {
        Ok(request) => request,
        Err(error) => {
            // Even what is not of the form may say what it is called.
            let value: Value = serde_json::from_str(text).unwrap_or_default();
            let name = value["type"].as_str().unwrap_or("");
            return Some(answered(name, &value["id"], Err(malformed(error.to_string()))));
        }
    };
    let payload = payload.map_or("null", RawValue::get);
    let result = match r#type.as_str() {
        "echo" => form(payload),
        "id" => entries::cursor(hub, caller).await.map(|cursor| json!(cursor)),
        "xadd" => match form(payload) {
            Ok(form) => entries::xadd(hub, caller, form).await,
            Err(refusal) => Err(refusal),
        },
        "xread" => match form::<Option<Xread>>(payload) {
            Ok(ask) => {
                let ask = ask.unwrap_or_default();
                if waiting.len() >= WAITING_MAX {
                    let message = "too many reads wait on this socket";
                    let status = StatusCode::TOO_MANY_REQUESTS;
                    let refusal = Refusal::new(status, "too-many-requests", message);
                    return Some(answered("xread", &id, Err(refusal)));
                }
                let reads = async move {
                    let read = xread::xread(hub, caller, ask).await.map(|read| json!(read));
                    answered("xread", &id, read)
                };
                waiting.push(reads.boxed());
                return None;
            }
            Err(refusal) => Err(refusal),
        },
        _ => Err(malformed("type is one of id, xadd, xread, echo")),
    };
    Some(answered(&r#type, &id, result))
}

fn form<T: DeserializeOwned>(payload: &str) -> Result<T, Refusal> {
    serde_json::from_str(payload).map_err(|error| malformed(error.to_string()))
}

fn answered(name: &str, id: &Value, result: Result<Value, Refusal>) -> Value {
    match result {
        Ok(payload) => json!({ "type": name, "id": id, "payload": payload }),
        Err(refusal) => {
            json!({ "type": name, "id": id, "error": true, "payload": refusal.body() })
        }
    }
}

/// Says why in the close frame: this protocol has no other word for it.
async fn dismiss(socket: &mut WebSocket, goaway: &Goaway) {
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, socket.send(close(goaway.reason))).await;
}
