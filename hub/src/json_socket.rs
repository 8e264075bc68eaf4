//! One WebSocket of `spoke.v1.json`: text frames `{"type", "id", "payload"}`, each answered with
//! the same `type` and `id`.
//!
//! A refusal is such an answer with `"error": true`, and the connection goes on. Reads that wait
//! are held apart, so that nothing else on the same socket waits for them.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use spoke_shared::{
    instance::Instance,
    limits::{GOODBYE_TIMEOUT, HEARTBEAT, IDLE_TIMEOUT, TEXT_BYTES_MAX},
    refusal::Refusal,
    wire::{
        frame::{Goaway, Reason},
        json::{Misread, RequestForm},
    },
};
use tokio_tungstenite::tungstenite::{self, Message};
use tracing::{Instrument, Span, info};

use crate::{
    arrival::goaway,
    bearer::{Caller, malformed},
    entries,
    hub::Hub,
    metrics::CLOSED,
    session::{Arrived, close},
    socket::Socket,
    xread::{self, Xread},
};

/// The subprotocol's name in the WebSocket handshake.
pub const SUBPROTOCOL: &str = "spoke.v1.json";
/// Reads that may wait at a time on one socket.
const WAITING_MAX: usize = 8;

/// An answer.
#[derive(Serialize)]
struct Answer<'a, P> {
    r#type: &'a str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<bool>,
    payload: P,
}

/// Serves a client to the end of its connection.
pub async fn serve(arrived: Arrived, socket: Socket) {
    let span = arrived.span();
    run(arrived, socket).instrument(span).await;
}

async fn run(mut arrived: Arrived, mut socket: Socket) {
    let generation = match arrived.begin(SUBPROTOCOL, Instance::UNKNOWN, None).await {
        Ok(generation) => generation,
        Err(refusal) => return dismiss(&mut socket, &goaway(&refusal)).await,
    };
    Span::current().record("generation", generation);
    info!("session begins");
    let caller = Caller { generation: Some(generation), ..arrived.caller.clone() };
    let goodbye = talk(&mut arrived, &caller, &mut socket).await;
    if let Some(goaway) = &goodbye {
        dismiss(&mut socket, goaway).await;
    }
    let cause = goodbye.map_or(CLOSED, |goaway| goaway.reason.word());
    arrived.hub.metrics.ended.add(cause, 1);
    info!(cause, "session ends");
    arrived.end(generation).await;
}

/// Answers until the other side goes, or has to go.
async fn talk(arrived: &mut Arrived, caller: &Caller, socket: &mut Socket) -> Option<Goaway> {
    let (hub, heard) = (arrived.hub.clone(), arrived.heard.clone());
    let mut waiting: FuturesUnordered<BoxFuture<'_, String>> = FuturesUnordered::new();
    let leave = arrived.leave();
    let mut leave = pin!(leave);
    let mut ping = tokio::time::interval_at((Instant::now() + HEARTBEAT).into(), HEARTBEAT);
    let goaway = loop {
        let answer = tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    match request(&hub, caller, text.as_str(), &mut waiting).await {
                        Some(answer) => answer,
                        None => continue,
                    }
                }
                Some(Ok(Message::Binary(_))) => {
                    refused("", None, &malformed("this protocol is text frames of JSON"))
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
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
            goaway = &mut leave => break goaway,
        };
        let mut sending = pin!(socket.send(Message::Text(answer.into())));
        // One who asks and does not listen is not waited for.
        tokio::select! {
            biased;
            sent = tokio::time::timeout(Duration::from_secs(30), sending.as_mut()) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            },
            goaway = &mut leave => {
                // What was done is told all the same, but not to one who is turned out.
                if goaway.reason == Reason::Restart {
                    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, sending).await;
                }
                break goaway;
            }
        }
    };
    // The end of the hub is the end of every wait.
    if goaway.reason == Reason::Restart {
        let answering = async {
            while let Some(answer) = waiting.next().await {
                socket.send(Message::Text(answer.into())).await?;
            }
            Ok::<_, tungstenite::Error>(())
        };
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, answering).await;
    }
    Some(goaway)
}

/// The answer to one request; none if it waits.
async fn request<'a>(
    hub: &'a Hub,
    caller: &'a Caller,
    text: &str,
    waiting: &mut FuturesUnordered<BoxFuture<'a, String>>,
) -> Option<String> {
    let request = match RequestForm::read(text) {
        Ok(request) => request,
        Err(Misread { id, error }) => return Some(refused("", short(id), &malformed(error))),
    };
    let id = short(request.id);
    if id.is_none() && request.id.is_some() {
        let message = format!("an id has at most {TEXT_BYTES_MAX} bytes");
        return Some(refused("", None, &malformed(message)));
    }
    let kind = request.kind().unwrap_or_default();
    let payload = request.payload.map_or("null", RawValue::get);
    Some(match kind.as_str() {
        "echo" => answered("echo", id, Ok(request.payload)),
        "id" => answered("id", id, entries::cursor(hub, caller).await),
        "xadd" => match form(payload) {
            Ok(form) => answered("xadd", id, entries::xadd(hub, caller, form).await),
            Err(refusal) => refused("xadd", id, &refusal),
        },
        "xread" if waiting.len() >= WAITING_MAX => {
            let message = "too many reads wait on this socket";
            let status = StatusCode::TOO_MANY_REQUESTS;
            refused("xread", id, &Refusal::new(status, "too-many-requests", message))
        }
        "xread" => match form::<Option<Xread>>(payload) {
            Ok(ask) => {
                let id = id.map(ToOwned::to_owned);
                let read = async move {
                    let read = xread::xread(hub, caller, ask.unwrap_or_default()).await;
                    answered("xread", id.as_deref(), read)
                };
                waiting.push(read.boxed());
                return None;
            }
            Err(refusal) => refused("xread", id, &refusal),
        },
        _ => refused(&kind, id, &malformed("type is one of id, xadd, xread, echo")),
    })
}

/// An id is held for as long as its read waits, and said back: a short one.
fn short(id: Option<&RawValue>) -> Option<&RawValue> {
    id.filter(|id| id.get().len() <= TEXT_BYTES_MAX)
}

fn form<T: DeserializeOwned>(payload: &str) -> Result<T, Refusal> {
    serde_json::from_str(payload).map_err(|error| malformed(error.to_string()))
}

fn answered<P: Serialize>(
    r#type: &str,
    id: Option<&RawValue>,
    result: Result<P, Refusal>,
) -> String {
    match result {
        Ok(payload) => text(&Answer { r#type, id, error: None, payload }),
        Err(refusal) => refused(r#type, id, &refusal),
    }
}

fn refused(r#type: &str, id: Option<&RawValue>, refusal: &Refusal) -> String {
    text(&Answer { r#type, id, error: Some(true), payload: refusal.body() })
}

fn text(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("an answer has text keys only")
}

/// Says why in the close frame: this protocol has no other word for it.
async fn dismiss(socket: &mut Socket, goaway: &Goaway) {
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, socket.send(close(goaway.reason))).await;
}
