//! The requests of the HTTP transport, and what their refusals would be over a WebSocket.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use spoke_diagnostics::error_chain::error_chain;
use spoke_protocol::{
    limits::{BATCH_ENTRIES_MAX, BLOCK_MAX, HTTP_BODY_BYTES_MAX, PROGRESS_TIMEOUT},
    loss::Tally,
    message::{Goaway, GoawayReason},
    seq::{Epoch, Seq},
    wire::json::{CursorBody, GENERATION_HEADER, XreadBody},
};
use spoke_service::last_activity::LastActivity;
use tokio::sync::watch;

use crate::{
    auth::bearer,
    denial::Denial,
    http_client::{Http, HttpError, plain},
};

/// Why a request did not do what it was for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the request failed")]
    Request(#[source] HttpError),
    #[error("the hub answered {0}")]
    Denied(Denial),
    #[error("the hub's answer is none that it gives")]
    Malformed(#[source] serde_json::Error),
    #[error("the hub's answer is larger than {HTTP_BODY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the hub takes entries again")]
    Recovered,
    #[error("the hub did not answer for {} s", PROGRESS_TIMEOUT.as_secs())]
    Silent,
}

pub(super) struct Requests {
    pub(super) http: Http,
    pub(super) tokens: watch::Receiver<SecretString>,
    pub(super) heard: LastActivity,
}

impl Requests {
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        generation: Option<u64>,
        body: Bytes,
    ) -> Result<T, Fault> {
        let mut request = self.http.request(Method::POST, path);
        if let Some(generation) = generation {
            request = request.header(GENERATION_HEADER, generation);
        }
        let request = request
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, self.bearer())
            .body(Full::new(body));
        self.ask(request.expect("a service URL and checked headers make a request")).await
    }

    /// Where the copy at the hub stands.
    pub(super) async fn cursor(&self) -> Result<CursorBody, Fault> {
        let request = self.http.request(Method::GET, "/seq").header(AUTHORIZATION, self.bearer());
        let request = request.body(Full::new(Bytes::new()));
        self.ask(request.expect("a service URL and checked headers make a request")).await
    }

    pub(super) async fn poll(
        &self,
        generation: u64,
        epoch: Epoch,
        (after, tally): (Seq, Tally),
    ) -> Result<XreadBody, Fault> {
        let block_ms = BLOCK_MAX.as_millis();
        let query = format!(
            "seq={after}&tally={tally}&epoch={epoch}&count={BATCH_ENTRIES_MAX}&blockMs={block_ms}"
        );
        let request = self.http.request(Method::GET, &format!("/xread?{query}"));
        let request = request.header(GENERATION_HEADER, generation);
        self.ask(plain(request, Some(self.bearer()))).await
    }

    fn bearer(&self) -> HeaderValue {
        bearer(&self.tokens.borrow())
    }

    async fn ask<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, Fault> {
        let (head, mut incoming) =
            self.http.send(request).await.map_err(Fault::Request)?.into_parts();
        let mut body = BytesMut::new();
        self.heard.touch(Instant::now());
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| Fault::Request(HttpError::Broken(error.into())))?;
            let chunk = frame.into_data().unwrap_or_default();
            self.heard.touch(Instant::now());
            if body.len() + chunk.len() > HTTP_BODY_BYTES_MAX {
                return Err(Fault::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let body: Bytes = body.freeze();
        if head.status != StatusCode::OK {
            let denial = Denial::new(head.status, &head.headers, &body);
            return Err(Fault::Denied(denial));
        }
        serde_json::from_slice(&body).map_err(Fault::Malformed)
    }
}

/// What the same refusal would be over a WebSocket.
pub(super) fn goaway(fault: &Fault) -> Option<Goaway> {
    let denial = match fault {
        Fault::Denied(denial) => denial,
        Fault::Malformed(_) | Fault::TooLarge => {
            let message = error_chain(fault);
            return Some(Goaway { reason: GoawayReason::Protocol, message, wait_ms: 0 });
        }
        Fault::Recovered => {
            let message = error_chain(fault);
            return Some(Goaway { reason: GoawayReason::Restart, message, wait_ms: 0 });
        }
        Fault::Request(_) | Fault::Silent => return None,
    };
    let reason = match denial.status {
        StatusCode::UNAUTHORIZED => GoawayReason::Unauthorized,
        // A proxy with a limit of its own names no reason, and is a link that carries less.
        StatusCode::PAYLOAD_TOO_LARGE if denial.reason.is_none() => return None,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => GoawayReason::Protocol,
        StatusCode::CONFLICT => {
            GoawayReason::from_word(denial.reason.as_deref().unwrap_or_default())
        }
        _ if denial.is_busy() => GoawayReason::Unavailable,
        _ => return None,
    };
    let wait_ms = denial.retry_after.unwrap_or_default().as_millis() as u64;
    Some(Goaway { reason, message: denial.to_string(), wait_ms })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn told(status: u16, body: &str) -> Option<Goaway> {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("3"));
        let status = StatusCode::from_u16(status).unwrap();
        goaway(&Fault::Denied(Denial::new(status, &headers, body.as_bytes())))
    }

    #[test]
    fn each_refusal_is_the_goaway_that_a_websocket_would_bring() {
        for (status, word, reason) in [
            (401, "unauthorized", GoawayReason::Unauthorized),
            (409, "gap", GoawayReason::Gap),
            (409, "stale-epoch", GoawayReason::StaleEpoch),
            (409, "superseded", GoawayReason::Superseded),
            (409, "of the future", GoawayReason::Other),
            (400, "malformed", GoawayReason::Protocol),
            (413, "too-large", GoawayReason::Protocol),
            (429, "too-many", GoawayReason::Unavailable),
            (503, "unavailable", GoawayReason::Unavailable),
        ] {
            let goaway = told(status, &format!(r#"{{"reason":"{word}","message":"m"}}"#)).unwrap();
            assert_eq!((goaway.reason, goaway.wait_ms), (reason, 3000), "{status} {word}");
            assert!(goaway.message.contains(word));
        }
    }

    #[test]
    fn what_no_hub_says_is_a_broken_line() {
        for status in [302, 404, 405, 413, 500, 502, 504] {
            assert_eq!(told(status, "<html>"), None, "{status}");
        }
    }
}
