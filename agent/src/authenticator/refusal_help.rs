//! The texts that tell an operator what to do when auth or the hub refuses this device. Pure,
//! except for [`state_problem`].

use std::path::Path;

use spoke_protocol::ClientId;

use crate::{account::DeviceAccount, auth_flow::AuthRefusal, identity::Identity};

/// The error of a token that auth has just issued and the hub rejects.
const TOKEN_REJECTED: &str = "the hub rejected a token that auth has just issued. Check that \
                              both use the same Redis (auth_redis and auth_key_prefix of the hub)";

/// Everything known about a refusal.
pub(super) struct RefusalProblem<'a> {
    pub(super) client: &'a ClientId,
    pub(super) is_registered: bool,
    /// The response of auth.
    pub(super) auth_problem: &'a str,
    /// The error of the one-time secret, if there is one.
    pub(super) one_time_problem: Option<&'a str>,
    /// The possible cause in the state directory, if there is one.
    pub(super) state_problem: Option<&'a str>,
}

impl RefusalProblem<'_> {
    /// Returns the error and the next action of the operator.
    pub(super) fn help(&self, refusal: AuthRefusal) -> String {
        match self.state_problem {
            Some(problem) if refusal != AuthRefusal::Hub => {
                format!("{}. {problem}", self.help_at_auth(refusal))
            }
            _ => self.help_at_auth(refusal),
        }
    }

    fn help_at_auth(&self, refusal: AuthRefusal) -> String {
        let Self { client, auth_problem, .. } = self;
        let again =
            format!("provision it again (`spoke-auth provision {client} --again`) and enrol it");
        match refusal {
            AuthRefusal::NoOneTimeSecret if self.is_registered => {
                format!("{auth_problem}. If it was revoked, {again}")
            }
            AuthRefusal::NoOneTimeSecret => {
                let no_secret = match self.one_time_problem {
                    Some(problem) => format!("its one-time secret cannot be used ({problem})"),
                    None => "it has no one-time secret to register with".to_owned(),
                };
                format!(
                    "{auth_problem}; this device is not registered, and {no_secret}. Provision it \
                     (`spoke-auth provision {client}`) and enrol it (`spoke-agent enrol`)"
                )
            }
            AuthRefusal::Registration => format!(
                "{auth_problem}. If this client is provisioned, its one-time secret is wrong, was \
                 used or has expired, or it was revoked: {again}"
            ),
            AuthRefusal::Login => format!(
                "{auth_problem}, although this device has just registered. It may have been \
                 revoked: {again}"
            ),
            AuthRefusal::Hub => TOKEN_REJECTED.to_owned(),
        }
    }
}

/// Returns the possible cause of a refusal in the state directory: a new secret, or another
/// identity.
pub(super) fn state_problem(
    identity: &Identity,
    account: &DeviceAccount,
    state_dir: &Path,
) -> Option<String> {
    let state_dir = state_dir.display();
    if !identity.has_secret() {
        return Some(format!(
            "Its secret was just created: if this device was registered before, {state_dir} has \
             lost its files. Check that its disk is mounted, or restore it from a backup"
        ));
    }
    let (client, auth) = identity.registered_elsewhere(account)?;
    let client_now = &account.client;
    Some(format!(
        "{state_dir} holds the identity of {client} at {auth}: if that is another device, give \
         {client_now} its own state_dir"
    ))
}
