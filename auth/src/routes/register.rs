//! `POST /register`: a device makes its secret known, with a one-time code or a proof, once only.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use http::StatusCode;
use serde_json::{Value, json};
use spoke_protocol::client_id::ClientId;
use spoke_service::{
    api_error::ApiError,
    server::{ConnectionHandle, PeerAddress},
};
use tracing::{debug, info};

use super::{
    body::{Body, malformed},
    now_ms,
};
use crate::{
    device_secret::DeviceSecret,
    rate_limit::{Action, Standing, Visit},
    registration::{Evidence, Guess, Offer, Plan, plan},
    state::{Service, visit},
    store::{Counted, Registered, Registration},
};

/// Somebody else was faster once; that the second look finds nothing to compare with either takes an
/// operator who provisions the client at that very moment.
const LOOKS: usize = 2;

/// How a registration ended.
enum Outcome {
    /// Just now.
    Registered,
    /// It had happened before, with the same secret.
    Repeated,
    Refused,
}

pub(super) async fn handle(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<PeerAddress>,
    Extension(place): Extension<ConnectionHandle>,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let offer = parse(body)?;
    let now_ms = now_ms();
    let plan = look(&service, &offer, now_ms).await?;
    // A right one is never held back for what strangers did; of wrong ones there are only so many.
    let standing = match plan.guess() {
        Guess::Right => Standing::Likely,
        Guess::Wrong => Standing::Stranger,
    };
    let visit = visit(Action::Register, peer, Some(&offer.client), standing);
    service.admit(&visit)?;
    let _vouched = place.vouch();
    match register(&service, &offer, &visit, plan, now_ms).await {
        Ok(outcome) => answer(&service, &offer.client, &visit, outcome),
        Err(refusal) => {
            service.handle_no_verdict(&visit);
            Err(refusal)
        }
    }
}

fn parse(mut body: Body) -> Result<Offer, ApiError> {
    let client = body.client()?;
    let secret = DeviceSecret::new(body.secret("secret")?);
    let secret = secret.map_err(|error| malformed("secret", error))?;
    let evidence = match (body.has("otp"), body.has("proof")) {
        (true, true) => return Err(malformed("proof", "it stands in the place of `otp`")),
        (false, true) => {
            let proof = body.text("proof")?.parse().map_err(|error| malformed("proof", error))?;
            Evidence::Proof(proof)
        }
        (_, false) => {
            Evidence::Code(body.text("otp")?.parse().map_err(|error| malformed("otp", error))?)
        }
    };
    Ok(Offer { client, secret, evidence })
}

/// What to do, once the code or proof was looked at and a wrong one counted.
async fn look(service: &Service, offer: &Offer, now_ms: u64) -> Result<Plan, ApiError> {
    let client = &offer.client;
    let attempt = service.answered(service.store.attempt(client, now_ms).await)?;
    let plan = plan(&attempt, offer, now_ms);
    let deadline_ms = attempt.record.as_ref().and_then(|record| record.reg_deadline_ms);
    match (plan.guess(), attempt.counted, deadline_ms) {
        (Guess::Right, Counted::Wrong { .. }, Some(deadline_ms)) => {
            service.answered(service.store.forgive(client, deadline_ms).await)?;
        }
        (Guess::Right, ..) => {}
        (Guess::Wrong, counted, _) => service.handle_wrong_code(client, counted),
    }
    Ok(plan)
}

async fn register(
    service: &Service,
    offer: &Offer,
    visit: &Visit,
    mut plan: Plan,
    now_ms: u64,
) -> Result<Outcome, ApiError> {
    let (party, client, secret) = (visit.party(), &offer.client, &offer.secret);
    for _ in 0..LOOKS {
        match plan {
            Plan::Register { otp_secret, step } => {
                let hash = service.pool.hash(&party, secret.clone()).await;
                let registration = Registration {
                    client,
                    otp_secret: &otp_secret,
                    step,
                    now_ms,
                    secret_hash: &service.hashed(hash)?,
                    secret_tag: &secret.tag(),
                };
                match service.answered(service.store.register(&registration).await)? {
                    Registered::Yes => return Ok(Outcome::Registered),
                    Registered::Taken => {}
                    Registered::No => return Ok(Outcome::Refused),
                }
            }
            Plan::Compare { secret_hash, .. } => {
                let secret = Some(secret.clone());
                let is_same = service.pool.is_behind(&party, secret, Some(secret_hash)).await;
                return Ok(match service.hashed(is_same)? {
                    true => Outcome::Repeated,
                    false => Outcome::Refused,
                });
            }
            Plan::Refuse { .. } => {
                service.hashed(service.pool.hash(&party, secret.clone()).await)?;
                return Ok(Outcome::Refused);
            }
        }
        plan = look(service, offer, now_ms).await?;
    }
    Ok(Outcome::Refused)
}

fn answer(
    service: &Service,
    client: &ClientId,
    visit: &Visit,
    outcome: Outcome,
) -> Result<Json<Value>, ApiError> {
    let (site, standing) = (visit.site, visit.standing);
    match outcome {
        Outcome::Registered => info!(%client, %site, "client registered"),
        Outcome::Repeated => debug!(%client, %site, "registration repeated"),
        Outcome::Refused => {
            debug!(%client, %site, ?standing, "registration refused");
            // Devices that all hold the right code, and of which all but one come too late, do not guess.
            if standing == Standing::Likely {
                service.handle_no_verdict(visit);
            }
            return Err(refused());
        }
    }
    service.handle_success(visit);
    Ok(Json(json!({ "client": client })))
}

/// The one answer, whatever the cause.
fn refused() -> ApiError {
    let message = "registration refused: the client is unknown, the code is wrong or was used before, \
                   the deadline has passed, or the client is registered already";
    ApiError::new(StatusCode::FORBIDDEN, "refused", message)
}
