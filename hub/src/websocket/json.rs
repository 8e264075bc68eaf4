//! The `spoke.v1.json` WebSocket: text frames `{"type", "id", "payload"}`, each answered with the
//! same `type` and `id`.
//!
//! A refusal is an answer with `"error": true`; the connection stays open. Waiting reads run
//! concurrently and do not block other requests on the same socket.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use spoke_diagnostics::error_chain::error_chain;
use spoke_protocol::{
    instance::InstanceId,
    limits::{HEARTBEAT, IDLE_TIMEOUT, TEXT_BYTES_MAX},
    message::{Goaway, GoawayReason},
    wire::json::{InvalidRequest, RequestBody, XaddBody},
};
use spoke_service::api_error::ApiError;
use spoke_store::limits::GOODBYE_TIMEOUT;
use tokio_tungstenite::tungstenite::{self, Message};
use tracing::{Instrument, Span, info};

use super::{
    close::close_frame,
    context::Arrived,
    socket::{Incoming, Socket, busy, discard, flood},
};
use crate::{
    authenticate::{Caller, malformed},
    charged_body,
    cpu_pool::offload,
    limits::{BUDGET_GROW_PATIENCE, BUDGET_PATIENCE, PARSE_INLINE_BYTES_MAX},
    memory_budget::Charge,
    metrics::CLOSED,
    session_open::goaway,
    state::HubState,
    xadd,
    xread::{self, Asker, Xread},
};

/// Subprotocol name in the WebSocket handshake.
pub const SUBPROTOCOL: &str = "spoke.v1.json";
/// Maximum waiting reads on one socket.
const WAITING_MAX: usize = 8;
/// Maximum bytes of the reason in a close frame (RFC 6455, 5.5).
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Answer to one request.
#[derive(Serialize)]
struct Answer<'a, P> {
    r#type: &'a str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<bool>,
    payload: P,
}

/// Serves a client until its connection ends.
pub async fn serve(arrived: Arrived, socket: Socket) {
    let span = arrived.span();
    run(arrived, socket).instrument(span).await;
}

async fn run(mut arrived: Arrived, mut socket: Socket) {
    let (generation, _) = match arrived.begin(SUBPROTOCOL, InstanceId::UNKNOWN, None).await {
        Ok(generation) => generation,
        Err(refusal) => {
            dismiss(&mut socket, &goaway(&refusal)).await;
            return discard(&mut socket).await;
        }
    };
    Span::current().record("session", generation);
    info!("session started");
    let caller = Caller { generation: Some(generation), ..arrived.caller.clone() };
    let goodbye = talk(&mut arrived, &caller, &mut socket).await;
    if let Some(goaway) = &goodbye {
        dismiss(&mut socket, goaway).await;
    }
    let reason = goodbye.map_or(CLOSED, |goaway| goaway.reason.word());
    arrived.hub.metrics.ended.add(reason, 1);
    info!(reason, "session ended");
    arrived.end(generation).await;
    discard(&mut socket).await;
}

/// Answers requests until the client closes or the session has to end.
async fn talk(arrived: &mut Arrived, caller: &Caller, socket: &mut Socket) -> Option<Goaway> {
    let (hub, heard) = (arrived.hub.clone(), arrived.heard.clone());
    let mut waiting: FuturesUnordered<BoxFuture<'_, Reply>> = FuturesUnordered::new();
    let leave = arrived.leave();
    let mut leave = pin!(leave);
    let mut ping = tokio::time::interval_at((Instant::now() + HEARTBEAT).into(), HEARTBEAT);
    let goaway = loop {
        let answer = tokio::select! {
            incoming = socket.next() => match incoming {
                Some(Ok(incoming)) => {
                    match handle(&hub, caller, incoming, &mut waiting).await {
                        Handled::Answer(answer) => answer,
                        Handled::Nothing => continue,
                        Handled::Closed => return None,
                    }
                }
                Some(Err(error)) => match unfit(&error) {
                    Some(goaway) => return Some(goaway),
                    None => return None,
                },
                None => return None,
            },
            Some(answer) = waiting.next(), if !waiting.is_empty() => answer,
            // A browser cannot send pings, but it answers them.
            _ = ping.tick() => {
                let silent = Instant::now().duration_since(heard.at());
                if silent > IDLE_TIMEOUT || socket.send(Message::Ping(Default::default())).await.is_err() {
                    return None;
                }
                continue;
            }
            goaway = &mut leave => break goaway,
        };
        let Reply { text, charge: _charge } = answer;
        let mut sending = pin!(socket.send(Message::Text(text.into())));
        // A client that does not read its answers is disconnected.
        tokio::select! {
            biased;
            sent = tokio::time::timeout(Duration::from_secs(30), sending.as_mut()) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            },
            goaway = &mut leave => {
                // A finished request is answered before a restart, but not after another end.
                if goaway.reason == GoawayReason::Restart {
                    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, sending).await;
                }
                break goaway;
            }
        }
    };
    // Shutdown ends all waiting reads.
    if goaway.reason == GoawayReason::Restart {
        let answering = async {
            while let Some(answer) = waiting.next().await {
                socket.send(Message::Text(answer.text.into())).await?;
            }
            Ok::<_, tungstenite::Error>(())
        };
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, answering).await;
    }
    Some(goaway)
}

/// Answer text and its memory charge until it is sent.
struct Reply {
    text: String,
    charge: Option<Charge>,
}

enum Handled {
    Answer(Reply),
    Nothing,
    Closed,
}

/// Parsed request that owns its parts.
struct Asked {
    kind: String,
    id: Option<Box<RawValue>>,
    payload: Option<Box<RawValue>>,
    /// Memory that the payload takes as entries.
    wanted: usize,
}

impl Asked {
    fn read(text: &str) -> Result<Self, (Option<Box<RawValue>>, String)> {
        let owned = |raw: Option<&RawValue>| raw.map(ToOwned::to_owned);
        match RequestBody::read(text) {
            Ok(form) => Ok(Self {
                kind: form.kind().unwrap_or_default(),
                id: owned(form.id),
                wanted: form
                    .payload
                    .map_or(0, |payload| charged_body::wanted(payload.get().as_bytes())),
                payload: owned(form.payload),
            }),
            Err(InvalidRequest { id, error }) => Err((owned(id), error_chain(&error))),
        }
    }
}

/// Returns the GOAWAY for frames that the hub cannot accept.
fn unfit(error: &tungstenite::Error) -> Option<Goaway> {
    if let Some(refusal) = busy(error) {
        return Some(goaway(refusal));
    }
    let message = match (flood(error), error) {
        (Some(flood), _) => flood.to_string(),
        (None, tungstenite::Error::Capacity(error)) => error_chain(error),
        (None, _) => return None,
    };
    Some(Goaway { reason: GoawayReason::Protocol, message, wait_ms: 0 })
}

async fn handle<'a>(
    hub: &'a HubState,
    caller: &'a Caller,
    Incoming { message, charge }: Incoming,
    waiting: &mut FuturesUnordered<BoxFuture<'a, Reply>>,
) -> Handled {
    match message {
        Message::Text(text) => {
            // The charge of the message also covers its answer.
            let mut charge = charge;
            match request(hub, caller, text.as_str(), &mut charge, waiting).await {
                Some(text) => Handled::Answer(Reply { text, charge }),
                None => Handled::Nothing,
            }
        }
        Message::Binary(_) => {
            let text = refused(
                "",
                None,
                &malformed("unexpected binary frame, expected text frames of JSON"),
            );
            Handled::Answer(Reply { text, charge })
        }
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Handled::Nothing,
        Message::Close(_) => Handled::Closed,
    }
}

/// Answers one request. Returns `None` for a waiting read.
async fn request<'a>(
    hub: &'a HubState,
    caller: &'a Caller,
    text: &str,
    charge: &mut Option<Charge>,
    waiting: &mut FuturesUnordered<BoxFuture<'a, Reply>>,
) -> Option<String> {
    let asked = if text.len() <= PARSE_INLINE_BYTES_MAX {
        Asked::read(text)
    } else {
        let text = text.to_owned();
        let read = offload(move || Asked::read(&text)).await;
        read.unwrap_or_else(|_| Err((None, "failed to parse this message".to_owned())))
    };
    let Asked { kind, id, payload, wanted } = match asked {
        Ok(asked) => asked,
        Err((id, error)) => return Some(refused("", short(id.as_deref()), &malformed(error))),
    };
    let id_said = id.is_some();
    let id = short(id.as_deref());
    if id.is_none() && id_said {
        let message = format!("invalid id: expected at most {TEXT_BYTES_MAX} bytes");
        return Some(refused("", None, &malformed(message)));
    }
    let payload_text = payload.as_deref().map_or("null", RawValue::get);
    Some(match kind.as_str() {
        "echo" => answered("echo", id, Ok(payload)),
        "id" => answered("id", id, xadd::cursor(hub, caller).await),
        "xadd" => {
            let _turn = hub.shares.turn_to_write(&caller.client).await;
            match xadd_form(hub, caller, (payload_text, wanted), charge).await {
                Ok(form) => answered("xadd", id, xadd::xadd(hub, caller, form).await),
                Err(refusal) => refused("xadd", id, &refusal),
            }
        }
        "xread" if waiting.len() >= WAITING_MAX => {
            let message = "too many waiting reads on this socket";
            let status = StatusCode::TOO_MANY_REQUESTS;
            refused("xread", id, &ApiError::new(status, "too-many-requests", message))
        }
        "xread" => match form::<Option<Xread>>(payload_text) {
            Ok(ask) => {
                let id = id.map(ToOwned::to_owned);
                let read = async move {
                    let read =
                        xread::xread(hub, caller, Asker::Program, ask.unwrap_or_default()).await;
                    let (read, charge) = read.map_or_else(
                        |refusal| (Err(refusal), None),
                        |(form, charge)| (Ok(form), Some(charge)),
                    );
                    Reply { text: answered("xread", id.as_deref(), read), charge }
                };
                waiting.push(read.boxed());
                return None;
            }
            Err(refusal) => refused("xread", id, &refusal),
        },
        _ => refused(&kind, id, &malformed("invalid type: expected id, xadd, xread or echo")),
    })
}

/// Accepts only short ids, since a waiting read holds its id.
fn short(id: Option<&RawValue>) -> Option<&RawValue> {
    id.filter(|id| id.get().len() <= TEXT_BYTES_MAX)
}

/// Parses on the CPU pool if the payload is long, and charges the memory of its entries.
async fn xadd_form(
    hub: &HubState,
    caller: &Caller,
    (payload, wanted): (&str, usize),
    charge: &mut Option<Charge>,
) -> Result<XaddBody, ApiError> {
    match charge {
        Some(charge) => charge.resize(wanted, BUDGET_GROW_PATIENCE).await?,
        none => {
            *none = Some(hub.budget.take(&caller.client, wanted, BUDGET_PATIENCE).await?);
        }
    }
    if payload.len() <= PARSE_INLINE_BYTES_MAX {
        return form(payload);
    }
    let payload = payload.to_owned();
    charged_body::elsewhere(move || form(&payload)).await
}

fn form<T: DeserializeOwned>(payload: &str) -> Result<T, ApiError> {
    serde_json::from_str(payload).map_err(|error| malformed(error_chain(&error)))
}

fn answered<P: Serialize>(
    r#type: &str,
    id: Option<&RawValue>,
    result: Result<P, ApiError>,
) -> String {
    match result {
        Ok(payload) => text(&Answer { r#type, id, error: None, payload }),
        Err(refusal) => refused(r#type, id, &refusal),
    }
}

fn refused(r#type: &str, id: Option<&RawValue>, refusal: &ApiError) -> String {
    text(&Answer { r#type, id, error: Some(true), payload: refusal.body() })
}

fn text(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("an answer serialises to JSON")
}

/// Sends the reason in the close frame; this protocol has no other message for it.
async fn dismiss(socket: &mut Socket, goaway: &Goaway) {
    let mut close = close_frame(goaway.reason);
    if let (GoawayReason::Protocol, Message::Close(Some(frame))) = (goaway.reason, &mut close) {
        let said = goaway.message.floor_char_boundary(CLOSE_REASON_BYTES_MAX);
        frame.reason = goaway.message[..said].into();
    }
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, socket.send(close)).await;
}
