//! A refusal as it arrives: status, reason word, text, and when to come back (contract section 4).
//! Whoever sends it may be anyone, a proxy or a captive portal, so nothing in it is taken on trust.

use std::{fmt, time::Duration};

use http::{
    HeaderMap, StatusCode,
    header::{DATE, RETRY_AFTER},
};
use serde::Deserialize;
use spoke_protocol::{
    limits::{RETRY_HINT_MAX, TEXT_BYTES_MAX},
    seq::Seq,
    wire::json::UNUSABLE_STREAM,
};

/// Any answer that is not the one hoped for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Its status.
    pub status: StatusCode,
    /// The stable word, where there is one.
    pub reason: Option<String>,
    /// What a person should read.
    pub message: Option<String>,
    /// The cursor it speaks of, if any.
    pub seq: Option<Seq>,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// The sender's clock, in milliseconds since 1970.
    pub date_ms: Option<u64>,
}

#[derive(Deserialize, Default)]
struct Body {
    reason: Option<String>,
    message: Option<String>,
    seq: Option<Seq>,
}

/// Bytes of a refusal's body that are looked at.
pub const DENIAL_BYTES_MAX: usize = 16 * 1024;

impl Denial {
    /// From an answer's parts. A body that is no refusal is passed over.
    pub fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let body: Body = serde_json::from_slice(body).unwrap_or_default();
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let date = header(DATE).and_then(|text| httpdate::parse_http_date(text).ok());
        let since_1970 = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        Self {
            status,
            reason: body.reason.map(|text| plain(&text)),
            message: body.message.map(|text| plain(&text)),
            seq: body.seq,
            retry_after: header(RETRY_AFTER).and_then(seconds),
            date_ms: since_1970.map(|since| since.as_millis() as u64),
        }
    }

    /// Whether one stream at the hub cannot be used; what goes the other way goes on.
    pub fn is_of_stream(&self) -> bool {
        self.reason.as_deref() == Some(UNUSABLE_STREAM)
    }

    /// Whether it says "not now" rather than "no".
    pub fn is_busy(&self) -> bool {
        matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
    }

    /// Whether one of our services says that it stops, or that its Redis is in trouble.
    pub fn is_unavailable(&self) -> bool {
        let is_ours = self.is_for("unavailable") || self.is_for("restart");
        self.status == StatusCode::SERVICE_UNAVAILABLE && is_ours
    }

    /// Whether it bears this reason word.
    pub fn is_for(&self, reason: &str) -> bool {
        self.reason.as_deref() == Some(reason)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        match (&self.reason, &self.message) {
            (Some(reason), Some(message)) => write!(f, " {reason}: {message}"),
            (Some(text), None) | (None, Some(text)) => write!(f, " {text}"),
            (None, None) => write!(f, " {}", self.status.canonical_reason().unwrap_or_default()),
        }
    }
}

impl std::error::Error for Denial {}

/// Only the form in seconds: the other one needs two clocks that agree.
fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_HINT_MAX))
}

/// A stranger's text, fit for a log line.
fn plain(text: &str) -> String {
    text.chars().take(TEXT_BYTES_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_refusal_is_read_whole() {
        let headers = headers(&[(RETRY_AFTER, "7"), (DATE, "Tue, 14 Nov 2023 22:13:20 GMT")]);
        let body = br#"{"code":503,"reason":"unavailable","message":"later","seq":"5-0"}"#;
        let denial = Denial::new(StatusCode::SERVICE_UNAVAILABLE, &headers, body);
        assert_eq!(denial.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(denial.date_ms, Some(1_700_000_000_000));
        assert_eq!(denial.seq, Some(Seq::new(5, 0)));
        assert!(denial.is_busy() && denial.is_for("unavailable"));
        assert_eq!(denial.to_string(), "503 unavailable: later");
    }

    #[test]
    fn what_is_no_refusal_is_passed_over() {
        for body in [&b""[..], b"<html>", b"[]", b"{\"reason\":7}", b"\xff"] {
            let denial = Denial::new(StatusCode::BAD_GATEWAY, &HeaderMap::new(), body);
            assert_eq!(denial.to_string(), "502 Bad Gateway");
            assert!(denial.date_ms.is_none() && !denial.is_busy());
        }
    }

    #[test]
    fn hints_have_a_bound_and_texts_do_not_break_a_log_line() {
        let headers = headers(&[(RETRY_AFTER, "999999999999"), (DATE, "yesterday")]);
        let body = br#"{"reason":"a\nb\u001b[31m","message":""}"#;
        let denial = Denial::new(StatusCode::TOO_MANY_REQUESTS, &headers, body);
        assert_eq!(denial.retry_after, Some(RETRY_HINT_MAX));
        assert_eq!(denial.reason.as_deref(), Some("a b [31m"));
    }
}
