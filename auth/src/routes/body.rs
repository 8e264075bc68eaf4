//! The body of a request: named texts, as JSON or as a form. Every refusal names the field.

use std::fmt::Display;

use axum::extract::{FromRequest, Request};
use http::StatusCode;
use secrecy::SecretString;
use serde_json::{Map, Value};
use spoke_protocol::client_id::ClientId;
use spoke_service::{
    api_error::{ApiError, JsonOrForm},
    limits::HANDSHAKE_TIMEOUT,
};

/// Texts by name.
#[derive(Debug)]
pub(super) struct Body(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    /// Waits for the body no longer than for a handshake: it is a few hundred bytes.
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

impl Body {
    /// The client's name.
    pub(super) fn client(&mut self) -> Result<ClientId, ApiError> {
        let text = self.text("client")?;
        text.parse().map_err(|error| malformed("client", error))
    }

    /// A text that is nobody else's business.
    pub(super) fn secret(&mut self, field: &'static str) -> Result<SecretString, ApiError> {
        Ok(self.text(field)?.into())
    }

    /// Whether there is such a field.
    pub(super) fn has(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// Takes a text out of the body.
    pub(super) fn text(&mut self, field: &'static str) -> Result<String, ApiError> {
        match self.0.remove(field) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(malformed(field, "it must be a string")),
            None => Err(malformed(field, "it is missing")),
        }
    }
}

/// A field that is not as it must be. `why` never holds the value.
pub(super) fn malformed(field: &'static str, why: impl Display) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", format!("`{field}`: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(value: Value) -> Body {
        Body(value.as_object().unwrap().clone())
    }

    #[test]
    fn a_refusal_names_the_field_and_never_its_value() {
        for (value, word) in [
            (json!({}), "missing"),
            (json!({ "client": 7 }), "string"),
            (json!({ "client": ["a"] }), "string"),
            (json!({ "client": "x y" }), "characters"),
        ] {
            let refusal = body(value).client().unwrap_err();
            assert_eq!((refusal.status.as_u16(), refusal.reason), (400, "malformed"));
            assert!(refusal.message.contains("`client`"), "{}", refusal.message);
            assert!(refusal.message.contains(word), "{}", refusal.message);
            assert!(!refusal.message.contains("x y"), "{}", refusal.message);
        }
    }
}
