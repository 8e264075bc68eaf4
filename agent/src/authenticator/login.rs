//! Logging in with the present secret, or else with the next one of a rotation that was cut short, or
//! with the one before the last rotation, where auth came back with an older state.

use secrecy::{ExposeSecret, SecretString};
use spoke_diagnostics::error_chain::error_chain;
use tracing::{info, warn};

use super::Access;
use crate::{auth::Reply, enrolment::Answer};

impl Access {
    /// Tries each secret that the device holds until auth takes one.
    pub(super) async fn log_in(&mut self) -> Reply {
        let mut tried: Vec<SecretString> = Vec::new();
        let mut secret = self.untried(&tried).unwrap_or_else(|| self.secret.clone());
        loop {
            let reply = self.auth.log_in(&secret).await;
            match reply.answer {
                Answer::Session { .. } => {
                    self.settle_on(secret);
                    return reply;
                }
                Answer::Refused { .. } => {}
                Answer::Registered
                | Answer::Told
                | Answer::Busy { .. }
                | Answer::Unavailable { .. }
                | Answer::Unreachable
                | Answer::Odd => return reply,
            }
            tried.push(secret);
            secret = match self.untried(&tried) {
                Some(secret) => secret,
                None => return reply,
            };
        }
    }

    /// Looked for each time anew: `spoke-agent rotate` may have promoted it meanwhile. The one that was
    /// read at the start is for a state directory that is gone.
    fn untried(&self, tried: &[SecretString]) -> Option<SecretString> {
        let secrets = self.identity.secrets();
        let kept =
            [secrets.present(), secrets.next(), Ok(Some(self.secret.clone())), secrets.previous()];
        let mut all = kept.into_iter().filter_map(|secret| secret.ok().flatten());
        all.find(|secret| !tried.iter().any(|tried| is_same(tried, secret)))
    }

    /// Auth has taken this one.
    fn settle_on(&mut self, secret: SecretString) {
        let secrets = self.identity.secrets();
        let is_it = |kept: Result<Option<SecretString>, _>| {
            kept.ok().flatten().is_some_and(|kept| is_same(&kept, &secret))
        };
        let settled = if is_it(secrets.present()) {
            if secrets.next().is_ok_and(|next| next.is_some()) {
                info!(
                    "a rotation of this device's secret was begun and is not over; `spoke-agent rotate` \
                     goes on with it"
                );
            }
            Ok(())
        } else if is_it(secrets.next()) {
            info!(
                "auth goes by this device's next secret: the rotation that was cut short is finished"
            );
            secrets.promote(&secret)
        } else if is_it(secrets.previous()) {
            warn!(
                "auth came back with an older state and goes by this device's secret of before its last \
                 rotation; `spoke-agent rotate` makes that rotation good"
            );
            secrets.step_back(&secret)
        } else {
            Ok(())
        };
        if let Err(error) = settled {
            let error = error_chain(&error);
            warn!(
                error,
                "failed to put this device's secret in its place; tried again at the next login"
            );
        }
        self.secret = secret;
    }
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}
