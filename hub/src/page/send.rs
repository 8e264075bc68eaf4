//! An entry from the status page into a client's out stream.
//!
//! It has to be JSON, which no form of another site can be, and to come from this page by the
//! browser's own word: without that word it is refused, too, since the command line has `spoke-
//! hub send`.

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
use spoke_diagnostics::error_chain::error_chain;
use spoke_protocol::{
    entry::{Direction, Entry, EntryLimits},
    seq::Seq,
};
use spoke_service::api_error::ApiError;
use spoke_store::fleet;
use tracing::info;

use super::{Page, absent, known};
use crate::config::PageMode;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    /// Names and values.
    fields: Vec<(String, String)>,
}

pub(super) async fn send(
    State(page): State<Page>,
    Path(client): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let hub = &page.hub;
    if hub.config.page != PageMode::Send {
        let message = "this page only shows; the hub's setting page = \"send\" lets it send, too";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "read-only", message));
    }
    check_origin(&headers)?;
    let client = known(&client)?;
    let entry = entry(&body)?;
    let auth_key = hub.config.auth_client_key(&client);
    let (redis, auth_redis) = ((&hub.redis, &hub.keys), (&page.auth_redis, auth_key.as_str()));
    let sent = fleet::send(redis, auth_redis, &client, &entry.fields).await;
    let id = hub.checked(sent)?.ok_or_else(|| absent(&client))?;
    info!(%client, %id, "an entry was sent from the status page");
    Ok(Json(json!({ "id": id })))
}

/// Whether this page itself asks, in the browser's words, and in a form that no other site can send.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    let kind = header(CONTENT_TYPE.as_str()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "an entry is sent as application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", message));
    }
    let host = header(HOST.as_str()).unwrap_or_default();
    let site = header("sec-fetch-site");
    // Behind a proxy the host may be another; the browser's own word on the site needs none.
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
    let message = "an entry is taken from this page alone; in a shell there is spoke-hub send";
    Err(ApiError::new(StatusCode::FORBIDDEN, "cross-site", message))
}

fn entry(body: &[u8]) -> Result<Entry, ApiError> {
    let refusal = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "malformed", message);
    let form: Form = serde_json::from_slice(body).map_err(|error| {
        refusal(format!("the body is no list of fields: {}", error_chain(&error)))
    })?;
    let words: Vec<String> =
        form.fields.into_iter().flat_map(|(name, value)| [name, value]).collect();
    let entry = Entry { seq: Seq::ZERO, fields: fleet::fields(&words) };
    entry
        .validate(Direction::Down, &EntryLimits::default())
        .map_err(|reason| refusal(format!("this entry can never be carried: {reason}")))?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(headers: &[(&'static str, &str)]) -> Option<&'static str> {
        let headers = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        check_origin(&headers.collect()).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn only_the_page_itself_may_send() {
        const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
        const HOST: (&str, &str) = ("host", "127.0.0.1:9464");
        let ours = ("origin", "http://127.0.0.1:9464");
        let theirs = ("origin", "http://evil.example");
        let site = |word| ("sec-fetch-site", word);
        for (headers, expected) in [
            (vec![JSON, HOST, site("same-origin"), ours], None),
            (vec![JSON, HOST, ours], None),
            (vec![JSON, ("host", "proxied"), site("same-origin"), ours], None),
            (vec![HOST, site("same-origin"), ours], Some("not-json")),
            (vec![("content-type", "text/plain"), HOST, ours], Some("not-json")),
            (
                vec![("content-type", "application/x-www-form-urlencoded"), HOST, ours],
                Some("not-json"),
            ),
            (vec![JSON, HOST, site("cross-site"), ours], Some("cross-site")),
            (vec![JSON, HOST, site("same-site"), ours], Some("cross-site")),
            (vec![JSON, HOST, site("none"), ours], Some("cross-site")),
            (vec![JSON, HOST, theirs], Some("cross-site")),
            (vec![JSON, HOST, ("origin", "null")], Some("cross-site")),
            (vec![JSON, HOST, ("origin", "http://127.0.0.1:9465")], Some("cross-site")),
            (vec![JSON, HOST], Some("cross-site")),
        ] {
            assert_eq!(verdict(&headers), expected, "{headers:?}");
        }
    }
}
