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
use spoke_diagnostics::error_chain;
use spoke_protocol::{
    InstanceId,
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
    context::SessionContext,
    socket::{ReceivedMessage, ServerSocket, budget_refusal, discard, frame_flood},
};
use crate::{
    authenticate::{Caller, malformed},
    charged_body,
    cpu_pool::run_on_cpu_pool,
    limits::{BUDGET_GROW_PATIENCE, BUDGET_PATIENCE, PARSE_INLINE_BYTES_MAX},
    memory_budget::MemoryCharge,
    metrics::CLOSED,
    session_open::goaway,
    state::HubState,
    xadd,
    xread::{self, CallerKind, XreadRequest},
};

/// Subprotocol name in the WebSocket handshake.
pub(crate) const SUBPROTOCOL: &str = "spoke.v1.json";
/// Maximum waiting reads on one socket.
const WAITING_MAX: usize = 8;
/// Maximum bytes of the reason in a close frame (RFC 6455, 5.5).
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Answer to one request.
#[derive(Serialize)]
struct JsonAnswer<'a, P> {
    r#type: &'a str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<bool>,
    payload: P,
}

/// Serves a client until its connection ends.
pub(crate) async fn serve(context: Box<SessionContext>, socket: ServerSocket) {
    let span = context.span();
    run(context, socket).instrument(span).await;
}

async fn run(mut context: Box<SessionContext>, mut socket: ServerSocket) {
    let (generation, _) = match context.begin(SUBPROTOCOL, InstanceId::UNKNOWN, None).await {
        Ok(generation) => generation,
        Err(refusal) => {
            send_close(&mut socket, &goaway(&refusal)).await;
            return discard(&mut socket).await;
        }
    };
    Span::current().record("session", generation);
    info!("session started");
    let caller = Caller { generation: Some(generation), ..context.caller.clone() };
    let goodbye = answer_requests(&mut context, &caller, &mut socket).await;
    if let Some(goaway) = &goodbye {
        send_close(&mut socket, goaway).await;
    }
    let reason = goodbye.map_or(CLOSED, |goaway| goaway.reason.word());
    context.hub.metrics.ended.add(reason, 1);
    info!(reason, "session ended");
    context.end(generation).await;
    discard(&mut socket).await;
}

/// Answers requests until the client closes or the session has to end.
async fn answer_requests(
    context: &mut SessionContext,
    caller: &Caller,
    socket: &mut ServerSocket,
) -> Option<Goaway> {
    let (hub, last_activity) = (context.hub.clone(), context.last_activity.clone());
    let mut waiting: FuturesUnordered<BoxFuture<'_, JsonReply>> = FuturesUnordered::new();
    let leave = context.leave();
    let mut leave = pin!(leave);
    let mut ping = tokio::time::interval_at((Instant::now() + HEARTBEAT).into(), HEARTBEAT);
    let goaway = loop {
        let answer = tokio::select! {
            incoming = socket.next() => match incoming {
                Some(Ok(incoming)) => {
                    match handle_message(&hub, caller, incoming, &mut waiting).await {
                        MessageOutcome::Answer(answer) => answer,
                        MessageOutcome::Nothing => continue,
                        MessageOutcome::Closed => return None,
                    }
                }
                Some(Err(error)) => match goaway_for_error(&error) {
                    Some(goaway) => return Some(goaway),
                    None => return None,
                },
                None => return None,
            },
            Some(answer) = waiting.next(), if !waiting.is_empty() => answer,
            // A browser cannot send pings, but it answers them.
            _ = ping.tick() => {
                let silent = Instant::now().duration_since(last_activity.at());
                if silent > IDLE_TIMEOUT
                    || socket.send(Message::Ping(Default::default())).await.is_err()
                {
                    return None;
                }
                continue;
            }
            goaway = &mut leave => break goaway,
        };
        let JsonReply { text, charge: _charge } = answer;
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
struct JsonReply {
    text: String,
    charge: Option<MemoryCharge>,
}

enum MessageOutcome {
    Answer(JsonReply),
    Nothing,
    Closed,
}

/// Parsed request that owns its parts.
struct JsonRequest {
    kind: String,
    id: Option<Box<RawValue>>,
    payload: Option<Box<RawValue>>,
    /// Memory that the payload takes as entries.
    wanted: usize,
}

impl JsonRequest {
    fn read(text: &str) -> Result<Self, (Option<Box<RawValue>>, String)> {
        let owned = |raw: Option<&RawValue>| raw.map(ToOwned::to_owned);
        match RequestBody::read(text) {
            Ok(body) => Ok(Self {
                kind: body.kind().unwrap_or_default(),
                id: owned(body.id),
                wanted: body
                    .payload
                    .map_or(0, |payload| charged_body::memory_needed(payload.get().as_bytes())),
                payload: owned(body.payload),
            }),
            Err(InvalidRequest { id, error }) => Err((owned(id), error_chain(&error))),
        }
    }
}

/// Returns the GOAWAY for frames that the hub cannot accept.
fn goaway_for_error(error: &tungstenite::Error) -> Option<Goaway> {
    if let Some(refusal) = budget_refusal(error) {
        return Some(goaway(refusal));
    }
    let message = match (frame_flood(error), error) {
        (Some(flood), _) => flood.to_string(),
        (None, tungstenite::Error::Capacity(error)) => error_chain(error),
        (None, _) => return None,
    };
    Some(Goaway { reason: GoawayReason::Protocol, message, wait_ms: 0 })
}

async fn handle_message<'a>(
    hub: &'a HubState,
    caller: &'a Caller,
    ReceivedMessage { message, charge }: ReceivedMessage,
    waiting: &mut FuturesUnordered<BoxFuture<'a, JsonReply>>,
) -> MessageOutcome {
    match message {
        Message::Text(text) => {
            // The charge of the message also covers its answer.
            let mut charge = charge;
            match handle_request(hub, caller, text.as_str(), &mut charge, waiting).await {
                Some(text) => MessageOutcome::Answer(JsonReply { text, charge }),
                None => MessageOutcome::Nothing,
            }
        }
        Message::Binary(_) => {
            let text = refusal_text(
                "",
                None,
                &malformed("unexpected binary frame, expected text frames of JSON"),
            );
            MessageOutcome::Answer(JsonReply { text, charge })
        }
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => MessageOutcome::Nothing,
        Message::Close(_) => MessageOutcome::Closed,
    }
}

/// Answers one request. Returns `None` for a waiting read.
async fn handle_request<'a>(
    hub: &'a HubState,
    caller: &'a Caller,
    text: &str,
    charge: &mut Option<MemoryCharge>,
    waiting: &mut FuturesUnordered<BoxFuture<'a, JsonReply>>,
) -> Option<String> {
    let request = if text.len() <= PARSE_INLINE_BYTES_MAX {
        JsonRequest::read(text)
    } else {
        let text = text.to_owned();
        let read = run_on_cpu_pool(move || JsonRequest::read(&text)).await;
        read.unwrap_or_else(|_| Err((None, "failed to parse this message".to_owned())))
    };
    let JsonRequest { kind, id, payload, wanted } = match request {
        Ok(request) => request,
        Err((id, error)) => {
            return Some(refusal_text("", short_id(id.as_deref()), &malformed(error)));
        }
    };
    let has_id = id.is_some();
    let id = short_id(id.as_deref());
    if id.is_none() && has_id {
        let message = format!("invalid id: expected at most {TEXT_BYTES_MAX} bytes");
        return Some(refusal_text("", None, &malformed(message)));
    }
    let payload_text = payload.as_deref().map_or("null", RawValue::get);
    Some(match kind.as_str() {
        "echo" => result_text("echo", id, Ok(payload)),
        "id" => result_text("id", id, xadd::cursor(hub, caller).await),
        "xadd" => {
            let _permit = hub.client_limits.write_permit(&caller.client).await;
            match parse_xadd(hub, caller, (payload_text, wanted), charge).await {
                Ok(body) => result_text("xadd", id, xadd::xadd(hub, caller, body).await),
                Err(refusal) => refusal_text("xadd", id, &refusal),
            }
        }
        "xread" if waiting.len() >= WAITING_MAX => {
            let message = "too many waiting reads on this socket";
            let status = StatusCode::TOO_MANY_REQUESTS;
            refusal_text("xread", id, &ApiError::new(status, "too-many-requests", message))
        }
        "xread" => match parse::<Option<XreadRequest>>(payload_text) {
            Ok(ask) => {
                let id = id.map(ToOwned::to_owned);
                let read = async move {
                    let read =
                        xread::xread(hub, caller, CallerKind::Program, ask.unwrap_or_default())
                            .await;
                    let (read, charge) = read.map_or_else(
                        |refusal| (Err(refusal), None),
                        |(body, charge)| (Ok(body), Some(charge)),
                    );
                    JsonReply { text: result_text("xread", id.as_deref(), read), charge }
                };
                waiting.push(read.boxed());
                return None;
            }
            Err(refusal) => refusal_text("xread", id, &refusal),
        },
        _ => refusal_text(&kind, id, &malformed("invalid type: expected id, xadd, xread or echo")),
    })
}

/// Accepts only short ids, since a waiting read holds its id.
fn short_id(id: Option<&RawValue>) -> Option<&RawValue> {
    id.filter(|id| id.get().len() <= TEXT_BYTES_MAX)
}

/// Parses on the CPU pool if the payload is long, and charges the memory of its entries.
async fn parse_xadd(
    hub: &HubState,
    caller: &Caller,
    (payload, wanted): (&str, usize),
    charge: &mut Option<MemoryCharge>,
) -> Result<XaddBody, ApiError> {
    match charge {
        Some(charge) => charge.resize(wanted, BUDGET_GROW_PATIENCE).await?,
        none => {
            *none = Some(hub.budget.take(&caller.client, wanted, BUDGET_PATIENCE).await?);
        }
    }
    if payload.len() <= PARSE_INLINE_BYTES_MAX {
        return parse(payload);
    }
    let payload = payload.to_owned();
    charged_body::parse_on_pool(move || parse(&payload)).await
}

fn parse<T: DeserializeOwned>(payload: &str) -> Result<T, ApiError> {
    serde_json::from_str(payload).map_err(|error| malformed(error_chain(&error)))
}

fn result_text<P: Serialize>(
    r#type: &str,
    id: Option<&RawValue>,
    result: Result<P, ApiError>,
) -> String {
    match result {
        Ok(payload) => text(&JsonAnswer { r#type, id, error: None, payload }),
        Err(refusal) => refusal_text(r#type, id, &refusal),
    }
}

fn refusal_text(r#type: &str, id: Option<&RawValue>, refusal: &ApiError) -> String {
    text(&JsonAnswer { r#type, id, error: Some(true), payload: refusal.body() })
}

fn text(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("an answer serialises to JSON")
}

/// Sends the reason in the close frame; this protocol has no other message for it.
async fn send_close(socket: &mut ServerSocket, goaway: &Goaway) {
    let mut close = close_frame(goaway.reason);
    if let (GoawayReason::Protocol, Message::Close(Some(frame))) = (goaway.reason, &mut close) {
        let said = goaway.message.floor_char_boundary(CLOSE_REASON_BYTES_MAX);
        frame.reason = goaway.message[..said].into();
    }
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, socket.send(close)).await;
}
