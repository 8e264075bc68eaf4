//! `POST /register`: a device makes its secret known, with a one-time code, once only.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use http::StatusCode;
use serde_json::{Value, json};
use spoke_shared::{
    client::ClientId,
    refusal::Refusal,
    serve::{PeerAddress, Place},
};
use tracing::{debug, info};

use super::{
    body::{Body, malformed},
    now_ms,
};
use crate::{
    passcode::Passcode,
    registration::{Guess, Plan, plan},
    secret::DeviceSecret,
    service::{Service, visit},
    store::{Registered, Registration},
    throttle::{Action, Visit},
};

/// Somebody else was faster once; that the second look finds nothing to compare with either takes an
/// operator who provisions the client at that very moment.
const LOOKS: usize = 2;

struct Offer {
    client: ClientId,
    secret: DeviceSecret,
    code: Passcode,
}

/// How a registration ended.
enum Outcome {
    /// Just now.
    Registered,
    /// It had happened before, with the same secret.
    Repeated,
    Refused(Guess),
}

pub(super) async fn handle(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<PeerAddress>,
    Extension(place): Extension<Place>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let offer = parse(body)?;
    let visit = visit(Action::Register, peer, Some(&offer.client));
    service.admit(&visit)?;
    let _vouched = place.vouch();
    let outcome = register(&service, &offer, now_ms()).await?;
    answer(&service, &offer.client, &visit, outcome)
}

fn parse(mut body: Body) -> Result<Offer, Refusal> {
    let client = body.client()?;
    let secret = DeviceSecret::new(body.secret("secret")?);
    let secret = secret.map_err(|error| malformed("secret", error))?;
    let code = body.text("otp")?.parse().map_err(|error| malformed("otp", error))?;
    Ok(Offer { client, secret, code })
}

async fn register(service: &Service, offer: &Offer, now_ms: u64) -> Result<Outcome, Refusal> {
    for _ in 0..LOOKS {
        let record = service.answered(service.store.client(&offer.client).await)?;
        match plan(record.as_ref(), &offer.code, now_ms) {
            Plan::Register { otp_secret, step } => {
                let secret_hash = service.hashed(service.pool.hash(offer.secret.clone()).await)?;
                let registration = Registration {
                    client: &offer.client,
                    otp_secret: &otp_secret,
                    step,
                    now_ms,
                    secret_hash: &secret_hash,
                };
                match service.answered(service.store.register(&registration).await)? {
                    Registered::Yes => return Ok(Outcome::Registered),
                    Registered::Taken => continue,
                    Registered::No => return Ok(Outcome::Refused(Guess::Right)),
                }
            }
            Plan::Compare { secret_hash, guess } => {
                let secret = Some(offer.secret.clone());
                let is_same = service.pool.is_behind(secret, Some(secret_hash)).await;
                return Ok(match service.hashed(is_same)? {
                    true => Outcome::Repeated,
                    false => Outcome::Refused(guess),
                });
            }
            Plan::Refuse { guess } => {
                service.hashed(service.pool.hash(offer.secret.clone()).await)?;
                return Ok(Outcome::Refused(guess));
            }
        }
    }
    Ok(Outcome::Refused(Guess::Right))
}

fn answer(
    service: &Service,
    client: &ClientId,
    visit: &Visit,
    outcome: Outcome,
) -> Result<Json<Value>, Refusal> {
    match outcome {
        Outcome::Registered => info!(%client, site = %visit.site, "client registered"),
        Outcome::Repeated => debug!(%client, site = %visit.site, "registration repeated"),
        Outcome::Refused(guess) => {
            debug!(%client, site = %visit.site, ?guess, "registration refused");
            if guess == Guess::Wrong {
                service.handle_failure(visit);
            }
            return Err(refused());
        }
    }
    service.handle_success(visit);
    Ok(Json(json!({ "client": client })))
}

/// The one answer, whatever the cause.
fn refused() -> Refusal {
    let message = "registration refused: the client is unknown, the code is wrong or was used before, \
                   the deadline has passed, or the client is registered already";
    Refusal::new(StatusCode::FORBIDDEN, "refused", message)
}
