//! [`JsonOrForm`]: the body of a request, parsed by its content type.

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

/// A body in JSON or as a form. Others are refused with 400 "malformed", 408 "too-slow", 413 "too-large" or 415
/// "unsupported-media-type". axum's `DefaultBodyLimit` bounds its size.
#[derive(Debug)]
pub struct JsonOrForm<T>(pub T);

/// The format of a body.
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

/// Limits the time to [`BODY_TIMEOUT`].
async fn in_time<T>(reading: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or_else(|_| Err(too_slow()))
}

/// Returns the error for a body that did not arrive in time.
pub fn too_slow() -> ApiError {
    let message = "the body did not arrive in time";
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message)
}

/// Refuses a body whose announced length is far above the limit of every path, without reading it. A body a little above
/// is read up to the limit, or its sender would get a reset instead of the response.
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
    /// Returns the format of the content type.
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
                let message = "unsupported Content-Type: expected application/json or \
                               application/x-www-form-urlencoded";
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                Err(ApiError::new(status, "unsupported-media-type", message))
            }
        }
    }

    /// Parses a whole body.
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
                    .expect("the parts are constants");
                let form = Form::from_request(request, &()).now_or_never();
                let form = form.expect("the body is complete");
                form.map(|Form(body)| body).map_err(|error| malformed("form", &error))
            }
        }
    }
}

/// Returns the error for a body that cannot be read to its end, by the status of the cause.
pub fn unreadable(status: StatusCode) -> ApiError {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(status, "too-large", "the body is too large for this path");
    }
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", "the body is incomplete")
}

/// Names the innermost cause alone: the outer ones of axum repeat it.
fn malformed(what: &str, error: &dyn std::error::Error) -> ApiError {
    let cause = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
    let message = format!("invalid {what} body: {cause}");
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", message)
}
