//! [`ApiError`]: the error response of every HTTP endpoint (contract section 4).

mod request_body;

use axum::{
    Json, Router,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};

pub use request_body::{BodyKind, JsonOrForm, check_announced, too_slow, unreadable};

use spoke_protocol::{Epoch, Seq, limits::TEXT_BYTES_MAX};

/// `{"code": <status>, "message": "…", "reason": "<stable-word>"}`, with `seq` or `epoch` where it is set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ApiError {
    /// The HTTP status, also the `code` of the body.
    pub status: StatusCode,
    /// The stable word that programs decide by. It never changes.
    pub reason: &'static str,
    /// The text for operators. It may change.
    pub message: String,
    /// Seconds until a retry.
    pub retry_after_seconds: Option<u64>,
    /// The cursor, where the peer needs it to go on.
    pub seq: Option<Seq>,
    /// The epoch of the copy, where the request has another.
    pub epoch: Option<Epoch>,
}

impl ApiError {
    /// Returns an error without a time to retry. A message, which may repeat a part of the request, is cut at
    /// [`TEXT_BYTES_MAX`].
    pub fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > TEXT_BYTES_MAX {
            message.truncate(message.floor_char_boundary(TEXT_BYTES_MAX));
            message.push('…');
        }
        Self { status, reason, message, retry_after_seconds: None, seq: None, epoch: None }
    }

    /// Sets the time to retry, at least 1 s.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    /// Sets the cursor.
    pub fn with_seq(mut self, seq: Seq) -> Self {
        self.seq = Some(seq);
        self
    }

    /// Sets the epoch of the copy.
    pub fn with_epoch(mut self, epoch: Epoch) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// Returns the JSON body.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "code": self.status.as_u16(),
            "message": self.message,
            "reason": self.reason,
        });
        if let Some(seq) = self.seq {
            body["seq"] = json!(seq);
        }
        if let Some(epoch) = self.epoch {
            body["epoch"] = json!(epoch);
        }
        body
    }
}

/// The reason of an [`ApiError`]: an extension of the response, for the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoggedReason(pub(crate) &'static str);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        response.extensions_mut().insert(LoggedReason(self.reason));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Answers unknown paths with 404 "not-found", and unknown methods with 405 "method-not-allowed" and `Allow`.
pub fn fallback(router: Router) -> Router {
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed)
}

async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not-found", "unknown path")
}

async fn method_not_allowed() -> ApiError {
    let message = "unsupported method; see the Allow header";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message)
}

#[cfg(test)]
mod tests;
