//! Attacks by JSON, over HTTP and in messages.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use spoke_tests::{
    cloud::now_ms,
    hostile::{
        bodies::{Form, empty_fields, malformed, messages},
        raw::text,
    },
    websocket::JSON_SUBPROTOCOL,
};

use super::{REQUESTS, SOCKETS, frames::clock};
use crate::{
    arena::Target,
    flood::{Flood, Request, ask, pour},
};

/// The most entries and fields of a batch.
const FULL: (usize, usize) = (1000, 128);
/// Clients that attack together.
const CLIENTS: usize = 6;

/// Batches of empty fields in each form: new ones, ones that the hub has, and ones past a gap.
fn empties() -> Vec<Bytes> {
    let now = now_ms();
    let gap = format!(r#""epoch":1,"after":"{}-0","#, now - 5);
    let body = |ms, size, form, extra: &str| Bytes::from(empty_fields(ms, size, form, extra));
    vec![
        body(now, FULL, Form::Pairs, ""),
        body(1, FULL, Form::Pairs, r#""epoch":1,"#),
        body(now - 1, FULL, Form::Object, ""),
        body(now, FULL, Form::Pairs, &gap),
        body(now, (1000, 60), Form::Base64, ""),
        body(now, (100_000, 1), Form::Pairs, ""),
    ]
}

pub(crate) async fn empty(target: &Target, span: Duration) {
    let bodies = empties();
    let (clock, small) = (clock(), (40, 128));
    ask(target, span, REQUESTS, |n| {
        let body = match bodies.get(n % (bodies.len() + 1)) {
            Some(body) => body.clone(),
            // Small enough to be accepted; each one is new.
            None => {
                let ms = clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                empty_fields(ms, small, Form::Pairs, "").into()
            }
        };
        Request::post("/xadd", body)
    })
    .await;
}

pub(crate) async fn garbage(target: &Target, span: Duration) {
    let bodies: Vec<_> = malformed().into_iter().map(Bytes::from).collect();
    ask(target, span, REQUESTS, |n| {
        let path = if n % 8 == 7 { "/session" } else { "/xadd" };
        Request::post(path, bodies[n % bodies.len()].clone())
    })
    .await;
}

pub(crate) async fn memory(target: &Target, span: Duration) {
    let bodies = empties();
    ask(target, span, CLIENTS * REQUESTS, |n| Request {
        client: n % CLIENTS,
        ..Request::post("/xadd", bodies[n % 4].clone())
    })
    .await;
}

/// Each socket sends these in turn, each beginning with a different one.
async fn send_messages(target: &Target, span: Duration, messages: Vec<Vec<u8>>) {
    let messages = Arc::new(messages);
    let floods = (0..SOCKETS).map(|n| {
        let (messages, mut next) = (messages.clone(), n as usize);
        Flood::new(JSON_SUBPROTOCOL, Vec::new(), move || {
            next += 1;
            messages[next % messages.len()].clone()
        })
    });
    pour(target, span, floods.collect()).await;
}

pub(crate) async fn messages_empty(target: &Target, span: Duration) {
    let bodies = empties();
    let payload = |body: &Bytes| String::from_utf8_lossy(body).into_owned();
    send_messages(
        target,
        span,
        bodies.iter().map(|body| text(&messages(&payload(body))[0])).collect(),
    )
    .await;
}

pub(crate) async fn messages_garbage(target: &Target, span: Duration) {
    let numbers = format!("[{}]", vec!["1"; 1_900_000].join(","));
    let names = format!("{{{}}}", vec![r#""":"""#; 600_000].join(","));
    let escapes = format!("\"{}\"", r"\u0000".repeat(650_000));
    let deep = format!("{}{}", "[".repeat(1_900_000), "]".repeat(1_900_000));
    let around = [numbers, names, escapes, deep];
    let mut all: Vec<_> = around.iter().flat_map(|payload| messages(payload)).collect();
    // An id of megabytes, and payloads that are no message at all.
    all.push(format!(r#"{{"type":"echo","id":{},"payload":1}}"#, around[0]));
    all.extend(around);
    send_messages(target, span, all.iter().map(|message| text(message)).collect()).await;
}
