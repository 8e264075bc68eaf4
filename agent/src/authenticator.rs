//! Authenticates this device: holds its identity and token, and performs the steps of [`AuthFlow`].

mod login;
pub(crate) mod one_time_secret;
mod refusal_help;

use std::{convert::Infallible, path::Path, time::Duration};

use secrecy::SecretString;
use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::RetryDelay;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use self::{
    one_time_secret::OneTimeSecretSource,
    refusal_help::{RefusalProblem, state_problem},
};
use crate::{
    account::DeviceAccount,
    auth_client::{AuthClient, AuthReply},
    auth_flow::{
        AuthAnswer, AuthFlow, AuthFlowStart, AuthRefusal, AuthStep, OneTimeSecretPresence,
        RejectedToken, TokenLifetime, TokenSerial,
    },
    dial::Dialer,
    identity::{Identity, IdentityError, SavedSession},
    limits::{REFUSED_RETRY, STATE_RETRY},
};

/// The longest sleep before a refresh, since this clock may be set.
const REFRESH_CHECK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The identity cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthenticatorError {
    /// The state directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The identity, the token and the state of this device at auth.
#[derive(Debug)]
pub(crate) struct Authenticator {
    account: DeviceAccount,
    identity: Identity,
    secret: SecretString,
    auth: AuthClient,
    one_time: OneTimeSecretSource,
    flow: AuthFlow,
    token: Option<SecretString>,
    /// Publishes each new token to the transport.
    tokens: watch::Sender<SecretString>,
    problem: Option<String>,
    one_time_problem: Option<String>,
    /// Whether the state directory says that this device is registered.
    is_registration_saved: bool,
    /// The error, while the state directory does not hold the registration and the session.
    unsaved_state: Option<String>,
    /// A possible cause of a refusal in the state directory.
    state_problem: Option<String>,
}

impl AuthenticatorError {
    /// Returns whether a retry within this process may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Identity(error) => error.is_transient(),
        }
    }

    /// Returns whether only an operator can resolve it.
    pub(crate) fn needs_operator(&self) -> bool {
        match self {
            Self::Identity(error) => error.needs_operator(),
        }
    }
}

impl Authenticator {
    /// Locks the state directory for this process and reads it. Does not connect yet.
    ///
    /// # Errors
    /// [`AuthenticatorError`] if the state directory cannot be used.
    pub(crate) fn open(
        account: &DeviceAccount,
        state_dir: &Path,
        one_time: OneTimeSecretSource,
        dialer: &Dialer,
    ) -> Result<Self, AuthenticatorError> {
        let identity = Identity::open(state_dir)?;
        let state_problem = state_problem(&identity, account, state_dir);
        let secret = identity.secret()?;
        let session = identity.session(account);
        let lifetime = session.as_ref().map(|session| TokenLifetime {
            issued_at_ms: session.issued_at_ms,
            expires_at_ms: session.expires_at_ms,
        });
        let is_registered = identity.is_registered(account);
        let start = AuthFlowStart { is_registered, token: lifetime };
        Ok(Self {
            account: account.clone(),
            identity,
            secret,
            auth: AuthClient::new(account, dialer),
            one_time,
            flow: AuthFlow::new(start),
            tokens: watch::Sender::new(
                session.as_ref().map(|session| session.token.clone()).unwrap_or_default(),
            ),
            token: session.map(|session| session.token),
            problem: None,
            one_time_problem: None,
            is_registration_saved: is_registered,
            unsaved_state: None,
            state_problem,
        })
    }

    /// Returns whether another state directory, and so another identity, was mounted over the one
    /// that was opened.
    pub(crate) fn is_replaced(&self) -> bool {
        self.identity.is_replaced()
    }

    /// Returns the next step.
    pub(crate) fn poll_step(&mut self) -> AuthStep {
        let one_time = match self.token {
            Some(_) => OneTimeSecretPresence::Missing,
            None => self.find_one_time_secret(),
        };
        self.flow.poll_step(unix_ms(), one_time)
    }

    /// Performs a step at auth. The outcome shows in [`Self::poll_step`], a failure in
    /// [`Self::problem`].
    pub(crate) async fn perform(&mut self, step: AuthStep) {
        let reply = match step {
            AuthStep::Register { at_ms } => match self.one_time.read() {
                Ok(Some(one_time)) => {
                    let client = &self.account.client;
                    let proof = one_time.proof_at(at_ms, client, &self.secret);
                    self.auth.register(&self.secret, &proof).await
                }
                // The file was readable a moment ago.
                Ok(None) | Err(_) => return,
            },
            AuthStep::LogIn => self.log_in().await,
            AuthStep::Refresh => match &self.token {
                Some(token) => self.auth.refresh(token).await,
                None => return,
            },
            AuthStep::Connect | AuthStep::Wait(_) => return,
        };
        self.handle_reply(step, reply);
    }

    /// Refreshes the token at half of its lifetime while it is in use. Never returns. Calls
    /// `report_unsaved` with the error, if the session could not be saved. Cancel safe: if a
    /// response is lost, the old token stays valid.
    pub(crate) async fn keep_fresh(&mut self, report_unsaved: impl Fn(Option<&str>)) -> Infallible {
        let mut retry = RetryDelay::new(REFUSED_RETRY.0, REFUSED_RETRY.1);
        loop {
            report_unsaved(self.retry_save());
            let longest =
                if self.unsaved_state.is_some() { STATE_RETRY } else { REFRESH_CHECK_INTERVAL };
            let Some(lifetime) = self.flow.lifetime() else { std::future::pending().await };
            let now = unix_ms();
            if !lifetime.is_refresh_due(now) {
                let left = Duration::from_millis(lifetime.refresh_at_ms() - now);
                tokio::time::sleep(left.min(longest)).await;
                continue;
            }
            self.flow.handle_half_life();
            self.perform(AuthStep::Refresh).await;
            match self.flow.lifetime() {
                Some(new) if new != lifetime => retry.reset(),
                _ => tokio::time::sleep(retry.next(None, rand::random())).await,
            }
        }
    }

    /// Retries to save the state that could not be saved. Returns the error if it fails again.
    pub(crate) fn retry_save(&mut self) -> Option<&str> {
        if self.unsaved_state.is_some() {
            self.save();
        }
        self.unsaved_state.as_deref()
    }

    /// Returns the token for the hub, and its serial.
    pub(crate) fn token(&self) -> Option<(SecretString, TokenSerial)> {
        self.token.clone().map(|token| (token, self.flow.serial()))
    }

    /// Returns a receiver of the token for the hub, which follows each refresh.
    pub(crate) fn tokens(&self) -> watch::Receiver<SecretString> {
        self.tokens.subscribe()
    }

    /// Returns whether this device has registered.
    pub(crate) fn is_registered(&self) -> bool {
        self.flow.is_registered()
    }

    /// Handles that the hub accepted the token.
    pub(crate) fn handle_welcomed(&mut self) {
        self.flow.handle_welcomed();
    }

    /// Handles that the hub rejected this token.
    pub(crate) fn handle_unauthorized(&mut self, serial: TokenSerial) -> RejectedToken {
        let rejected = self.flow.handle_unauthorized(serial);
        self.forget_dead_token();
        rejected
    }

    /// Handles the end of the wait that [`Self::poll_step`] returned.
    pub(crate) fn handle_waited(&mut self) {
        self.problem = None;
        self.flow.handle_waited();
    }

    /// Returns the last error of auth, for the operator.
    pub(crate) fn problem(&self) -> &str {
        self.problem.as_deref().unwrap_or("no usable response from auth")
    }

    /// Returns the error and the next action of the operator for a refusal.
    pub(crate) fn refusal_help(&self, refusal: AuthRefusal) -> String {
        let problem = RefusalProblem {
            client: &self.account.client,
            is_registered: self.is_registered(),
            auth_problem: self.problem(),
            one_time_problem: self.one_time_problem.as_deref(),
            state_problem: self.state_problem.as_deref(),
        };
        problem.help(refusal)
    }

    fn find_one_time_secret(&mut self) -> OneTimeSecretPresence {
        match self.one_time.read() {
            Ok(Some(_)) => OneTimeSecretPresence::Present,
            Ok(None) => OneTimeSecretPresence::Missing,
            Err(error) => {
                self.one_time_problem = Some(error_chain(&error));
                OneTimeSecretPresence::Missing
            }
        }
    }

    fn handle_reply(&mut self, step: AuthStep, reply: AuthReply) {
        let now = unix_ms();
        if let Some(problem) = &reply.problem {
            debug!(error = problem, "request to auth failed");
        }
        self.problem = reply.problem.or(self.problem.take());
        self.flow.handle_answer(step, reply.answer, now);
        match reply.answer {
            AuthAnswer::Registered => {
                info!(auth = %self.account.auth, "registered");
                self.save();
            }
            AuthAnswer::Session { .. } => {
                let Some(token) = reply.token else { return };
                self.tokens.send_replace(token.clone());
                self.token = Some(token);
                self.state_problem = None;
                self.save();
            }
            AuthAnswer::Refused { .. } => self.forget_dead_token(),
            AuthAnswer::SecretAccepted
            | AuthAnswer::Busy { .. }
            | AuthAnswer::Unavailable { .. }
            | AuthAnswer::Unreachable
            | AuthAnswer::Odd => {}
        }
    }

    fn forget_dead_token(&mut self) {
        if self.flow.lifetime().is_none() && self.token.take().is_some() {
            self.save();
        }
    }

    /// Saves the registration and the session to the state directory. A failure costs one login
    /// after the next start, and nothing else.
    fn save(&mut self) {
        let was_saved = self.unsaved_state.is_none();
        self.unsaved_state = self.write_state().err().map(|error| error_chain(&error));
        match &self.unsaved_state {
            None if was_saved => {}
            None => info!("session saved to state_dir"),
            Some(error) if was_saved => {
                warn!(error, "failed to save session to state_dir; continuing and retrying");
            }
            Some(error) => debug!(error, "failed again to save session to state_dir"),
        }
    }

    fn write_state(&mut self) -> Result<(), IdentityError> {
        if self.is_registered() && !self.is_registration_saved {
            self.identity.record_registered(&self.account)?;
            self.is_registration_saved = true;
        }
        match (&self.token, self.flow.lifetime()) {
            (Some(token), Some(TokenLifetime { issued_at_ms, expires_at_ms })) => {
                let session = SavedSession { token: token.clone(), issued_at_ms, expires_at_ms };
                self.identity.record_session(&self.account, &session)
            }
            _ => self.identity.forget_session(),
        }
    }
}
