//! The requests of the HTTP transport, and the GOAWAY of each refusal.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use spoke_diagnostics::error_chain;
use spoke_protocol::{
    Epoch, Seq, Tally,
    limits::{BATCH_ENTRIES_MAX, BLOCK_MAX, HTTP_BODY_BYTES_MAX, PROGRESS_TIMEOUT},
    message::{Goaway, GoawayReason},
    wire::json::{CursorBody, GENERATION_HEADER, XreadBody},
};
use spoke_service::LastActivity;
use tokio::sync::watch;

use crate::{
    error_response::ErrorResponse,
    http_client::{HttpClient, HttpError, without_body},
    http_headers::bearer,
};

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HubRequestError {
    #[error("request to the hub failed")]
    Request(#[source] HttpError),
    #[error("the hub answered {0}")]
    Rejected(ErrorResponse),
    #[error("unexpected response from the hub")]
    Malformed(#[source] serde_json::Error),
    #[error("response of the hub is larger than {HTTP_BODY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the hub accepts entries again")]
    Recovered,
    #[error("no response from the hub for {} s", PROGRESS_TIMEOUT.as_secs())]
    Silent,
}

pub(super) struct HubRequests {
    pub(super) http: HttpClient,
    pub(super) tokens: watch::Receiver<SecretString>,
    pub(super) activity: LastActivity,
}

impl HubRequests {
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        generation: Option<u64>,
        body: Bytes,
    ) -> Result<T, HubRequestError> {
        let mut request = self.http.request(Method::POST, path);
        if let Some(generation) = generation {
            request = request.header(GENERATION_HEADER, generation);
        }
        let request = request
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, self.bearer())
            .body(Full::new(body));
        self.send(request.expect("a service URL and checked headers make a request")).await
    }

    /// Returns the cursor of the hub.
    pub(super) async fn cursor(&self) -> Result<CursorBody, HubRequestError> {
        let request = self.http.request(Method::GET, "/seq").header(AUTHORIZATION, self.bearer());
        let request = request.body(Full::new(Bytes::new()));
        self.send(request.expect("a service URL and checked headers make a request")).await
    }

    pub(super) async fn poll(
        &self,
        generation: u64,
        epoch: Epoch,
        (after, tally): (Seq, Tally),
    ) -> Result<XreadBody, HubRequestError> {
        let block_ms = BLOCK_MAX.as_millis();
        let query = format!(
            "seq={after}&tally={tally}&epoch={epoch}&count={BATCH_ENTRIES_MAX}&blockMs={block_ms}"
        );
        let request = self.http.request(Method::GET, &format!("/xread?{query}"));
        let request = request.header(GENERATION_HEADER, generation);
        self.send(without_body(request, Some(self.bearer()))).await
    }

    fn bearer(&self) -> HeaderValue {
        bearer(&self.tokens.borrow())
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<T, HubRequestError> {
        let (head, mut incoming) =
            self.http.send(request).await.map_err(HubRequestError::Request)?.into_parts();
        let mut body = BytesMut::new();
        self.activity.touch(Instant::now());
        while let Some(frame) = incoming.frame().await {
            let frame =
                frame.map_err(|error| HubRequestError::Request(HttpError::Broken(error.into())))?;
            let chunk = frame.into_data().unwrap_or_default();
            self.activity.touch(Instant::now());
            if body.len() + chunk.len() > HTTP_BODY_BYTES_MAX {
                return Err(HubRequestError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let body: Bytes = body.freeze();
        if head.status != StatusCode::OK {
            let response = ErrorResponse::new(head.status, &head.headers, &body);
            return Err(HubRequestError::Rejected(response));
        }
        serde_json::from_slice(&body).map_err(HubRequestError::Malformed)
    }
}

/// Returns the GOAWAY that the hub would send over a WebSocket for the same refusal.
pub(super) fn goaway(error: &HubRequestError) -> Option<Goaway> {
    let response = match error {
        HubRequestError::Rejected(response) => response,
        HubRequestError::Malformed(_) | HubRequestError::TooLarge => {
            let message = error_chain(error);
            return Some(Goaway { reason: GoawayReason::Protocol, message, wait_ms: 0 });
        }
        HubRequestError::Recovered => {
            let message = error_chain(error);
            return Some(Goaway { reason: GoawayReason::Restart, message, wait_ms: 0 });
        }
        HubRequestError::Request(_) | HubRequestError::Silent => return None,
    };
    let reason = match response.status {
        StatusCode::UNAUTHORIZED => GoawayReason::Unauthorized,
        // A response without a reason is of a proxy with its own limit: the path carries less.
        StatusCode::PAYLOAD_TOO_LARGE if response.reason.is_none() => return None,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => GoawayReason::Protocol,
        StatusCode::CONFLICT => {
            GoawayReason::from_word(response.reason.as_deref().unwrap_or_default())
        }
        _ if response.is_busy() => GoawayReason::Unavailable,
        _ => return None,
    };
    let wait_ms = response.retry_after.unwrap_or_default().as_millis() as u64;
    Some(Goaway { reason, message: response.to_string(), wait_ms })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn goaway_for(status: u16, body: &str) -> Option<Goaway> {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("3"));
        let status = StatusCode::from_u16(status).unwrap();
        goaway(&HubRequestError::Rejected(ErrorResponse::new(status, &headers, body.as_bytes())))
    }

    #[test]
    fn each_http_refusal_becomes_the_matching_goaway() {
        for (status, refused_as, reason) in [
            (401, "unauthorized", GoawayReason::Unauthorized),
            (409, "gap", GoawayReason::Gap),
            (409, "stale-epoch", GoawayReason::StaleEpoch),
            (409, "superseded", GoawayReason::Superseded),
            (409, "from-a-later-version", GoawayReason::Other),
            (400, "malformed", GoawayReason::Protocol),
            (413, "too-large", GoawayReason::Protocol),
            (429, "too-many", GoawayReason::Unavailable),
            (503, "unavailable", GoawayReason::Unavailable),
        ] {
            let goaway =
                goaway_for(status, &format!(r#"{{"reason":"{refused_as}","message":"m"}}"#))
                    .unwrap();
            assert_eq!((goaway.reason, goaway.wait_ms), (reason, 3000), "{status} {refused_as}");
            assert!(goaway.message.contains(refused_as));
        }
    }

    #[test]
    fn a_response_from_another_server_is_a_broken_connection() {
        for status in [302, 404, 405, 413, 500, 502, 504] {
            assert_eq!(goaway_for(status, "<html>"), None, "{status}");
        }
    }
}
