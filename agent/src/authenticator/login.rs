//! Logs in with the current secret, else with the next one of a rotation that was interrupted, else
//! with the previous one if auth's Redis went back to an older state.

use secrecy::{ExposeSecret, SecretString};
use spoke_diagnostics::error_chain;
use tracing::{info, warn};

use super::Authenticator;
use crate::{auth_client::AuthReply, auth_flow::AuthAnswer};

impl Authenticator {
    /// Tries each secret that the device holds until auth accepts one.
    pub(super) async fn log_in(&mut self) -> AuthReply {
        let mut tried: Vec<SecretString> = Vec::new();
        let mut secret = self.next_untried(&tried).unwrap_or_else(|| self.secret.clone());
        loop {
            let reply = self.auth.log_in(&secret).await;
            match reply.answer {
                AuthAnswer::Session { .. } => {
                    self.handle_accepted(secret);
                    return reply;
                }
                AuthAnswer::Refused { .. } => {}
                AuthAnswer::Registered
                | AuthAnswer::SecretAccepted
                | AuthAnswer::Busy { .. }
                | AuthAnswer::Unavailable { .. }
                | AuthAnswer::Unreachable
                | AuthAnswer::Odd => return reply,
            }
            tried.push(secret);
            secret = match self.next_untried(&tried) {
                Some(secret) => secret,
                None => return reply,
            };
        }
    }

    /// Reads the files each time: `spoke-agent rotate` may have promoted the next secret. The
    /// secret that was read at the start is tried too, in case the state directory is gone.
    fn next_untried(&self, tried: &[SecretString]) -> Option<SecretString> {
        let secrets = self.identity.secrets();
        let saved =
            [secrets.current(), secrets.next(), Ok(Some(self.secret.clone())), secrets.previous()];
        let mut all = saved.into_iter().filter_map(|secret| secret.ok().flatten());
        all.find(|secret| !tried.iter().any(|tried| is_same(tried, secret)))
    }

    /// Makes the secret that auth accepted the current one on disk.
    fn handle_accepted(&mut self, secret: SecretString) {
        let secrets = self.identity.secrets();
        let is_accepted = |saved: Result<Option<SecretString>, _>| {
            saved.ok().flatten().is_some_and(|saved| is_same(&saved, &secret))
        };
        let settled = if is_accepted(secrets.current()) {
            if secrets.next().is_ok_and(|next| next.is_some()) {
                info!(help = "run `spoke-agent rotate`", "secret rotation is incomplete");
            }
            Ok(())
        } else if is_accepted(secrets.next()) {
            info!("interrupted secret rotation completed");
            secrets.promote(&secret)
        } else if is_accepted(secrets.previous()) {
            warn!(
                help = "run `spoke-agent rotate` to rotate again",
                "auth accepted only the previous secret; the last rotation was undone"
            );
            secrets.step_back(&secret)
        } else {
            Ok(())
        };
        if let Err(error) = settled {
            let error = error_chain(&error);
            warn!(error, "failed to save the accepted secret; retrying at the next login");
        }
        self.secret = secret;
    }
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}
