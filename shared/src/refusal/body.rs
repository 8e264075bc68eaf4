//! `JsonOrForm`: a request's body by its content type.

use axum::{
    Form,
    body::HttpBody,
    extract::{FromRequest, Request, rejection::FormRejection},
};
use bytes::Bytes;
use http::{StatusCode, header::CONTENT_TYPE};
use serde::de::DeserializeOwned;

use super::Refusal;
use crate::limits::{BODY_TIMEOUT, HTTP_BODY_BYTES_MAX};

/// The body, as JSON or as a form. What is no such body is refused with 400 "malformed", 408 "too-slow",
/// 413 "too-large" or 415 "unsupported-media-type"; how large it may be is axum's `DefaultBodyLimit`.
#[derive(Debug)]
pub struct JsonOrForm<T>(pub T);

enum Kind {
    Json,
    Form,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonOrForm<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        tokio::time::timeout(BODY_TIMEOUT, read(request, state)).await.unwrap_or_else(|_| {
            let message = "the body did not arrive in time";
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message))
        })
    }
}

async fn read<T: DeserializeOwned, S: Send + Sync>(
    request: Request,
    state: &S,
) -> Result<JsonOrForm<T>, Refusal> {
    // What says itself that it is far larger than any path takes is not waited for. One that is a
    // little over is read as far as it may, or its sender would lose the answer to a reset.
    if request.body().size_hint().lower() > 2 * HTTP_BODY_BYTES_MAX as u64 {
        return Err(unreadable(StatusCode::PAYLOAD_TOO_LARGE));
    }
    match kind(&request)? {
        Kind::Json => {
            let bytes = Bytes::from_request(request, state).await;
            let bytes = bytes.map_err(|rejection| unreadable(rejection.status()))?;
            serde_json::from_slice(&bytes)
                .map(JsonOrForm)
                .map_err(|error| malformed("JSON", &error))
        }
        Kind::Form => match Form::from_request(request, state).await {
            Ok(Form(body)) => Ok(JsonOrForm(body)),
            Err(FormRejection::BytesRejection(rejection)) => Err(unreadable(rejection.status())),
            Err(rejection) => Err(malformed("form", &rejection)),
        },
    }
}

fn kind(request: &Request) -> Result<Kind, Refusal> {
    let header = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = header.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match media_type.to_ascii_lowercase().as_str() {
        "application/json" => Ok(Kind::Json),
        "application/x-www-form-urlencoded" => Ok(Kind::Form),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(Kind::Json),
        _ => {
            let message = "the body has to be application/json or \
                           application/x-www-form-urlencoded; say which in Content-Type";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(Refusal::new(status, "unsupported-media-type", message))
        }
    }
}

fn unreadable(status: StatusCode) -> Refusal {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return Refusal::new(status, "too-large", "the body is larger than this path takes");
    }
    Refusal::new(StatusCode::BAD_REQUEST, "malformed", "the body broke off")
}

fn malformed(what: &str, error: &dyn std::error::Error) -> Refusal {
    let cause = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
    let message = format!("the body is not the {what} that this path takes: {cause}");
    Refusal::new(StatusCode::BAD_REQUEST, "malformed", message)
}
