//! An HTTP error response: status, reason word, message and retry delay (contract section 4). It
//! may come from a proxy or a captive portal, so nothing in it is trusted.

use std::{fmt, time::Duration};

use http::{
    HeaderMap, StatusCode,
    header::{DATE, RETRY_AFTER},
};
use serde::Deserialize;
use spoke_protocol::{
    Seq,
    limits::{RETRY_HINT_MAX, TEXT_BYTES_MAX},
    wire::json::{TOO_FAST, UNUSABLE_STREAM},
};

use crate::limits::TOO_FAST_WAIT_MAX;

/// Any response other than the expected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The HTTP status.
    pub status: StatusCode,
    /// The stable word, if present.
    pub reason: Option<String>,
    /// The message for the operator.
    pub message: Option<String>,
    /// The cursor it names, if any.
    pub seq: Option<Seq>,
    /// The requested delay before the next request.
    pub retry_after: Option<Duration>,
    /// The time of the sender's clock, in milliseconds since 1970.
    pub date_ms: Option<u64>,
}

#[derive(Deserialize, Default)]
struct ErrorResponseBody {
    reason: Option<String>,
    message: Option<String>,
    seq: Option<Seq>,
}

/// Bytes of the body that are read.
pub(crate) const ERROR_RESPONSE_BYTES_MAX: usize = 16 * 1024;

impl ErrorResponse {
    /// Reads a response. A body of any other form is ignored.
    pub fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let body: ErrorResponseBody = serde_json::from_slice(body).unwrap_or_default();
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let date = header(DATE).and_then(|text| httpdate::parse_http_date(text).ok());
        let since_1970 = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        Self {
            status,
            reason: body.reason.map(|text| printable(&text)),
            message: body.message.map(|text| printable(&text)),
            seq: body.seq,
            retry_after: header(RETRY_AFTER).and_then(seconds),
            date_ms: since_1970.map(|since| since.as_millis() as u64),
        }
    }

    /// Returns whether one stream at the hub cannot be used; the other direction continues.
    pub fn is_unusable_stream(&self) -> bool {
        self.reason.as_deref() == Some(UNUSABLE_STREAM)
    }

    /// Returns how long to wait before the same request, if the client exceeds its rate. A longer wait than
    /// [`TOO_FAST_WAIT_MAX`] is left to the next session.
    pub fn too_fast_wait(&self) -> Option<Duration> {
        let is_too_fast = self.status == StatusCode::TOO_MANY_REQUESTS && self.has_reason(TOO_FAST);
        self.retry_after.filter(|wait| is_too_fast && *wait <= TOO_FAST_WAIT_MAX)
    }

    /// Returns whether the request may succeed later.
    pub fn is_busy(&self) -> bool {
        matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
    }

    /// Returns whether a Spoke service restarts, or its Redis failed.
    pub fn is_unavailable(&self) -> bool {
        let is_spoke = self.has_reason("unavailable") || self.has_reason("restart");
        self.status == StatusCode::SERVICE_UNAVAILABLE && is_spoke
    }

    /// Returns whether it has this reason word.
    pub fn has_reason(&self, reason: &str) -> bool {
        self.reason.as_deref() == Some(reason)
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        match (&self.reason, &self.message) {
            (Some(reason), Some(message)) => write!(f, " {reason}: {message}"),
            (Some(text), None) | (None, Some(text)) => write!(f, " {text}"),
            (None, None) => write!(f, " {}", self.status.canonical_reason().unwrap_or_default()),
        }
    }
}

impl std::error::Error for ErrorResponse {}

/// Reads only the form in seconds: a date needs two clocks that agree.
fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_HINT_MAX))
}

/// Makes untrusted text safe for a log line.
fn printable(text: &str) -> String {
    text.chars().take(TEXT_BYTES_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn every_part_of_an_error_response_is_read() {
        let headers = headers(&[(RETRY_AFTER, "7"), (DATE, "Tue, 14 Nov 2023 22:13:20 GMT")]);
        let body = br#"{"code":503,"reason":"unavailable","message":"later","seq":"5-0"}"#;
        let response = ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, &headers, body);
        assert_eq!(response.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(response.date_ms, Some(1_700_000_000_000));
        assert_eq!(response.seq, Some(Seq::new(5, 0)));
        assert!(response.is_busy() && response.has_reason("unavailable"));
        assert_eq!(response.to_string(), "503 unavailable: later");
    }

    #[test]
    fn a_body_in_another_format_is_ignored() {
        for body in [&b""[..], b"<html>", b"[]", b"{\"reason\":7}", b"\xff"] {
            let response = ErrorResponse::new(StatusCode::BAD_GATEWAY, &HeaderMap::new(), body);
            assert_eq!(response.to_string(), "502 Bad Gateway");
            assert!(response.date_ms.is_none() && !response.is_busy());
        }
    }

    #[test]
    fn a_batch_over_the_rate_is_repeated_in_the_session_unless_that_takes_long() {
        let wait = |status, reason: &str, seconds: &str| {
            let body = format!(r#"{{"reason":"{reason}"}}"#);
            let headers = headers(&[(RETRY_AFTER, seconds)]);
            ErrorResponse::new(status, &headers, body.as_bytes()).too_fast_wait()
        };
        let busy = StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(wait(busy, "too-fast", "20"), Some(TOO_FAST_WAIT_MAX));
        assert_eq!(wait(busy, "too-fast", "21"), None, "it is left to the next session");
        assert_eq!(wait(busy, "too-many-requests", "1"), None);
        assert_eq!(wait(StatusCode::SERVICE_UNAVAILABLE, "too-fast", "1"), None);
    }

    #[test]
    fn retry_after_is_bounded_and_control_characters_are_replaced() {
        let headers = headers(&[(RETRY_AFTER, "999999999999"), (DATE, "yesterday")]);
        let body = br#"{"reason":"a\nb\u001b[31m","message":""}"#;
        let response = ErrorResponse::new(StatusCode::TOO_MANY_REQUESTS, &headers, body);
        assert_eq!(response.retry_after, Some(RETRY_HINT_MAX));
        assert_eq!(response.reason.as_deref(), Some("a b [31m"));
    }
}
