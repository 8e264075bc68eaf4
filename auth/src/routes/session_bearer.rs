//! The session token of a request: in the Authorization header and nowhere else.

use axum::extract::FromRequestParts;
use http::{StatusCode, header::AUTHORIZATION, request::Parts};
use spoke_service::{api_error::ApiError, bearer_token};

use crate::session_token::SessionToken;

/// The token of a request, live or not.
pub(super) struct SessionBearer(pub(super) SessionToken);

impl<S: Sync> FromRequestParts<S> for SessionBearer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        if !parts.headers.contains_key(AUTHORIZATION) {
            return Err(no_session("missing token; send it as Authorization: Bearer <token>"));
        }
        let token = bearer_token(&parts.headers).and_then(SessionToken::parse);
        token.map(Self).ok_or_else(session_ended)
    }
}

/// Returns the response to a token that was never issued, has ended, or belongs to a revoked client.
pub(super) fn session_ended() -> ApiError {
    no_session("this session is unknown or has ended; log in again")
}

fn no_session(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "no-session", message)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[tokio::test]
    async fn a_token_is_read_only_from_a_bearer_header() {
        let token = SessionToken::generate().unwrap();
        let text = token.expose();
        let token_of = |header: &str| {
            let request = Request::builder().header(AUTHORIZATION, header).body(()).unwrap();
            let mut parts = request.into_parts().0;
            async move { SessionBearer::from_request_parts(&mut parts, &()).await }
        };
        for good in [format!("Bearer {text}"), format!("bearer {text}"), format!("BEARER  {text} ")]
        {
            let SessionBearer(found) = token_of(&good).await.unwrap();
            assert_eq!(found.expose(), text, "{good}");
        }
        for bad in
            ["", "Bearer", "Bearer ", text, &format!("Basic {text}"), &format!("Bearer{text}")]
        {
            assert!(token_of(bad).await.is_err(), "{bad}");
        }
    }
}
