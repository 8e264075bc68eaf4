//! Whose request it is: the bearer token in the header, and never in a URL, since URLs are logged.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::request::Parts,
};
use http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use secrecy::SecretString;
use spoke_protocol::{client_id::ClientId, seq::Epoch, wire::json::GENERATION_HEADER};
use spoke_service::{
    api_error::ApiError,
    server::{AuthenticatedGuard, ConnectionHandle},
};
use spoke_store::session_tokens::SessionClient;

use crate::{hub::Hub, share::InHand};

/// Names under which people put tokens into URLs.
const IN_URL: [&str; 5] = ["token", "access_token", "sessionToken", "session_token", "bearer"];

/// Who makes a request. All that is read or written is this client's.
#[derive(Clone)]
pub struct Caller {
    /// The session's client.
    pub client: ClientId,
    /// The registration that its session belongs to, in milliseconds since 1970; 0 if it has none.
    pub registered_at_ms: u64,
    /// The session that the request belongs to, where it says so.
    pub generation: Option<u64>,
    /// The token, to look it up again.
    pub token: SecretString,
    /// Held while the request is in hand.
    pub held: Option<Arc<Held>>,
}

/// What a request takes up of the hub, and what its connection gains by it.
pub struct Held {
    in_hand: InHand,
    _vouched: AuthenticatedGuard,
}

impl Caller {
    /// Who this token lets in, on the connection at this place.
    ///
    /// # Errors
    /// 401 if it lets nobody in, 429 if that one has too much in hand, 503 if that cannot be found out.
    pub async fn of_token(
        hub: &Hub,
        token: SecretString,
        place: &ConnectionHandle,
    ) -> Result<Self, ApiError> {
        // Whoever waits for our own look is not to make room meanwhile.
        let vouched = place.vouch();
        let found = hub.checked(hub.sessions.find_client(&token).await)?;
        let Some(SessionClient { client, registered_at_ms, .. }) = found else {
            return Err(unauthorized(hub));
        };
        let in_hand = hub.shares.enter(&client, Instant::now())?;
        let held = Some(Arc::new(Held { in_hand, _vouched: vouched }));
        Ok(Self { client, registered_at_ms, generation: None, token, held })
    }

    /// Counts a session that this request begins.
    ///
    /// # Errors
    /// 429 if the client has begun too many of late.
    pub fn begin_session(&self) -> Result<(), ApiError> {
        let held = self.held.as_ref();
        held.map_or(Ok(()), |held| held.in_hand.begin_session(Instant::now()))
    }

    /// The same without its request, which is over.
    pub fn settled(&self) -> Self {
        Self { held: None, ..self.clone() }
    }
}

impl FromRequestParts<Hub> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, hub: &Hub) -> Result<Self, ApiError> {
        refuse_token_in_url(parts.uri.query())?;
        let token = bearer(&parts.headers).ok_or_else(|| unauthorized(hub))?;
        let generation = generation(&parts.headers)?;
        let place = parts
            .extensions
            .get::<ConnectionHandle>()
            .expect("the listener gives every request one");
        Ok(Self { generation, ..Self::of_token(hub, token, place).await? })
    }
}

/// For a route that takes the token elsewhere too: none without an `Authorization` header.
impl OptionalFromRequestParts<Hub> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, hub: &Hub) -> Result<Option<Self>, ApiError> {
        refuse_token_in_url(parts.uri.query())?;
        if !parts.headers.contains_key(AUTHORIZATION) {
            return Ok(None);
        }
        <Self as FromRequestParts<Hub>>::from_request_parts(parts, hub).await.map(Some)
    }
}

/// Nobody, or nobody any more: the same answer for both.
pub fn unauthorized(hub: &Hub) -> ApiError {
    hub.metrics.unauthorized.add(1);
    let message = "this needs the token of a live session in the header Authorization: Bearer …";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty())
        .then(|| token.trim().to_owned().into())
}

fn generation(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(GENERATION_HEADER) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let message = "the header Spoke-Generation is a whole number of at most 64 bits";
    number.map(Some).ok_or_else(|| malformed(message))
}

fn refuse_token_in_url(query: Option<&str>) -> Result<(), ApiError> {
    let names = query.unwrap_or("").split('&').filter_map(|pair| pair.split('=').next());
    for name in names {
        if IN_URL.iter().any(|token| token.eq_ignore_ascii_case(name)) {
            let message = "a token does not belong in a URL, since URLs are logged; end that \
                           session and send the token in the header Authorization: Bearer …";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "token-in-url", message));
        }
    }
    Ok(())
}

/// A request that is not of its form.
pub fn malformed(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", message)
}

/// An epoch from a query.
pub fn epoch(text: &str) -> Option<Epoch> {
    text.parse().ok().map(Epoch).filter(|epoch| *epoch <= Epoch::MAX)
}
