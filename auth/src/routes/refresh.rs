//! `POST /refresh`: a new session for the holder of a live one, without bcrypt. It is what ten
//! thousand devices use after an outage.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use spoke_service::{api_error::ApiError, server::PeerAddress};
use tracing::debug;

use super::{
    bearer::{Bearer, ended},
    session_answer,
};
use crate::{
    rate_limit::{Action, Standing},
    session_token::SessionToken,
    state::{Service, visit},
};

pub(super) async fn handle(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<PeerAddress>,
    Bearer(live): Bearer,
) -> Result<Response, ApiError> {
    // The token is looked at first: only a false one is measured by its address.
    let Some(client) = service.answered(service.store.client_of(&live).await)? else {
        service.admit(&visit(Action::Session, peer, None, Standing::Stranger))?;
        return Err(ended());
    };
    service.admit(&visit(Action::Session, peer, Some(&client), Standing::Likely))?;
    let new = SessionToken::generate().map_err(Service::no_randomness)?;
    match service.answered(service.store.refresh(&client, &live, &new).await)? {
        true => {
            debug!(%client, "session refreshed");
            Ok(session_answer(&service, &new))
        }
        false => Err(ended()),
    }
}
