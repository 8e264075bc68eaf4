//! Logging in with the present secret, or else with the next one of a rotation that was cut short.

use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

use super::Access;
use crate::{
    auth::{Reply, chain},
    enrolment::Answer,
};

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
        let (present, next) = (secrets.present().ok().flatten(), secrets.next().ok().flatten());
        let mut all = present.into_iter().chain(next).chain([self.secret.clone()]);
        all.find(|secret| !tried.iter().any(|tried| is_same(tried, secret)))
    }

    /// Auth has taken this one.
    fn settle_on(&mut self, secret: SecretString) {
        let secrets = self.identity.secrets();
        match secrets.next().ok().flatten() {
            Some(next) if is_same(&next, &secret) => match secrets.promote(&secret) {
                Ok(()) => info!("finished the rotation of this device's secret that was cut short"),
                Err(error) => {
                    let error = chain(&error);
                    warn!(error, "failed to finish the rotation of this device's secret");
                }
            },
            Some(_) => info!(
                "a rotation of this device's secret was begun and is not over; `spoke-agent rotate` goes \
                 on with it"
            ),
            None => {}
        }
        self.secret = secret;
    }
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}
