//! The session token of a request: in the Authorization header and nowhere else.

use axum::extract::FromRequestParts;
use http::{StatusCode, header::AUTHORIZATION, request::Parts};
use spoke_service::api_error::ApiError;

use crate::session_token::SessionToken;

/// The token that came with a request, live or not.
pub(super) struct Bearer(pub(super) SessionToken);

impl<S: Sync> FromRequestParts<S> for Bearer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let header = parts.headers.get(AUTHORIZATION).ok_or_else(|| {
            no_session("there is no token; send it as Authorization: Bearer <token>")
        })?;
        let token = header.to_str().ok().and_then(token_of).ok_or_else(ended)?;
        Ok(Self(token))
    }
}

/// The one answer to a token that was never given out, has ended, or is its client's no more.
pub(super) fn ended() -> ApiError {
    no_session("this session is unknown or has ended; log in again")
}

fn no_session(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "no-session", message)
}

fn token_of(header: &str) -> Option<SessionToken> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| SessionToken::parse(token.trim()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_from_a_bearer_header_only() {
        let token = SessionToken::generate().unwrap();
        let text = token.expose();
        for good in [format!("Bearer {text}"), format!("bearer {text}"), format!("BEARER  {text} ")]
        {
            assert_eq!(token_of(&good).unwrap().expose(), text, "{good}");
        }
        for bad in
            ["", "Bearer", "Bearer ", text, &format!("Basic {text}"), &format!("Bearer{text}")]
        {
            assert!(token_of(bad).is_none(), "{bad}");
        }
    }
}
