//! The body of a request: named strings, as JSON or as a form. Every error names the field.

use std::fmt::Display;

use axum::extract::{FromRequest, Request};
use http::StatusCode;
use secrecy::SecretString;
use serde_json::{Map, Value};
use spoke_protocol::ClientId;
use spoke_service::{
    api_error::{ApiError, JsonOrForm},
    limits::HANDSHAKE_TIMEOUT,
};

/// Strings by name.
#[derive(Debug)]
pub(super) struct AuthBody(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for AuthBody {
    type Rejection = ApiError;

    /// Waits for the body as long as for a handshake: it is a few hundred bytes.
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = JsonOrForm::from_request(request, state);
        let JsonOrForm(fields) =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, body).await.map_err(|_| {
                let message = "the body did not arrive in time";
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message)
            })??;
        Ok(Self(fields))
    }
}

impl AuthBody {
    /// Takes the client's name.
    pub(super) fn client(&mut self) -> Result<ClientId, ApiError> {
        let text = self.text("client")?;
        text.parse().map_err(|error| malformed("client", error))
    }

    /// Takes a secret.
    pub(super) fn secret(&mut self, field: &'static str) -> Result<SecretString, ApiError> {
        Ok(self.text(field)?.into())
    }

    /// Returns whether the field exists.
    pub(super) fn has(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// Takes a string.
    pub(super) fn text(&mut self, field: &'static str) -> Result<String, ApiError> {
        match self.0.remove(field) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(malformed(field, "expected a string")),
            None => Err(malformed(field, "missing")),
        }
    }
}

/// Returns the error for an invalid field. `why` never holds the value.
pub(super) fn malformed(field: &'static str, why: impl Display) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", format!("`{field}`: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(value: Value) -> AuthBody {
        AuthBody(value.as_object().unwrap().clone())
    }

    #[test]
    fn an_error_names_the_field_and_never_its_value() {
        for (value, problem) in [
            (json!({}), "missing"),
            (json!({ "client": 7 }), "string"),
            (json!({ "client": ["a"] }), "string"),
            (json!({ "client": "x y" }), "characters"),
        ] {
            let error = body(value).client().unwrap_err();
            assert_eq!((error.status.as_u16(), error.reason), (400, "malformed"));
            assert!(error.message.contains("`client`"), "{}", error.message);
            assert!(error.message.contains(problem), "{}", error.message);
            assert!(!error.message.contains("x y"), "{}", error.message);
        }
    }
}
