//! Sends an entry from the status page to a client's out stream.
//!
//! The request has to be JSON, which a form of another site cannot send, and has to carry the
//! browser's same-origin header. Requests without that header are refused as well: use `spoke-hub
//! send` on the command line.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
};
use http::{
    HeaderMap, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, ORIGIN},
};
use serde::Deserialize;
use serde_json::{Value, json};
use spoke_diagnostics::error_chain;
use spoke_protocol::{Direction, Entry, EntryLimits, Seq};
use spoke_service::api_error::ApiError;
use spoke_store::fleet;
use tracing::info;

use super::{StatusPage, parse_client, unknown_client};
use crate::config::PageMode;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendForm {
    /// Names and values.
    fields: Vec<(String, String)>,
}

pub(super) async fn send(
    State(page): State<StatusPage>,
    Path(client): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let hub = &page.hub;
    if hub.config.page != PageMode::Send {
        let message =
            "this page is read-only; set page = \"send\" in the hub's settings to send from here";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "read-only", message));
    }
    check_origin(&headers)?;
    let client = parse_client(&client)?;
    let entry = entry(&body)?;
    let auth_key = hub.config.auth_client_key(&client);
    let (partition, auth_redis) =
        (hub.partitions.of(&client), (&page.auth_redis, auth_key.as_str()));
    let sent = fleet::send(&partition.store, auth_redis, &client, &entry.fields).await;
    let id = hub.store_result(sent)?.ok_or_else(|| unknown_client(&client))?;
    info!(%client, %id, "entry sent from the status page");
    Ok(Json(json!({ "id": id })))
}

/// Checks that the request comes from this page, by headers that other sites cannot set.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    let kind = header(CONTENT_TYPE.as_str()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "unsupported content type: expected application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", message));
    }
    let host = header(HOST.as_str()).unwrap_or_default();
    let site = header("sec-fetch-site");
    // Behind a proxy the host may differ; `sec-fetch-site` does not depend on it.
    let is_own = |origin: &str| {
        let uri = origin.parse::<Uri>().ok();
        uri.is_some_and(|uri| {
            uri.authority().is_some_and(|it| it.as_str().eq_ignore_ascii_case(host))
        })
    };
    let is_ours = match (site, header(ORIGIN.as_str())) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => is_own(origin),
        (None, None) => false,
    };
    if is_ours {
        return Ok(());
    }
    let message = "cross-site request refused; send from this page, or run spoke-hub send";
    Err(ApiError::new(StatusCode::FORBIDDEN, "cross-site", message))
}

fn entry(body: &[u8]) -> Result<Entry, ApiError> {
    let refusal = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "malformed", message);
    let form: SendForm = serde_json::from_slice(body).map_err(|error| {
        refusal(format!("invalid body: expected a list of fields: {}", error_chain(&error)))
    })?;
    let words: Vec<String> =
        form.fields.into_iter().flat_map(|(name, value)| [name, value]).collect();
    let entry = Entry { seq: Seq::ZERO, fields: fleet::fields(&words) };
    entry
        .validate(Direction::Down, &EntryLimits::default())
        .map_err(|reason| refusal(format!("invalid entry: {reason}")))?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal_reason(headers: &[(&'static str, &str)]) -> Option<&'static str> {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        check_origin(&headers.collect()).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn only_same_origin_json_requests_may_send() {
        const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
        const HOST: (&str, &str) = ("host", "127.0.0.1:9464");
        let own_origin = ("origin", "http://127.0.0.1:9464");
        let other_origin = ("origin", "http://evil.example");
        let site = |word| ("sec-fetch-site", word);
        for (headers, expected) in [
            (vec![JSON, HOST, site("same-origin"), own_origin], None),
            (vec![JSON, HOST, own_origin], None),
            (vec![JSON, ("host", "proxied"), site("same-origin"), own_origin], None),
            (vec![HOST, site("same-origin"), own_origin], Some("not-json")),
            (vec![("content-type", "text/plain"), HOST, own_origin], Some("not-json")),
            (
                vec![("content-type", "application/x-www-form-urlencoded"), HOST, own_origin],
                Some("not-json"),
            ),
            (vec![JSON, HOST, site("cross-site"), own_origin], Some("cross-site")),
            (vec![JSON, HOST, site("same-site"), own_origin], Some("cross-site")),
            (vec![JSON, HOST, site("none"), own_origin], Some("cross-site")),
            (vec![JSON, HOST, other_origin], Some("cross-site")),
            (vec![JSON, HOST, ("origin", "null")], Some("cross-site")),
            (vec![JSON, HOST, ("origin", "http://127.0.0.1:9465")], Some("cross-site")),
            (vec![JSON, HOST], Some("cross-site")),
        ] {
            assert_eq!(refusal_reason(&headers), expected, "{headers:?}");
        }
    }
}
