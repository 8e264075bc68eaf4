//! `spoke-agent rotate`: a new secret for this device, without a moment in which it has none.

use anyhow::{Context, bail};
use secrecy::SecretString;
use spoke_service::cli::print;

use crate::{
    auth::{Auth, Reply},
    config::Config,
    enrolment,
    identity::Secrets,
    rotation::{Answer, Rotation, Step},
};

pub(super) async fn run(config: &Config) -> anyhow::Result<()> {
    let account = config.validate()?;
    let dialer = config.dialer(&account)?;
    let (client, state_dir) = (&account.client, &config.state_dir);
    let secrets = Secrets::of(state_dir);
    let no_secret = || {
        let state_dir = state_dir.display();
        format!("there is no secret in {state_dir}; `spoke-agent enrol` makes the first one")
    };
    // Looked at before a lock is made where no device was enrolled.
    secrets.open_present()?.with_context(no_secret)?;
    let lock = secrets.lock_rotation()?;
    let _lock = lock.context("another `spoke-agent rotate` is under way; wait for its end")?;
    let present = secrets.present()?.with_context(no_secret)?;
    let auth = Auth::new(&account, &dialer);

    let mut next = secrets.next()?;
    let mut rotation = Rotation::new(next.is_some());
    let mut problem = None;
    loop {
        let step = rotation.poll_step();
        let answer = match (step, &next) {
            (Step::None, _) => break,
            (Step::Make, _) => {
                next = Some(secrets.make_next()?);
                Answer::Done
            }
            (_, None) => unreachable!("the next secret is made first"),
            (Step::Tell, Some(next)) => heard(auth.tell_next(&present, next).await, &mut problem)?,
            (Step::LogIn, Some(next)) => log_in(&auth, next, &mut problem).await?,
            (Step::Promote, Some(next)) => {
                secrets.promote(next).context(
                    "auth goes by the new secret, which is not in its place yet; run \
                     `spoke-agent rotate` again when this is mended",
                )?;
                Answer::Done
            }
        };
        rotation.handle_answer(answer);
    }
    if rotation == Rotation::Refused {
        let problem = problem.unwrap_or_default();
        bail!(
            "not rotated: {problem}; if {client} was never registered, or was revoked, provision it \
             (`spoke-auth provision {client} --again`) and enrol it"
        );
    }
    Ok(print(&format!(
        "{client} has a new secret, in {}. The old one is void, and what was open with it is closed: an \
         agent that runs comes back by itself.\n",
        secrets.path().display()
    ))?)
}

/// Voids the old secret. The session is not needed: the daemon has its own.
async fn log_in(
    auth: &Auth,
    next: &SecretString,
    problem: &mut Option<String>,
) -> anyhow::Result<Answer> {
    let mut reply = auth.log_in(next).await;
    let token = reply.token.take();
    let answer = heard(reply, problem)?;
    if let Some(token) = token {
        auth.log_out(&token).await;
    }
    Ok(answer)
}

/// What auth said to it; anything but yes or no is for another time.
fn heard(reply: Reply, problem: &mut Option<String>) -> anyhow::Result<Answer> {
    let said = reply.problem.unwrap_or_default();
    match reply.answer {
        enrolment::Answer::Told | enrolment::Answer::Session { .. } => Ok(Answer::Done),
        enrolment::Answer::Refused { .. } => {
            *problem = Some(said);
            Ok(Answer::Refused)
        }
        enrolment::Answer::Registered
        | enrolment::Answer::Busy { .. }
        | enrolment::Answer::Unavailable { .. }
        | enrolment::Answer::Unreachable
        | enrolment::Answer::Odd => bail!(
            "not rotated yet: {said}; the device holds every secret that auth may go by: run \
             `spoke-agent rotate` again when this is mended"
        ),
    }
}
