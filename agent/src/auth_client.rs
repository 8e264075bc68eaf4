//! Asking auth: register, log in, refresh.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use spoke_diagnostics::{error_chain::error_chain, tls_error::explain};
use spoke_protocol::client_id::ClientId;

use crate::{
    config::Account,
    denial::{DENIAL_BYTES_MAX, Denial},
    dial::Dialer,
    enrolment::Answer,
    http_client::{self, Http, plain, with_json},
};

/// Auth may keep a login waiting for a bcrypt.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Tokens that live longer than a year are no sessions.
const TTL_SECONDS_MAX: u64 = 366 * 24 * 60 * 60;

/// The way to auth.
#[derive(Debug, Clone)]
pub struct Auth {
    http: Http,
    client: ClientId,
}

/// What came of a question.
#[derive(Debug)]
pub struct Reply {
    /// What the enrolment makes of it.
    pub answer: Answer,
    /// The new token, where there is one.
    pub token: Option<SecretString>,
    /// What a person should read, where it did not go well.
    pub problem: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionBody {
    session_token: String,
    ttl_seconds: u64,
}

#[derive(Clone, Copy)]
enum Question {
    Register,
    LogIn,
    Refresh,
    Tell,
}

impl Auth {
    /// Does not connect yet.
    pub fn new(account: &Account, dialer: &Dialer) -> Self {
        Self { http: Http::new(dialer, &account.auth), client: account.client.clone() }
    }

    /// Makes the device's secret known, with a proof that is good for it only.
    pub async fn register(&self, secret: &SecretString, proof: &SecretString) -> Reply {
        let body = json!({
            "client": self.client,
            "secret": secret.expose_secret(),
            "proof": proof.expose_secret(),
        });
        self.ask(Question::Register, self.post("/register", &body)).await
    }

    /// Trades the secret for a token.
    pub async fn log_in(&self, secret: &SecretString) -> Reply {
        let body = json!({ "client": self.client, "secret": secret.expose_secret() });
        self.ask(Question::LogIn, self.post("/login", &body)).await
    }

    /// Tells the secret that the device wants to have next.
    pub async fn tell_next(&self, secret: &SecretString, next: &SecretString) -> Reply {
        let body = json!({
            "client": self.client,
            "secret": secret.expose_secret(),
            "newSecret": next.expose_secret(),
        });
        self.ask(Question::Tell, self.post("/rotate", &body)).await
    }

    /// Ends the session of a token; that it ends by itself one day will do, too.
    pub async fn log_out(&self, token: &SecretString) {
        let request = plain(self.http.request(Method::POST, "/logout"), Some(bearer(token)));
        let _ = self.http.ask(request, ANSWER_TIMEOUT, DENIAL_BYTES_MAX).await;
    }

    /// Trades a token for a new one.
    pub async fn refresh(&self, token: &SecretString) -> Reply {
        let request = plain(self.http.request(Method::POST, "/refresh"), Some(bearer(token)));
        self.ask(Question::Refresh, request).await
    }

    fn post(&self, path: &str, body: &Value) -> Request<Full<Bytes>> {
        with_json(self.http.request(Method::POST, path), body)
    }

    async fn ask(&self, question: Question, request: Request<Full<Bytes>>) -> Reply {
        match self.http.ask(request, ANSWER_TIMEOUT, DENIAL_BYTES_MAX).await {
            Ok(answer) => self.read(question, &answer),
            Err(error) => {
                let url = self.http.service();
                let problem = match explain(&error) {
                    Some(why) => format!("failed to set up TLS with auth at {url}: {why}"),
                    None => format!("failed to reach auth at {url}: {}", error_chain(&error)),
                };
                Reply { answer: Answer::Unreachable, token: None, problem: Some(problem) }
            }
        }
    }

    fn read(&self, question: Question, answer: &http_client::Answer) -> Reply {
        let http_client::Answer { status, headers, body } = answer;
        if *status == StatusCode::OK
            && let Some(reply) = read_good(question, body)
        {
            return reply;
        }
        let denial = Denial::new(*status, headers, body);
        let answer = match (question, *status) {
            _ if denial.is_unavailable() && denial.retry_after.is_some() => {
                Answer::Unavailable { retry_after: denial.retry_after.unwrap_or_default() }
            }
            _ if denial.is_busy() => Answer::Busy { retry_after: denial.retry_after },
            (Question::Register, StatusCode::FORBIDDEN)
            | (Question::LogIn | Question::Refresh | Question::Tell, StatusCode::UNAUTHORIZED) => {
                Answer::Refused { date_ms: denial.date_ms }
            }
            _ => Answer::Odd,
        };
        let url = self.http.service();
        let problem = match answer {
            Answer::Odd => format!("{url} answered {denial}, which auth does not"),
            _ => format!("auth at {url} answered {denial}"),
        };
        Reply { answer, token: None, problem: Some(problem) }
    }
}

/// The value of the `Authorization` header.
pub(crate) fn bearer(token: &SecretString) -> http::HeaderValue {
    let text = format!("Bearer {}", token.expose_secret());
    let mut value = http::HeaderValue::from_str(&text).expect("a token was checked when it came");
    value.set_sensitive(true);
    value
}

fn read_good(question: Question, body: &[u8]) -> Option<Reply> {
    match question {
        // Any object: a captive portal's page is none.
        Question::Register | Question::Tell => {
            serde_json::from_slice::<serde_json::Map<String, Value>>(body).ok()?;
            let is_told = matches!(question, Question::Tell);
            let answer = if is_told { Answer::Told } else { Answer::Registered };
            Some(Reply { answer, token: None, problem: None })
        }
        Question::LogIn | Question::Refresh => {
            let session: SessionBody = serde_json::from_slice(body).ok()?;
            let is_token = |byte: u8| byte.is_ascii_graphic();
            if session.session_token.is_empty() || !session.session_token.bytes().all(is_token) {
                return None;
            }
            let ttl = Duration::from_secs(session.ttl_seconds.min(TTL_SECONDS_MAX));
            let token = Some(session.session_token.into());
            Some(Reply { answer: Answer::Session { ttl }, token, problem: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_auth_says_is_taken_for_its_answer() {
        let answer = |question, body: &str| read_good(question, body.as_bytes()).map(|r| r.answer);
        let day = Answer::Session { ttl: Duration::from_secs(86_400) };
        let session = r#"{"sessionToken":"abc","ttlSeconds":86400}"#;
        assert_eq!(answer(Question::LogIn, session), Some(day));
        assert_eq!(answer(Question::Refresh, session), Some(day));
        assert_eq!(answer(Question::Register, r#"{"client":"dev1"}"#), Some(Answer::Registered));
        for (question, body) in [
            (Question::Register, "<html>log in to the guest network</html>"),
            (Question::Register, ""),
            (Question::LogIn, "{}"),
            (Question::LogIn, r#"{"sessionToken":"","ttlSeconds":1}"#),
            (Question::LogIn, r#"{"sessionToken":"a\r\nb","ttlSeconds":1}"#),
            (Question::LogIn, r#"{"sessionToken":"a","ttlSeconds":-1}"#),
        ] {
            assert_eq!(answer(question, body), None, "{body}");
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = SecretString::from("s3cret");
        assert!(!format!("{:?}", bearer(&token)).contains("s3cret"));
    }
}
