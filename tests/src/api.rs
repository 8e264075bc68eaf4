//! A plain HTTP client of the services, which checks the form of every refusal.

use std::{net::SocketAddr, sync::LazyLock};

use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::wait::PATIENCE;

/// One HTTP server, with or without a session.
#[derive(Clone)]
pub struct Api {
    address: SocketAddr,
    token: Option<String>,
    client: reqwest::Client,
}

/// A complete response.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub text: String,
}

static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
    install_tls();
    // Each test has its own runtime, and a pooled connection ends with the runtime that made it.
    let builder = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
    builder.timeout(PATIENCE).build().expect("a client can be made")
});

/// Chooses the one TLS provider of the project for this process.
pub fn install_tls() {
    // It fails if it was installed before, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Api {
    /// A client of the server at this address, without a token.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, token: None, client: CLIENT.clone() }
    }

    /// The same with a session token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its token.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Sends GET.
    ///
    /// # Panics
    /// If there is no answer; so do all methods below.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(self.request(Method::GET, path)).await
    }

    /// Sends POST without a body.
    pub async fn post(&self, path: &str) -> Answer {
        self.call(self.request(Method::POST, path)).await
    }

    /// Sends POST with a JSON body.
    pub async fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.call(self.request(Method::POST, path).json(body)).await
    }

    /// Sends POST with any body.
    pub async fn post_body(&self, path: &str, kind: &str, body: impl Into<Vec<u8>>) -> Answer {
        let request = self.request(Method::POST, path).header("content-type", kind);
        self.call(request.body(body.into())).await
    }

    /// Returns a request builder, to be sent by `call`.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("http://{}{path}", self.address));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request.
    pub async fn call(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_call(request).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Sends a request that may get no answer.
    ///
    /// # Errors
    /// If no complete answer comes.
    pub async fn try_call(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<Answer, reqwest::Error> {
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Answer { status, headers, text: answer.text().await? })
    }

    /// Sends raw bytes and returns everything until the server closes the connection.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream =
            TcpStream::connect(self.address).await.expect("the server accepts connections");
        // The server may refuse before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        // A reset after the answer also ends the connection.
        let _ = read.expect("the server closes in time");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The body of a 200 as JSON.
    ///
    /// # Panics
    /// If the status is not 200.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The status and reason of a refusal, after a check of its form: contract section 4.
    ///
    /// # Panics
    /// If it has another form.
    pub fn refusal(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(body["code"], self.status, "the code is the status: {self:?}");
        let message = body["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "a refusal has a message: {self:?}");
        let reason = body["reason"].as_str().unwrap_or_default();
        let is_word = |c: char| c.is_ascii_lowercase() || c == '-';
        assert!(!reason.is_empty() && reason.chars().all(is_word), "a reason is a word: {self:?}");
        if matches!(self.status, 429 | 503) {
            assert!(self.retry_after() >= Some(1), "it has Retry-After: {self:?}");
        }
        (self.status, reason.to_owned())
    }

    /// The message of a refusal.
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    /// `Retry-After` in seconds.
    pub fn retry_after(&self) -> Option<u64> {
        self.header("retry-after")?.parse().ok()
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
