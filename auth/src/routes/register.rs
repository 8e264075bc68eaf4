//! `POST /register`: registers the secret of a device, with a one-time code or a proof, once only.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use http::StatusCode;
use serde_json::{Value, json};
use spoke_diagnostics::unix_ms;
use spoke_protocol::ClientId;
use spoke_service::{
    api_error::ApiError,
    server::{ConnectionHandle, PeerAddress},
};
use tracing::{debug, info};

use super::body::{AuthBody, malformed};
use crate::{
    device_secret::DeviceSecret,
    rate_limit::{AuthAction, AuthAttempt, Precheck},
    registration::{CodeCheck, RegistrationEvidence, RegistrationPlan, RegistrationRequest, plan},
    state::AuthState,
    store::{AttemptCount, RegisterResult, Registration, TaggedHash},
};

/// Reads of the client. A concurrent request may register it after the first; only an operator who provisions the
/// client at that very moment makes the second useless too.
const READS: usize = 2;

/// The result of a registration.
enum RegistrationOutcome {
    Registered,
    /// The same secret was registered before.
    Repeated,
    Refused,
}

pub(super) async fn handle(
    State(state): State<Arc<AuthState>>,
    Extension(peer): Extension<PeerAddress>,
    Extension(connection): Extension<ConnectionHandle>,
    body: AuthBody,
) -> Result<Json<Value>, ApiError> {
    let request = parse(body)?;
    let now_ms = unix_ms();
    let plan = read_plan(&state, &request, now_ms).await?;
    // A right code is never throttled for the failures of others; wrong ones are bounded by the store.
    let precheck = match plan.code_check() {
        CodeCheck::Right => Precheck::Passed,
        CodeCheck::Wrong => Precheck::Failed,
    };
    let attempt = AuthAttempt::new(AuthAction::Register, peer, Some(&request.client), precheck);
    state.admit(&attempt)?;
    let _guard = connection.mark_authenticated();
    match register(&state, &request, &attempt, plan, now_ms).await {
        Ok(outcome) => respond(&state, &request.client, &attempt, outcome),
        Err(error) => {
            state.handle_no_verdict(&attempt);
            Err(error)
        }
    }
}

fn parse(mut body: AuthBody) -> Result<RegistrationRequest, ApiError> {
    let client = body.client()?;
    let secret = DeviceSecret::new(body.secret("secret")?);
    let secret = secret.map_err(|error| malformed("secret", error))?;
    let evidence = match (body.has("otp"), body.has("proof")) {
        (true, true) => return Err(malformed("proof", "send either `otp` or `proof`")),
        (false, true) => {
            let proof = body.text("proof")?.parse().map_err(|error| malformed("proof", error))?;
            RegistrationEvidence::Proof(proof)
        }
        (_, false) => {
            let code = body.text("otp")?.parse().map_err(|error| malformed("otp", error))?;
            RegistrationEvidence::Code(code)
        }
    };
    Ok(RegistrationRequest { client, secret, evidence })
}

/// Reads the client, counts a wrong code or proof, and decides what to do.
async fn read_plan(
    state: &AuthState,
    request: &RegistrationRequest,
    now_ms: u64,
) -> Result<RegistrationPlan, ApiError> {
    let client = &request.client;
    let lookup = state.store_result(state.store.attempt(client, now_ms).await)?;
    let plan = plan(&lookup, request, now_ms);
    let deadline_ms = lookup.record.as_ref().and_then(|record| record.reg_deadline_ms);
    match (plan.code_check(), lookup.count, deadline_ms) {
        (CodeCheck::Right, AttemptCount::Wrong { .. }, Some(deadline_ms)) => {
            state.store_result(state.store.forgive(client, deadline_ms).await)?;
        }
        (CodeCheck::Right, ..) => {}
        (CodeCheck::Wrong, count, _) => state.handle_wrong_code(client, count),
    }
    Ok(plan)
}

async fn register(
    state: &AuthState,
    request: &RegistrationRequest,
    attempt: &AuthAttempt,
    mut plan: RegistrationPlan,
    now_ms: u64,
) -> Result<RegistrationOutcome, ApiError> {
    let (caller, client, secret) = (attempt.hash_caller(), &request.client, &request.secret);
    for _ in 0..READS {
        match plan {
            RegistrationPlan::Register { otp_secret, step } => {
                let hash = state.hash_pool.hash(&caller, secret.clone()).await;
                let hash = state.hash_result(hash)?;
                let registration = Registration {
                    client,
                    otp_secret: &otp_secret,
                    step,
                    now_ms,
                    secret: TaggedHash { hash: &hash, tag: &secret.tag() },
                };
                match state.store_result(state.store.register(&registration).await)? {
                    RegisterResult::Registered => return Ok(RegistrationOutcome::Registered),
                    RegisterResult::Taken => {}
                    RegisterResult::Refused => return Ok(RegistrationOutcome::Refused),
                }
            }
            RegistrationPlan::Compare { secret_hash, .. } => {
                let secret = Some(secret.clone());
                let is_same = state.hash_pool.verify(&caller, secret, Some(secret_hash)).await;
                return Ok(match state.hash_result(is_same)? {
                    true => RegistrationOutcome::Repeated,
                    false => RegistrationOutcome::Refused,
                });
            }
            RegistrationPlan::Refuse { .. } => {
                state.hash_result(state.hash_pool.hash(&caller, secret.clone()).await)?;
                return Ok(RegistrationOutcome::Refused);
            }
        }
        plan = read_plan(state, request, now_ms).await?;
    }
    Ok(RegistrationOutcome::Refused)
}

fn respond(
    state: &AuthState,
    client: &ClientId,
    attempt: &AuthAttempt,
    outcome: RegistrationOutcome,
) -> Result<Json<Value>, ApiError> {
    let (peer, precheck) = (attempt.peer, attempt.precheck);
    match outcome {
        RegistrationOutcome::Registered => info!(%client, %peer, "client registered"),
        RegistrationOutcome::Repeated => debug!(%client, %peer, "registration repeated"),
        RegistrationOutcome::Refused => {
            debug!(%client, %peer, ?precheck, "registration refused");
            // A right code is not a guess: of several devices with the same code all but one come too late.
            if precheck == Precheck::Passed {
                state.handle_no_verdict(attempt);
            }
            return Err(registration_refused());
        }
    }
    state.handle_success(attempt);
    Ok(Json(json!({ "client": client })))
}

/// Returns the one response, whatever the cause.
fn registration_refused() -> ApiError {
    let message = "registration refused: the client is unknown, the code is wrong or was used before, \
                   the deadline has passed, or the client is registered already";
    ApiError::new(StatusCode::FORBIDDEN, "refused", message)
}
