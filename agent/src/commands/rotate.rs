//! `spoke-agent rotate`: replaces this device's secret, and leaves it with a valid one at every
//! moment.

use anyhow::{Context, bail};
use secrecy::SecretString;
use spoke_service::cli::print;

use crate::{
    auth_client::{AuthClient, AuthReply},
    auth_flow::AuthAnswer,
    config::AgentConfig,
    identity::DeviceSecrets,
    secret_rotation::{RotationAnswer, RotationState, RotationStep},
};

pub(super) async fn run(config: &AgentConfig) -> anyhow::Result<()> {
    let account = config.validate()?;
    let dialer = config.dialer(&account)?;
    let (client, state_dir) = (&account.client, &config.state_dir);
    let secrets = DeviceSecrets::new(state_dir);
    let no_secret = || {
        let state_dir = state_dir.display();
        format!("secret not found in {state_dir}. Run `spoke-agent enrol` first")
    };
    // Checked first, so that no lock file is created where no device was enrolled.
    secrets.open_current()?.with_context(no_secret)?;
    let lock = secrets.lock_rotation()?;
    let _lock = lock.context("another `spoke-agent rotate` is running. Wait for its end")?;
    let current = secrets.current()?.with_context(no_secret)?;
    let auth = AuthClient::new(&account, &dialer);

    let mut next = secrets.next()?;
    let mut rotation = RotationState::new(next.is_some());
    let mut problem = None;
    loop {
        let step = rotation.poll_step();
        let answer = match (step, &next) {
            (RotationStep::None, _) => break,
            (RotationStep::CreateNext, _) => {
                next = Some(secrets.create_next()?);
                RotationAnswer::Done
            }
            (_, None) => unreachable!("the next secret is created first"),
            (RotationStep::AnnounceNext, Some(next)) => {
                classify(auth.announce_next_secret(&current, next).await, &mut problem)?
            }
            (RotationStep::LogIn, Some(next)) => log_in(&auth, next, &mut problem).await?,
            (RotationStep::Promote, Some(next)) => {
                secrets.promote(next).context(
                    "auth accepted the new secret, but it could not be saved. Resolve this, then \
                     run `spoke-agent rotate` again",
                )?;
                RotationAnswer::Done
            }
        };
        rotation.handle_answer(answer);
    }
    if rotation == RotationState::Refused {
        let problem = problem.unwrap_or_default();
        bail!(
            "secret not rotated: {problem}. If {client} was never registered, or was revoked, \
             provision it (`spoke-auth provision {client} --again`) and enrol it"
        );
    }
    Ok(print(&format!(
        "{client} has a new secret, in {}. The old one is void, and its sessions are closed. A \
         running agent reconnects automatically.\n",
        secrets.path().display()
    ))?)
}

/// Logs in with the next secret, which voids the old one, and ends the session: the daemon has its
/// own.
async fn log_in(
    auth: &AuthClient,
    next: &SecretString,
    problem: &mut Option<String>,
) -> anyhow::Result<RotationAnswer> {
    let mut reply = auth.log_in(next).await;
    let token = reply.token.take();
    let answer = classify(reply, problem)?;
    if let Some(token) = token {
        auth.log_out(&token).await;
    }
    Ok(answer)
}

/// Maps a reply to an answer.
///
/// # Errors
/// Every reply except acceptance and refusal: the operator repeats the command.
fn classify(reply: AuthReply, problem: &mut Option<String>) -> anyhow::Result<RotationAnswer> {
    let text = reply.problem.unwrap_or_default();
    match reply.answer {
        AuthAnswer::SecretAccepted | AuthAnswer::Session { .. } => Ok(RotationAnswer::Done),
        AuthAnswer::Refused { .. } => {
            *problem = Some(text);
            Ok(RotationAnswer::Refused)
        }
        AuthAnswer::Registered
        | AuthAnswer::Busy { .. }
        | AuthAnswer::Unavailable { .. }
        | AuthAnswer::Unreachable
        | AuthAnswer::Odd => bail!(
            "secret not rotated yet: {text}. The device holds every secret that auth may accept. \
             Resolve this, then run `spoke-agent rotate` again"
        ),
    }
}
