//! Decides the next request to auth from the known state. Pure.
//!
//! A token that works is kept, so a device that was offline needs one refresh, and a login (which
//! costs auth a bcrypt) only if the refresh is refused. This device's clock may be wrong, so the
//! end of a token by this clock is a reason to refresh it, never to discard it.
//!
//! Registration and login are tried in the order that is likely to work, each once per round. If
//! all are refused, an operator has to act, and the next round starts after a long wait. So a lost
//! `registered` file, an auth service with a new name, and a client that was provisioned again are
//! all handled automatically.
//!
//! Call [`AuthFlow::poll_step`], perform the step, then call [`AuthFlow::handle_answer`],
//! [`AuthFlow::handle_waited`], or after a connection [`AuthFlow::handle_welcomed`] and
//! [`AuthFlow::handle_unauthorized`], and start again.

use std::time::Duration;

use crate::totp::step_at;

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthStep {
    /// Register with the proof of this time, in milliseconds since 1970.
    Register {
        /// The time of this device, or of auth where they differ.
        at_ms: u64,
    },
    /// Exchange the device's secret for a token.
    LogIn,
    /// Exchange the token for a new one.
    Refresh,
    /// Connect to the hub with the token.
    Connect,
    /// Wait, then call [`AuthFlow::handle_waited`].
    Wait(AuthWait),
}

/// The reason to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthWait {
    /// An operator has to act.
    Refused(AuthRefusal),
    /// Auth is overloaded, with the delay that it requested, if any.
    Busy(Option<Duration>),
    /// Auth restarts, or its Redis failed, with the delay that it requested.
    Unavailable(Duration),
    /// Auth cannot be reached.
    Unreachable,
    /// The response is not one of auth.
    Odd,
}

impl AuthWait {
    /// All values of [`AuthWait::word`].
    pub const WORDS: [&'static str; 5] =
        ["auth-refused", "auth-busy", "auth-unavailable", "auth-unreachable", "auth-odd"];

    /// Returns the stable word, for logs, status and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused(_) => "auth-refused",
            Self::Busy(_) => "auth-busy",
            Self::Unavailable(_) => "auth-unavailable",
            Self::Unreachable => "auth-unreachable",
            Self::Odd => "auth-odd",
        }
    }
}

/// The request that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthRefusal {
    /// The login, and there is no one-time secret to register with.
    NoOneTimeSecret,
    /// The registration and the login.
    Registration,
    /// The login, although this device has just registered.
    Login,
    /// The hub rejected a token that auth has just issued.
    Hub,
}

/// The outcome of a request to auth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthAnswer {
    /// The device is registered.
    Registered,
    /// A new token was issued.
    Session {
        /// The lifetime of the token.
        ttl: Duration,
    },
    /// Auth accepted the next secret of the device.
    SecretAccepted,
    /// Auth refused the request.
    Refused {
        /// The time of auth's clock, from the `Date` header, in milliseconds since 1970.
        date_ms: Option<u64>,
    },
    /// Auth restarts, or its Redis failed.
    Unavailable {
        /// The delay that auth requested.
        retry_after: Duration,
    },
    /// Auth is overloaded.
    Busy {
        /// The delay from the `Retry-After` header.
        retry_after: Option<Duration>,
    },
    /// There was no response.
    Unreachable,
    /// The response is not one of auth.
    Odd,
}

/// Whether there is a one-time secret to register with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OneTimeSecretPresence {
    /// There is one.
    Present,
    /// There is none.
    Missing,
}

/// The lifetime of a token by this device's clock, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenLifetime {
    /// When it was issued.
    pub issued_at_ms: u64,
    /// When it expires.
    pub expires_at_ms: u64,
}

impl TokenLifetime {
    /// Returns whether half of the lifetime is over, or the clock was set back.
    pub(crate) fn is_refresh_due(&self, now_ms: u64) -> bool {
        now_ms < self.issued_at_ms || now_ms >= self.refresh_at_ms()
    }

    /// Returns the time when half of the lifetime is over.
    pub(crate) fn refresh_at_ms(&self) -> u64 {
        self.issued_at_ms + self.expires_at_ms.saturating_sub(self.issued_at_ms) / 2
    }
}

/// Identifies a token among those of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenSerial(u64);

/// Which token the hub rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RejectedToken {
    /// The current one.
    Current,
    /// One that was refreshed since, and has expired.
    Older,
}

/// Whether the hub has accepted a token of this login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenTrust {
    /// Accepted, or not known to this process.
    Accepted,
    /// Not accepted yet.
    Untried,
}

#[derive(Debug, Clone, Copy)]
struct CurrentToken {
    lifetime: TokenLifetime,
    trust: TokenTrust,
}

/// What was tried since the last wait.
#[derive(Debug, Clone, Copy, Default)]
struct AuthRound {
    is_clock_tried: bool,
    is_registration_over: bool,
    is_login_refused: bool,
    is_refresh_over: bool,
    has_just_registered: bool,
}

/// The state of this device at auth.
#[derive(Debug)]
pub(crate) struct AuthFlow {
    is_registered: bool,
    token: Option<CurrentToken>,
    serial: TokenSerial,
    /// Auth's clock minus this device's.
    clock_offset_ms: i64,
    round: AuthRound,
    wait: Option<AuthWait>,
}

/// The state that a process starts with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AuthFlowStart {
    /// Whether this device has registered before.
    pub is_registered: bool,
    /// The lifetime of the saved token.
    pub token: Option<TokenLifetime>,
}

impl AuthFlow {
    /// Creates the flow from the content of the state directory.
    pub(crate) fn new(start: AuthFlowStart) -> Self {
        Self {
            is_registered: start.is_registered,
            token: start
                .token
                .map(|lifetime| CurrentToken { lifetime, trust: TokenTrust::Accepted }),
            serial: TokenSerial(0),
            clock_offset_ms: 0,
            round: AuthRound::default(),
            wait: None,
        }
    }

    /// Returns the next step.
    pub(crate) fn poll_step(&self, now_ms: u64, one_time: OneTimeSecretPresence) -> AuthStep {
        if let Some(wait) = self.wait {
            return AuthStep::Wait(wait);
        }
        if let Some(token) = self.token {
            let is_due = token.lifetime.is_refresh_due(now_ms) && !self.round.is_refresh_over;
            return if is_due { AuthStep::Refresh } else { AuthStep::Connect };
        }
        let can_register =
            one_time == OneTimeSecretPresence::Present && !self.round.is_registration_over;
        let can_log_in = !self.round.is_login_refused;
        let register =
            AuthStep::Register { at_ms: now_ms.saturating_add_signed(self.clock_offset_ms) };
        match (can_register, can_log_in) {
            (true, true) if self.is_registered => AuthStep::LogIn,
            (true, _) => register,
            (false, true) => AuthStep::LogIn,
            (false, false) => AuthStep::Wait(AuthWait::Refused(self.refusal(one_time))),
        }
    }

    /// Handles the outcome of a step.
    pub(crate) fn handle_answer(&mut self, step: AuthStep, answer: AuthAnswer, now_ms: u64) {
        match (step, answer) {
            (AuthStep::Register { .. }, AuthAnswer::Registered) => {
                self.is_registered = true;
                self.round = AuthRound {
                    is_registration_over: true,
                    has_just_registered: true,
                    ..AuthRound::default()
                };
            }
            (AuthStep::Register { at_ms }, AuthAnswer::Refused { date_ms }) => {
                self.handle_registration_refused(at_ms, date_ms, now_ms);
            }
            (AuthStep::LogIn | AuthStep::Refresh, AuthAnswer::Session { ttl }) => {
                let trust = match self.token {
                    Some(old) => old.trust,
                    None => TokenTrust::Untried,
                };
                let expires_at_ms = now_ms.saturating_add(ttl.as_millis() as u64);
                let lifetime = TokenLifetime { issued_at_ms: now_ms, expires_at_ms };
                self.token = Some(CurrentToken { lifetime, trust });
                self.serial.0 += 1;
                self.is_registered = true;
                // A token is used before it is refreshed, however short its lifetime is.
                self.round = AuthRound { is_refresh_over: true, ..AuthRound::default() };
            }
            (AuthStep::LogIn, AuthAnswer::Refused { .. }) => self.round.is_login_refused = true,
            (AuthStep::Refresh, AuthAnswer::Refused { .. }) => self.token = None,
            // The token may be valid: the hub decides.
            (AuthStep::Refresh, _) => self.round.is_refresh_over = true,
            (_, AuthAnswer::Unavailable { retry_after }) => {
                self.wait = Some(AuthWait::Unavailable(retry_after));
            }
            (_, AuthAnswer::Busy { retry_after }) => self.wait = Some(AuthWait::Busy(retry_after)),
            (_, AuthAnswer::Unreachable) => self.wait = Some(AuthWait::Unreachable),
            (_, _) => self.wait = Some(AuthWait::Odd),
        }
    }

    /// Handles the end of a wait: every step may be tried again.
    pub(crate) fn handle_waited(&mut self) {
        self.wait = None;
        self.round = AuthRound::default();
    }

    /// Handles the half-life of a token in use.
    pub(crate) fn handle_half_life(&mut self) {
        self.round.is_refresh_over = false;
    }

    /// Handles that the hub accepted the token.
    pub(crate) fn handle_welcomed(&mut self) {
        if let Some(token) = &mut self.token {
            token.trust = TokenTrust::Accepted;
        }
    }

    /// Handles that the hub rejected a token, or ended its session.
    pub(crate) fn handle_unauthorized(&mut self, rejected: TokenSerial) -> RejectedToken {
        if rejected != self.serial {
            return RejectedToken::Older;
        }
        let token = self.token.take();
        // A hub and an auth that do not share a Redis must not cost a bcrypt per second.
        if token.is_some_and(|token| token.trust == TokenTrust::Untried) {
            self.wait = Some(AuthWait::Refused(AuthRefusal::Hub));
        }
        RejectedToken::Current
    }

    /// Returns the serial of the current token.
    pub(crate) fn serial(&self) -> TokenSerial {
        self.serial
    }

    /// Returns the lifetime of the current token.
    pub(crate) fn lifetime(&self) -> Option<TokenLifetime> {
        self.token.map(|token| token.lifetime)
    }

    /// Returns whether this device has registered.
    pub(crate) fn is_registered(&self) -> bool {
        self.is_registered
    }

    fn handle_registration_refused(&mut self, at_ms: u64, date_ms: Option<u64>, now_ms: u64) {
        let is_other_step = date_ms.is_some_and(|date| step_at(date) != step_at(at_ms));
        match date_ms {
            Some(date) if is_other_step && !self.round.is_clock_tried => {
                self.round.is_clock_tried = true;
                self.clock_offset_ms = date.wrapping_sub(now_ms) as i64;
            }
            _ => self.round.is_registration_over = true,
        }
    }

    fn refusal(&self, one_time: OneTimeSecretPresence) -> AuthRefusal {
        match one_time {
            _ if self.round.has_just_registered => AuthRefusal::Login,
            OneTimeSecretPresence::Present => AuthRefusal::Registration,
            OneTimeSecretPresence::Missing => AuthRefusal::NoOneTimeSecret,
        }
    }
}

#[cfg(test)]
mod tests;
