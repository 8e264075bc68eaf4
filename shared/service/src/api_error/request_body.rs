//! `JsonOrForm`: a request's body by its content type.

use std::future::Future;

use axum::{
    Form,
    body::{Body, HttpBody},
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use serde::de::DeserializeOwned;

use super::ApiError;
use crate::limits::BODY_TIMEOUT;
use spoke_protocol::limits::HTTP_BODY_BYTES_MAX;

/// The body, as JSON or as a form. What is no such body is refused with 400 "malformed", 408 "too-slow",
/// 413 "too-large" or 415 "unsupported-media-type"; how large it may be is axum's `DefaultBodyLimit`.
#[derive(Debug)]
pub struct JsonOrForm<T>(pub T);

/// The form that a body is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonOrForm<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        in_time(read(request, state)).await
    }
}

/// Within the time that a small body may take.
async fn in_time<T>(reading: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or_else(|_| Err(too_slow()))
}

/// The refusal of a body that did not arrive in time.
pub fn too_slow() -> ApiError {
    let message = "the body did not arrive in time";
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message)
}

/// What says itself that it is far larger than any path takes is not waited for. One that is a little
/// over is read as far as it may, or its sender would lose the answer to a reset.
///
/// # Errors
/// 413 "too-large".
pub fn check_announced(request: &Request) -> Result<(), ApiError> {
    if request.body().size_hint().lower() > 2 * HTTP_BODY_BYTES_MAX as u64 {
        return Err(unreadable(StatusCode::PAYLOAD_TOO_LARGE));
    }
    Ok(())
}

async fn read<T: DeserializeOwned, S: Send + Sync>(
    request: Request,
    state: &S,
) -> Result<JsonOrForm<T>, ApiError> {
    check_announced(&request)?;
    let kind = BodyKind::of(request.headers())?;
    let bytes = Bytes::from_request(request, state).await;
    let bytes = bytes.map_err(|rejection| unreadable(rejection.status()))?;
    kind.parse(bytes).map(JsonOrForm)
}

impl BodyKind {
    /// By the content type.
    ///
    /// # Errors
    /// 415 "unsupported-media-type".
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = header.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match media_type.to_ascii_lowercase().as_str() {
            "application/json" => Ok(Self::Json),
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            other if other.starts_with("application/") && other.ends_with("+json") => {
                Ok(Self::Json)
            }
            _ => {
                let message = "the body has to be application/json or \
                               application/x-www-form-urlencoded; say which in Content-Type";
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                Err(ApiError::new(status, "unsupported-media-type", message))
            }
        }
    }

    /// What a whole body says.
    ///
    /// # Errors
    /// 400 "malformed".
    pub fn parse<T: DeserializeOwned>(self, bytes: Bytes) -> Result<T, ApiError> {
        match self {
            Self::Json => serde_json::from_slice(&bytes).map_err(|error| malformed("JSON", &error)),
            Self::Form => {
                let request = http::Request::post("/")
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Body::from(bytes))
                    .expect("a request of constants");
                let form = Form::from_request(request, &()).now_or_never();
                let form = form.expect("the body is there");
                form.map(|Form(body)| body).map_err(|error| malformed("form", &error))
            }
        }
    }
}

/// A body that cannot be read to its end, by the status that says why.
pub fn unreadable(status: StatusCode) -> ApiError {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(status, "too-large", "the body is larger than this path takes");
    }
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", "the body broke off")
}

fn malformed(what: &str, error: &dyn std::error::Error) -> ApiError {
    let cause = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
    let message = format!("the body is not the {what} that this path takes: {cause}");
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", message)
}
