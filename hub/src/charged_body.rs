//! Request bodies, charged to the client's share of the memory budget before they are read.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody},
    extract::Request,
};
use futures_util::StreamExt;
use http::StatusCode;
use serde::de::DeserializeOwned;
use spoke_protocol::limits::{
    BATCH_ENTRIES_MAX, ENTRY_FIELDS_MAX, HTTP_BODY_BYTES_MAX, SLOWEST_LINK,
};
use spoke_service::{
    api_error::{ApiError, BodyKind, check_announced, too_slow, unreadable},
    limits::BODY_TIMEOUT,
};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Bytes;

use crate::{
    authenticate::{Caller, malformed},
    client_limits::ClientPermit,
    cpu_pool::run_on_cpu_pool,
    limits::{
        BUDGET_COPIES, BUDGET_GROW_PATIENCE, BUDGET_PATIENCE, BUDGET_SMALL_BYTES,
        BUDGET_STRING_BYTES, PARSE_INLINE_BYTES_MAX,
    },
    memory_budget::MemoryCharge,
    state::HubState,
};

/// Maximum strings in a body: names and values of a full batch, and one spare field per entry.
const STRINGS_MAX: usize = 2 * (BATCH_ENTRIES_MAX + 1) * (ENTRY_FIELDS_MAX + 1);

/// Parsed body and the memory and permit that it holds until the request is answered.
pub(crate) struct ChargedBody<T> {
    /// Parsed body.
    pub form: T,
    /// Memory of the body and its entries.
    pub charge: MemoryCharge,
    /// Permit to parse and append.
    pub permit: ClientPermit,
}

/// Reads and parses the body of a request.
///
/// # Errors
/// 400, 408, 413, 415, and 503 if the memory budget is exhausted.
pub(crate) async fn read_body<T: DeserializeOwned + Send + 'static>(
    hub: &HubState,
    caller: &Caller,
    request: Request,
) -> Result<ChargedBody<T>, ApiError> {
    check_announced(&request)?;
    let kind = BodyKind::of(request.headers())?;
    let body = request.into_body();
    let announced = body.size_hint().exact().map_or(BUDGET_SMALL_BYTES, |length| length as usize);
    let wanted = BUDGET_COPIES * announced.min(HTTP_BODY_BYTES_MAX);
    let mut charge = hub.budget.take(&caller.client, wanted, BUDGET_PATIENCE).await?;
    let bytes = collect(body, &mut charge).await?;
    let permit = hub.client_limits.write_permit(&caller.client).await;
    let form = if bytes.len() <= PARSE_INLINE_BYTES_MAX {
        charge.resize(memory_needed(&bytes), BUDGET_GROW_PATIENCE).await?;
        kind.parse(bytes)?
    } else {
        let (wanted, bytes) = parse_on_pool(move || Ok((memory_needed(&bytes), bytes))).await?;
        charge.resize(wanted, BUDGET_GROW_PATIENCE).await?;
        parse_on_pool(move || kind.parse(bytes)).await?
    };
    Ok(ChargedBody { form, charge, permit })
}

/// Parses on the CPU pool, off the threads that serve sockets.
///
/// # Errors
/// The error of `parse`; 400 if it panicked.
pub(crate) async fn parse_on_pool<T: Send + 'static>(
    parse: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match run_on_cpu_pool(parse).await {
        Ok(parsed) => parsed,
        Err(_) => Err(malformed("failed to parse this body")),
    }
}

/// Returns the memory that JSON takes until its entries are in Redis: the text, the entries, their
/// copies for Redis, and an allocation for each string.
pub(crate) fn memory_needed(json: &[u8]) -> usize {
    let quotes = json.iter().filter(|byte| **byte == b'"').count();
    let strings = (quotes / 2).min(STRINGS_MAX);
    BUDGET_COPIES * json.len() + BUDGET_STRING_BYTES * strings
}

/// Each KiB received adds a second to the timeout, as a session allows for an entry on a slow
/// WebSocket.
async fn collect(body: Body, charge: &mut MemoryCharge) -> Result<Bytes, ApiError> {
    let begun = Instant::now();
    let mut bytes = Vec::with_capacity(charge.bytes() / BUDGET_COPIES);
    let mut parts = body.into_data_stream();
    loop {
        let earned = Duration::from_secs((bytes.len() / SLOWEST_LINK) as u64);
        let waiting = timeout_at(begun + BODY_TIMEOUT + earned, parts.next());
        let Some(part) = waiting.await.map_err(|_| too_slow())? else { break };
        let part = part.map_err(|_| unreadable(StatusCode::BAD_REQUEST))?;
        let length = bytes.len() + part.len();
        if length > HTTP_BODY_BYTES_MAX {
            return Err(unreadable(StatusCode::PAYLOAD_TOO_LARGE));
        }
        if BUDGET_COPIES * length > charge.bytes() {
            charge.resize(2 * BUDGET_COPIES * length, BUDGET_GROW_PATIENCE).await?;
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_charged_for_its_decoded_size_and_not_only_for_its_bytes() {
        let one_large = format!(r#"{{"seq":"1-0","fields":[["a","{}"]]}}"#, "x".repeat(100_000));
        let many_small =
            format!(r#"{{"seq":"1-0","fields":[{}]}}"#, vec![r#"["",""]"#; 12_500].join(","));
        assert!(one_large.len().abs_diff(many_small.len()) < 200);
        assert!(memory_needed(one_large.as_bytes()) < 301_000);
        assert!(memory_needed(many_small.as_bytes()) > 1_800_000);
    }
}
