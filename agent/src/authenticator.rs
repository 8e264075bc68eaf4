//! This device's way in: its identity, its token, and the steps that the enrolment asks for.

mod login;

use std::{
    convert::Infallible,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use spoke_diagnostics::{clock::unix_ms, error_chain::error_chain};
use spoke_protocol::backoff::RetryDelay;
use spoke_service::config::{ConfigError, read_secret};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{
    auth::{Auth, Reply},
    config::{Account, Config},
    dial::Dialer,
    enrolment::{Answer, Enrolment, Known, Lifetime, OneTime, Refused, Serial, Step, Which},
    identity::{Identity, IdentityError, Session},
    limits::{REFUSED_RETRY, STATE_RETRY},
    passcode::{BadOneTimeSecret, OneTimeSecret},
};

/// The credential that the unit passes on, where no setting names a file.
const CREDENTIAL: &str = "otp-secret";
/// The longest sleep of one who waits for a token's half life: this clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// Why this device cannot even ask.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The state directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Where the one-time secret is, if it is anywhere.
#[derive(Debug, Clone)]
pub enum OneTimeSource {
    /// Nowhere.
    None,
    /// Given already.
    Given(OneTimeSecret),
    /// In this file, or the systemd credential of this name; looked at whenever it is needed.
    File(PathBuf),
}

#[derive(Debug, thiserror::Error)]
enum BadOneTime {
    #[error(transparent)]
    Unreadable(#[from] ConfigError),
    #[error(transparent)]
    Malformed(#[from] BadOneTimeSecret),
}

/// This device's way in.
#[derive(Debug)]
pub struct Access {
    account: Account,
    identity: Identity,
    secret: SecretString,
    auth: Auth,
    one_time: OneTimeSource,
    enrolment: Enrolment,
    token: Option<SecretString>,
    /// The last token, for who holds on to it while it is refreshed.
    tokens: watch::Sender<SecretString>,
    problem: Option<String>,
    one_time_problem: Option<String>,
    /// Whether the state directory says that this device is registered.
    is_registration_kept: bool,
    /// Why the state directory does not hold what it should, where that is so.
    unkept: Option<String>,
    /// What a refusal may come from.
    suspicion: Option<String>,
}

impl AccessError {
    /// Whether waiting may mend it within this process.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Identity(error) => error.may_pass(),
        }
    }

    /// Whether it stays as it is until a person has mended it.
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Identity(error) => error.needs_a_person(),
        }
    }
}

impl OneTimeSource {
    /// What the settings name, or else the credential that the unit passes on.
    pub fn of(config: &Config) -> Self {
        let path = &config.otp_secret_file;
        match path.as_os_str().is_empty() {
            false => Self::File(path.clone()),
            true if env::var_os("CREDENTIALS_DIRECTORY").is_some() => Self::File(CREDENTIAL.into()),
            true => Self::None,
        }
    }

    fn read(&self) -> Result<Option<OneTimeSecret>, BadOneTime> {
        match self {
            Self::None => Ok(None),
            Self::Given(secret) => Ok(Some(secret.clone())),
            Self::File(path) => Ok(Some(read_secret(path)?.expose_secret().parse()?)),
        }
    }
}

impl Access {
    /// Takes the state directory for this process and reads what it holds; asks nobody yet.
    ///
    /// # Errors
    /// `AccessError`
    pub fn open(
        account: &Account,
        state_dir: &Path,
        one_time: OneTimeSource,
        dialer: &Dialer,
    ) -> Result<Self, AccessError> {
        let identity = Identity::open(state_dir)?;
        let suspicion = suspicion(&identity, account, state_dir);
        let secret = identity.secret()?;
        let session = identity.session(account);
        let lifetime = session.as_ref().map(|session| Lifetime {
            issued_at_ms: session.issued_at_ms,
            expires_at_ms: session.expires_at_ms,
        });
        let is_registered = identity.is_registered(account);
        let known = Known { is_registered, token: lifetime };
        Ok(Self {
            account: account.clone(),
            identity,
            secret,
            auth: Auth::new(account, dialer),
            one_time,
            enrolment: Enrolment::new(known),
            tokens: watch::Sender::new(
                session.as_ref().map(|session| session.token.clone()).unwrap_or_default(),
            ),
            token: session.map(|session| session.token),
            problem: None,
            one_time_problem: None,
            is_registration_kept: is_registered,
            unkept: None,
            suspicion,
        })
    }

    /// Whether another state directory has come in the place of the one that was opened: it holds who this
    /// device is.
    pub fn is_replaced(&self) -> bool {
        self.identity.is_replaced()
    }

    /// What to do next.
    pub fn poll_step(&mut self) -> Step {
        let one_time = match self.token {
            Some(_) => OneTime::Missing,
            None => self.look_for_one_time(),
        };
        self.enrolment.poll_step(unix_ms(), one_time)
    }

    /// Asks auth; the answer is in `poll_step`, and what is wrong with it in `problem`.
    pub async fn perform(&mut self, step: Step) {
        let reply = match step {
            Step::Register { at_ms } => match self.one_time.read() {
                Ok(Some(one_time)) => {
                    let client = &self.account.client;
                    let proof = one_time.proof_at(at_ms, client, &self.secret);
                    self.auth.register(&self.secret, &proof).await
                }
                // It was there a moment ago.
                Ok(None) | Err(_) => return,
            },
            Step::LogIn => self.log_in().await,
            Step::Refresh => match &self.token {
                Some(token) => self.auth.refresh(token).await,
                None => return,
            },
            Step::Connect | Step::Wait(_) => return,
        };
        self.handle_reply(step, reply);
    }

    /// Keeps the token fresh while it is in use: a new one after half of its life. Ends never.
    /// `told` hears each time whether it could be kept. Cancel safe: an answer that gets lost leaves
    /// the old token good.
    pub async fn keep_fresh(&mut self, told: impl Fn(Option<&str>)) -> Infallible {
        let mut retry = RetryDelay::new(REFUSED_RETRY.0, REFUSED_RETRY.1);
        loop {
            told(self.keep_again());
            let longest = if self.unkept.is_some() { STATE_RETRY } else { LOOK_AGAIN };
            let Some(lifetime) = self.enrolment.lifetime() else { std::future::pending().await };
            let now = unix_ms();
            if !lifetime.is_refresh_due(now) {
                let left = Duration::from_millis(lifetime.refresh_at_ms() - now);
                tokio::time::sleep(left.min(longest)).await;
                continue;
            }
            self.enrolment.handle_half_life();
            self.perform(Step::Refresh).await;
            match self.enrolment.lifetime() {
                Some(new) if new != lifetime => retry.reset(),
                _ => tokio::time::sleep(retry.next(None, rand::random())).await,
            }
        }
    }

    /// Tries again to write down what the state directory did not take; gives why it does not, where
    /// that is still so.
    pub fn keep_again(&mut self) -> Option<&str> {
        if self.unkept.is_some() {
            self.keep();
        }
        self.unkept.as_deref()
    }

    /// The token for the hub, and its name.
    pub fn token(&self) -> Option<(SecretString, Serial)> {
        self.token.clone().map(|token| (token, self.enrolment.serial()))
    }

    /// The token for the hub, as it is refreshed.
    pub fn tokens(&self) -> watch::Receiver<SecretString> {
        self.tokens.subscribe()
    }

    /// Whether this device has registered.
    pub fn is_registered(&self) -> bool {
        self.enrolment.is_registered()
    }

    /// The hub took the token.
    pub fn handle_welcomed(&mut self) {
        self.enrolment.handle_welcomed();
    }

    /// The hub refused that token.
    pub fn handle_unauthorized(&mut self, serial: Serial) -> Which {
        let which = self.enrolment.handle_unauthorized(serial);
        self.forget_dead_token();
        which
    }

    /// The wait that `poll_step` asked for is over.
    pub fn handle_waited(&mut self) {
        self.problem = None;
        self.enrolment.handle_waited();
    }

    /// What a person should read of the last thing that went wrong.
    pub fn problem(&self) -> &str {
        self.problem.as_deref().unwrap_or("auth gave no usable answer")
    }

    /// What a person should do about a refusal.
    pub fn mend(&self, refused: Refused) -> String {
        match &self.suspicion {
            Some(suspicion) if refused != Refused::Hub => {
                format!("{}; {suspicion}", self.mend_at_auth(refused))
            }
            _ => self.mend_at_auth(refused),
        }
    }

    fn mend_at_auth(&self, refused: Refused) -> String {
        let client = &self.account.client;
        let again =
            format!("provision it again (`spoke-auth provision {client} --again`) and enrol it");
        match refused {
            Refused::NoOneTimeSecret if self.is_registered() => {
                format!("{}; if it was revoked, {again}", self.problem())
            }
            Refused::NoOneTimeSecret => {
                let no_secret = match &self.one_time_problem {
                    Some(problem) => format!("its one-time secret cannot be used ({problem})"),
                    None => "it has no one-time secret to register with".to_owned(),
                };
                format!(
                    "{}; this device is not registered, and {no_secret}: provision it \
                     (`spoke-auth provision {client}`) and enrol it (`spoke-agent enrol`)",
                    self.problem()
                )
            }
            Refused::Registration => format!(
                "{}; if this client is provisioned, its one-time secret is wrong, was used or has \
                 expired, or it was revoked: {again}",
                self.problem()
            ),
            Refused::Login => format!(
                "{}, though it has just registered this device; it may have been revoked: {again}",
                self.problem()
            ),
            Refused::Hub => {
                "the hub refuses a token that auth has just given out: see that both look \
                             into the same Redis (auth_redis and auth_key_prefix of the hub)"
                    .to_owned()
            }
        }
    }

    fn look_for_one_time(&mut self) -> OneTime {
        match self.one_time.read() {
            Ok(Some(_)) => OneTime::AtHand,
            Ok(None) => OneTime::Missing,
            Err(error) => {
                self.one_time_problem = Some(error_chain(&error));
                OneTime::Missing
            }
        }
    }

    fn handle_reply(&mut self, step: Step, reply: Reply) {
        let now = unix_ms();
        if let Some(problem) = &reply.problem {
            debug!(problem, "auth did not do what it was asked for");
        }
        self.problem = reply.problem.or(self.problem.take());
        self.enrolment.handle_answer(step, reply.answer, now);
        match reply.answer {
            Answer::Registered => {
                info!(auth = %self.account.auth, "registered");
                self.keep();
            }
            Answer::Session { .. } => {
                let Some(token) = reply.token else { return };
                self.tokens.send_replace(token.clone());
                self.token = Some(token);
                self.suspicion = None;
                self.keep();
            }
            Answer::Refused { .. } => self.forget_dead_token(),
            Answer::Told
            | Answer::Busy { .. }
            | Answer::Unavailable { .. }
            | Answer::Unreachable
            | Answer::Odd => {}
        }
    }

    fn forget_dead_token(&mut self) {
        if self.enrolment.lifetime().is_none() && self.token.take().is_some() {
            self.keep();
        }
    }

    /// Brings the state directory up to what auth said. What it does not take costs a login or so
    /// after the next start, and nothing else.
    fn keep(&mut self) {
        let was_kept = self.unkept.is_none();
        self.unkept = self.write_down().err().map(|error| error_chain(&error));
        match &self.unkept {
            None if was_kept => {}
            None => info!("the state directory holds again what auth said"),
            Some(error) if was_kept => {
                warn!(error, "failed to keep what auth said; going on, and trying again by and by");
            }
            Some(error) => debug!(error, "failed again to keep what auth said"),
        }
    }

    fn write_down(&mut self) -> Result<(), IdentityError> {
        if self.is_registered() && !self.is_registration_kept {
            self.identity.record_registered(&self.account)?;
            self.is_registration_kept = true;
        }
        match (&self.token, self.enrolment.lifetime()) {
            (Some(token), Some(Lifetime { issued_at_ms, expires_at_ms })) => {
                let session = Session { token: token.clone(), issued_at_ms, expires_at_ms };
                self.identity.record_session(&self.account, &session)
            }
            _ => self.identity.forget_session(),
        }
    }
}

/// What about the state directory may be the cause, should auth refuse this device.
fn suspicion(identity: &Identity, account: &Account, state_dir: &Path) -> Option<String> {
    let state_dir = state_dir.display();
    if !identity.has_secret() {
        return Some(format!(
            "its secret was made just now: if this device was registered before, {state_dir} has lost \
             what it held; see that its disk is mounted, or restore it from a backup"
        ));
    }
    let (client, auth) = identity.registered_elsewhere(account)?;
    let client_now = &account.client;
    Some(format!(
        "{state_dir} holds the identity of {client} at {auth}: if that is another device, give \
         {client_now} a state_dir of its own"
    ))
}
