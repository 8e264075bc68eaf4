//! `ApiError`: the one form in which a service says no (contract section 4).

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

use spoke_protocol::{
    limits::TEXT_BYTES_MAX,
    seq::{Epoch, Seq},
};

/// `{"code": <status>, "message": "…", "reason": "<stable-word>"}`, and `seq` or `epoch` where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ApiError {
    /// The HTTP status, also the `code` of the body.
    pub status: StatusCode,
    /// A word that programs decide by. It never changes.
    pub reason: &'static str,
    /// For people. It may change.
    pub message: String,
    /// When to come back.
    pub retry_after_seconds: Option<u64>,
    /// The cursor, where the answer to the refusal depends on it.
    pub seq: Option<Seq>,
    /// The epoch, where that is what stands in the way.
    pub epoch: Option<Epoch>,
}

impl ApiError {
    /// Without a time to come back. Of a longer message, which repeats what was sent, the first
    /// `TEXT_BYTES_MAX` bytes are said.
    pub fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > TEXT_BYTES_MAX {
            message.truncate(message.floor_char_boundary(TEXT_BYTES_MAX));
            message.push('…');
        }
        Self { status, reason, message, retry_after_seconds: None, seq: None, epoch: None }
    }

    /// Says when to come back, in a second at the least.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    /// Says where the cursor is.
    pub fn with_seq(mut self, seq: Seq) -> Self {
        self.seq = Some(seq);
        self
    }

    /// Says which epoch the copy is in.
    pub fn with_epoch(mut self, epoch: Epoch) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// The JSON that goes out.
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

/// Why a request was refused: an extension of the answer, for the log.
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

/// Answers unknown paths and methods with refusals: 404 "not-found", 405 "method-not-allowed" with `Allow`.
pub fn fallback(router: Router) -> Router {
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed)
}

async fn not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path")
}

async fn method_not_allowed() -> ApiError {
    let message = "this path takes other methods; the Allow header lists them";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message)
}

#[cfg(test)]
mod tests;
