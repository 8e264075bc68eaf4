//! Authenticates requests by the bearer token in the `Authorization` header. A token in a URL is
//! refused, since URLs are logged.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::request::Parts,
};
use http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use secrecy::SecretString;
use spoke_protocol::{ClientId, EntryRate, Epoch, wire::json::GENERATION_HEADER};
use spoke_service::{
    api_error::ApiError,
    bearer_token,
    server::{AuthenticatedGuard, ConnectionHandle},
};
use spoke_store::{CopyStore, session_tokens::SessionClient};

use crate::{client_limits::RequestGuard, quota::RatedClient, state::HubState};

/// Query parameters that clients mistakenly use for tokens.
const TOKEN_PARAMETERS: [&str; 5] =
    ["token", "access_token", "sessionToken", "session_token", "bearer"];

/// Authenticated client of a request. All reads and writes are limited to this client's streams.
#[derive(Clone)]
pub(crate) struct Caller {
    /// Client of the session.
    pub client: ClientId,
    /// Registration that the session belongs to, in milliseconds since 1970; 0 if unknown.
    pub registered_at_ms: u64,
    /// Rate that auth has for the client, if any.
    pub rate: Option<EntryRate>,
    /// Generation from the `Spoke-Generation` header, if present.
    pub generation: Option<u64>,
    /// Session token, to query it again.
    pub token: SecretString,
    /// Permits held while the request is open.
    pub permits: Option<Arc<RequestPermits>>,
}

/// Permits that a request holds, and the authenticated state of its connection.
pub(crate) struct RequestPermits {
    request: RequestGuard,
    _vouched: AuthenticatedGuard,
}

impl Caller {
    /// Authenticates a token on this connection.
    ///
    /// # Errors
    /// 401 for an invalid token, 429 if the client has too many open requests, 503 if Redis fails.
    pub(crate) async fn from_token(
        hub: &HubState,
        token: SecretString,
        place: &ConnectionHandle,
    ) -> Result<Self, ApiError> {
        hub.check_partitions()?;
        // Keeps the connection from eviction while the token is checked.
        let vouched = place.mark_authenticated();
        let found = hub.store_result(hub.sessions.find_client(&token).await)?;
        let Some(SessionClient { client, registered_at_ms, rate, .. }) = found else {
            return Err(unauthorized(hub));
        };
        let request = hub.client_limits.open_request(&client, Instant::now())?;
        let permits = Some(Arc::new(RequestPermits { request, _vouched: vouched }));
        Ok(Self { client, registered_at_ms, rate, generation: None, token, permits })
    }

    /// Returns the in stream, for entries that the client sends in the session of this generation.
    pub(crate) fn copy(&self, hub: &HubState, generation: Option<u64>) -> CopyStore {
        let partition = hub.partitions.of(&self.client);
        let client = (&self.client, self.registered_at_ms);
        let guard = hub.copy_quotas.client(&self.client, Instant::now());
        CopyStore::hub(partition.writer.clone(), partition.keys(), client, generation, guard)
    }

    /// Returns the client with its rate.
    pub(crate) fn rated(&self) -> RatedClient {
        RatedClient { client: self.client.clone(), rate: self.rate }
    }

    /// Counts a session that this request starts.
    ///
    /// # Errors
    /// 429 if the client started too many sessions recently.
    pub(crate) fn begin_session(&self) -> Result<(), ApiError> {
        let permits = self.permits.as_ref();
        permits.map_or(Ok(()), |permits| permits.request.begin_session(Instant::now()))
    }

    /// Returns a copy without the permits of the finished request.
    pub(crate) fn without_permits(&self) -> Self {
        Self { permits: None, ..self.clone() }
    }
}

impl FromRequestParts<Arc<HubState>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<HubState>) -> Result<Self, ApiError> {
        refuse_token_in_url(parts.uri.query())?;
        let token = bearer_token(&parts.headers).ok_or_else(|| unauthorized(hub))?;
        let token = SecretString::from(token.to_owned());
        let generation = generation(&parts.headers)?;
        let place = parts
            .extensions
            .get::<ConnectionHandle>()
            .expect("the listener adds it to every request");
        Ok(Self { generation, ..Self::from_token(hub, token, place).await? })
    }
}

/// For a route that also accepts the token elsewhere. Returns `None` without an `Authorization`
/// header.
impl OptionalFromRequestParts<Arc<HubState>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        hub: &Arc<HubState>,
    ) -> Result<Option<Self>, ApiError> {
        refuse_token_in_url(parts.uri.query())?;
        if !parts.headers.contains_key(AUTHORIZATION) {
            return Ok(None);
        }
        <Self as FromRequestParts<Arc<HubState>>>::from_request_parts(parts, hub).await.map(Some)
    }
}

/// Returns the refusal of a request without a valid token. Unknown and ended sessions get the same
/// answer.
pub(crate) fn unauthorized(hub: &HubState) -> ApiError {
    hub.metrics.unauthorized.add(1);
    let message = "missing or invalid token: expected the token of an active session in the header \
                   Authorization: Bearer …";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

fn generation(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(GENERATION_HEADER) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let message = "invalid header Spoke-Generation: expected an integer of at most 64 bits";
    number.map(Some).ok_or_else(|| malformed(message))
}

fn refuse_token_in_url(query: Option<&str>) -> Result<(), ApiError> {
    let names = query.unwrap_or("").split('&').filter_map(|pair| pair.split('=').next());
    for name in names {
        if TOKEN_PARAMETERS.iter().any(|token| token.eq_ignore_ascii_case(name)) {
            let message = "token found in the URL, where it is logged; end that session and send the \
                           token in the header Authorization: Bearer …";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "token-in-url", message));
        }
    }
    Ok(())
}

/// Returns the refusal of a request with an invalid format.
pub(crate) fn malformed(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", message)
}

/// Parses an epoch from a query parameter.
pub(crate) fn epoch(text: &str) -> Option<Epoch> {
    text.parse().ok().map(Epoch).filter(|epoch| *epoch <= Epoch::MAX)
}
