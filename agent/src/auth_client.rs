//! The client of auth's HTTP API: register, log in, refresh, rotate, log out.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use spoke_diagnostics::{error_chain, tls_error::explain};
use spoke_protocol::ClientId;

use crate::{
    account::DeviceAccount,
    auth_flow::AuthAnswer,
    dial::Dialer,
    error_response::{ERROR_RESPONSE_BYTES_MAX, ErrorResponse},
    http_client::{self, HttpClient, with_json, without_body},
    http_headers::bearer,
};

/// Auth may delay a login while it computes bcrypt hashes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest token lifetime that is used: one year.
const TTL_SECONDS_MAX: u64 = 366 * 24 * 60 * 60;

/// Sends requests to auth. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AuthClient {
    http: HttpClient,
    client: ClientId,
}

/// The outcome of a request.
#[derive(Debug)]
pub(crate) struct AuthReply {
    /// The outcome for [`AuthFlow`](crate::auth_flow::AuthFlow).
    pub answer: AuthAnswer,
    /// The new token, if one was issued.
    pub token: Option<SecretString>,
    /// The error for the operator, if the request failed.
    pub problem: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoginResponseBody {
    session_token: String,
    ttl_seconds: u64,
}

#[derive(Clone, Copy)]
enum AuthRequest {
    Register,
    LogIn,
    Refresh,
    AnnounceSecret,
}

impl AuthClient {
    /// Creates a client. Does not connect yet.
    pub(crate) fn new(account: &DeviceAccount, dialer: &Dialer) -> Self {
        Self { http: HttpClient::new(dialer, &account.auth), client: account.client.clone() }
    }

    /// Registers the device's secret, with a proof that is valid for this secret only.
    pub(crate) async fn register(&self, secret: &SecretString, proof: &SecretString) -> AuthReply {
        let body = json!({
            "client": self.client,
            "secret": secret.expose_secret(),
            "proof": proof.expose_secret(),
        });
        self.send(AuthRequest::Register, self.post("/register", &body)).await
    }

    /// Exchanges the secret for a token.
    pub(crate) async fn log_in(&self, secret: &SecretString) -> AuthReply {
        let body = json!({ "client": self.client, "secret": secret.expose_secret() });
        self.send(AuthRequest::LogIn, self.post("/login", &body)).await
    }

    /// Sends the next secret of the device, with the current one as proof.
    pub(crate) async fn announce_next_secret(
        &self,
        secret: &SecretString,
        next: &SecretString,
    ) -> AuthReply {
        let body = json!({
            "client": self.client,
            "secret": secret.expose_secret(),
            "newSecret": next.expose_secret(),
        });
        self.send(AuthRequest::AnnounceSecret, self.post("/rotate", &body)).await
    }

    /// Ends the session of a token. A failure is ignored: the session expires anyway.
    pub(crate) async fn log_out(&self, token: &SecretString) {
        let request = without_body(self.http.request(Method::POST, "/logout"), Some(bearer(token)));
        let _ = self.http.fetch(request, ANSWER_TIMEOUT, ERROR_RESPONSE_BYTES_MAX).await;
    }

    /// Exchanges a token for a new one.
    pub(crate) async fn refresh(&self, token: &SecretString) -> AuthReply {
        let request =
            without_body(self.http.request(Method::POST, "/refresh"), Some(bearer(token)));
        self.send(AuthRequest::Refresh, request).await
    }

    fn post(&self, path: &str, body: &Value) -> Request<Full<Bytes>> {
        with_json(self.http.request(Method::POST, path), body)
    }

    async fn send(&self, kind: AuthRequest, request: Request<Full<Bytes>>) -> AuthReply {
        match self.http.fetch(request, ANSWER_TIMEOUT, ERROR_RESPONSE_BYTES_MAX).await {
            Ok(response) => self.read_response(kind, &response),
            Err(error) => {
                let url = self.http.service();
                let problem = match explain(&error) {
                    Some(why) => format!("failed to set up TLS with auth at {url}: {why}"),
                    None => format!("failed to reach auth at {url}: {}", error_chain(&error)),
                };
                AuthReply { answer: AuthAnswer::Unreachable, token: None, problem: Some(problem) }
            }
        }
    }

    fn read_response(&self, kind: AuthRequest, response: &http_client::HttpResponse) -> AuthReply {
        let http_client::HttpResponse { status, headers, body } = response;
        if *status == StatusCode::OK
            && let Some(reply) = read_success(kind, body)
        {
            return reply;
        }
        let error = ErrorResponse::new(*status, headers, body);
        let answer = match (kind, *status) {
            _ if error.is_unavailable() && error.retry_after.is_some() => {
                AuthAnswer::Unavailable { retry_after: error.retry_after.unwrap_or_default() }
            }
            _ if error.is_busy() => AuthAnswer::Busy { retry_after: error.retry_after },
            (AuthRequest::Register, StatusCode::FORBIDDEN)
            | (
                AuthRequest::LogIn | AuthRequest::Refresh | AuthRequest::AnnounceSecret,
                StatusCode::UNAUTHORIZED,
            ) => AuthAnswer::Refused { date_ms: error.date_ms },
            _ => AuthAnswer::Odd,
        };
        let url = self.http.service();
        let response = error;
        let problem = match answer {
            AuthAnswer::Odd => format!("unexpected response from {url}, expected auth: {response}"),
            _ => format!("auth at {url} answered {response}"),
        };
        AuthReply { answer, token: None, problem: Some(problem) }
    }
}

fn read_success(kind: AuthRequest, body: &[u8]) -> Option<AuthReply> {
    match kind {
        // Any JSON object. The page of a captive portal is not one.
        AuthRequest::Register | AuthRequest::AnnounceSecret => {
            serde_json::from_slice::<serde_json::Map<String, Value>>(body).ok()?;
            let is_rotation = matches!(kind, AuthRequest::AnnounceSecret);
            let answer =
                if is_rotation { AuthAnswer::SecretAccepted } else { AuthAnswer::Registered };
            Some(AuthReply { answer, token: None, problem: None })
        }
        AuthRequest::LogIn | AuthRequest::Refresh => {
            let session: LoginResponseBody = serde_json::from_slice(body).ok()?;
            let is_token = |byte: u8| byte.is_ascii_graphic();
            if session.session_token.is_empty() || !session.session_token.bytes().all(is_token) {
                return None;
            }
            let ttl = Duration::from_secs(session.ttl_seconds.min(TTL_SECONDS_MAX));
            let token = Some(session.session_token.into());
            Some(AuthReply { answer: AuthAnswer::Session { ttl }, token, problem: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_response_in_the_format_of_auth_is_accepted() {
        let answer = |kind, body: &str| read_success(kind, body.as_bytes()).map(|r| r.answer);
        let day = AuthAnswer::Session { ttl: Duration::from_secs(86_400) };
        let session = r#"{"sessionToken":"abc","ttlSeconds":86400}"#;
        assert_eq!(answer(AuthRequest::LogIn, session), Some(day));
        assert_eq!(answer(AuthRequest::Refresh, session), Some(day));
        assert_eq!(
            answer(AuthRequest::Register, r#"{"client":"dev1"}"#),
            Some(AuthAnswer::Registered)
        );
        for (kind, body) in [
            (AuthRequest::Register, "<html>log in to the guest network</html>"),
            (AuthRequest::Register, ""),
            (AuthRequest::LogIn, "{}"),
            (AuthRequest::LogIn, r#"{"sessionToken":"","ttlSeconds":1}"#),
            (AuthRequest::LogIn, r#"{"sessionToken":"a\r\nb","ttlSeconds":1}"#),
            (AuthRequest::LogIn, r#"{"sessionToken":"a","ttlSeconds":-1}"#),
        ] {
            assert_eq!(answer(kind, body), None, "{body}");
        }
    }
}
