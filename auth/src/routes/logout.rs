//! `POST /logout`: ends the session whose token is sent. One that has ended already is no fault.

use std::sync::Arc;

use axum::{Extension, extract::State};
use http::StatusCode;
use spoke_service::{api_error::ApiError, server::PeerAddress};
use tracing::debug;

use super::bearer::Bearer;
use crate::{
    rate_limit::{Action, Standing},
    state::{Service, visit},
};

pub(super) async fn handle(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<PeerAddress>,
    Bearer(token): Bearer,
) -> Result<StatusCode, ApiError> {
    let Some(client) = service.answered(service.store.client_of(&token).await)? else {
        service.admit(&visit(Action::Session, peer, None, Standing::Stranger))?;
        return Ok(StatusCode::NO_CONTENT);
    };
    service.admit(&visit(Action::Session, peer, Some(&client), Standing::Likely))?;
    if service.answered(service.store.log_out(&client, &token).await)? {
        debug!(%client, "client logged out");
    }
    Ok(StatusCode::NO_CONTENT)
}
