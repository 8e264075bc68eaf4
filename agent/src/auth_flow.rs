//! What to ask of auth next, from what is known: pure.
//!
//! A token that works is kept for as long as it does, so a device that was offline asks for little:
//! one refresh, and a login (which costs auth a bcrypt) only where that is refused. This device's
//! clock may be wrong, so a token's end by it is a reason to refresh and never to throw it away.
//!
//! Registration and login are tried in the order that is likely to work, each once a round; where
//! all are refused a person has to act, and the next round comes after a long wait. So a lost
//! `registered` file, an auth service under a new name and a client that was provisioned again are
//! all sorted out without a hand.
//!
//! Order of calls: `poll_step`; do it; `handle_answer`, or `handle_waited`, or after a connection
//! `handle_welcomed` and `handle_unauthorized`; again.

use std::time::Duration;

use crate::passcode::step_at;

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Register with the proof of this time, in milliseconds since 1970.
    Register {
        /// This device's time, or auth's where they differ.
        at_ms: u64,
    },
    /// Trade the device's secret for a token.
    LogIn,
    /// Trade the token for a new one.
    Refresh,
    /// Go to the hub with the token.
    Connect,
    /// Wait; then `handle_waited`.
    Wait(Wait),
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A person has to act.
    Refused(Refused),
    /// Auth has too much to do; it may have said how long.
    Busy(Option<Duration>),
    /// Auth stops, or its Redis is in trouble: so long.
    Unavailable(Duration),
    /// Auth cannot be reached.
    Unreachable,
    /// Something answered, but not as auth does.
    Odd,
}

impl Wait {
    /// All that `word` gives.
    pub const WORDS: [&'static str; 5] =
        ["auth-refused", "auth-busy", "auth-unavailable", "auth-unreachable", "auth-odd"];

    /// The stable word, in logs, status and figures.
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

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The login; and there is no one-time secret to register with.
    NoOneTimeSecret,
    /// The registration, and the login.
    Registration,
    /// The login, although this device has just been registered.
    Login,
    /// The hub refuses a token that auth has just given out.
    Hub,
}

/// What auth said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The device is registered.
    Registered,
    /// A new token.
    Session {
        /// How long it lives.
        ttl: Duration,
    },
    /// Auth takes a further secret of the device.
    Told,
    /// No; with auth's clock, in milliseconds since 1970, where it told it.
    Refused {
        /// From the `Date` header.
        date_ms: Option<u64>,
    },
    /// Auth stops, or its Redis is in trouble.
    Unavailable {
        /// When to come back.
        retry_after: Duration,
    },
    /// Not now; and perhaps when.
    Busy {
        /// From the `Retry-After` header.
        retry_after: Option<Duration>,
    },
    /// Nobody answered.
    Unreachable,
    /// Something answered, but not as auth does.
    Odd,
}

/// Whether there is a one-time secret to register with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneTime {
    /// There is.
    AtHand,
    /// There is not.
    Missing,
}

/// From when to when a token lives by this device's clock, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// When it was given out.
    pub issued_at_ms: u64,
    /// When it ends.
    pub expires_at_ms: u64,
}

impl Lifetime {
    /// Half of it is over; or the clock was set back, and nothing is known.
    pub fn is_refresh_due(&self, now_ms: u64) -> bool {
        now_ms < self.issued_at_ms || now_ms >= self.refresh_at_ms()
    }

    /// When half of it is over.
    pub fn refresh_at_ms(&self) -> u64 {
        self.issued_at_ms + self.expires_at_ms.saturating_sub(self.issued_at_ms) / 2
    }
}

/// Names a token among those of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial(u64);

/// Which token the hub refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The present one.
    Present,
    /// One that has been refreshed since, and has come to its natural end.
    Older,
}

/// Has the hub taken a token of this login?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has, or this process does not know.
    Good,
    /// Not yet.
    Untried,
}

#[derive(Debug, Clone, Copy)]
struct Token {
    lifetime: Lifetime,
    standing: Standing,
}

/// What was tried since the last wait.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    is_clock_tried: bool,
    is_registration_over: bool,
    is_login_refused: bool,
    is_refresh_over: bool,
    has_just_registered: bool,
}

/// How far this device has come with auth.
#[derive(Debug)]
pub struct Enrolment {
    is_registered: bool,
    token: Option<Token>,
    serial: Serial,
    /// Auth's clock less this device's.
    clock_offset_ms: i64,
    round: Round,
    wait: Option<Wait>,
}

/// What a process knows when it starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// Whether this device has registered before.
    pub is_registered: bool,
    /// The token that was kept.
    pub token: Option<Lifetime>,
}

impl Enrolment {
    /// From what the state directory holds.
    pub fn new(known: Known) -> Self {
        Self {
            is_registered: known.is_registered,
            token: known.token.map(|lifetime| Token { lifetime, standing: Standing::Good }),
            serial: Serial(0),
            clock_offset_ms: 0,
            round: Round::default(),
            wait: None,
        }
    }

    /// What to do next.
    pub fn poll_step(&self, now_ms: u64, one_time: OneTime) -> Step {
        if let Some(wait) = self.wait {
            return Step::Wait(wait);
        }
        if let Some(token) = self.token {
            let is_due = token.lifetime.is_refresh_due(now_ms) && !self.round.is_refresh_over;
            return if is_due { Step::Refresh } else { Step::Connect };
        }
        let can_register = one_time == OneTime::AtHand && !self.round.is_registration_over;
        let can_log_in = !self.round.is_login_refused;
        let register = Step::Register { at_ms: now_ms.saturating_add_signed(self.clock_offset_ms) };
        match (can_register, can_log_in) {
            (true, true) if self.is_registered => Step::LogIn,
            (true, _) => register,
            (false, true) => Step::LogIn,
            (false, false) => Step::Wait(Wait::Refused(self.refused(one_time))),
        }
    }

    /// What auth said to that step.
    pub fn handle_answer(&mut self, step: Step, answer: Answer, now_ms: u64) {
        match (step, answer) {
            (Step::Register { .. }, Answer::Registered) => {
                self.is_registered = true;
                self.round = Round {
                    is_registration_over: true,
                    has_just_registered: true,
                    ..Round::default()
                };
            }
            (Step::Register { at_ms }, Answer::Refused { date_ms }) => {
                self.handle_registration_refused(at_ms, date_ms, now_ms);
            }
            (Step::LogIn | Step::Refresh, Answer::Session { ttl }) => {
                let standing = match self.token {
                    Some(old) => old.standing,
                    None => Standing::Untried,
                };
                let expires_at_ms = now_ms.saturating_add(ttl.as_millis() as u64);
                let lifetime = Lifetime { issued_at_ms: now_ms, expires_at_ms };
                self.token = Some(Token { lifetime, standing });
                self.serial.0 += 1;
                self.is_registered = true;
                // However short its life is: it is not refreshed before it was used.
                self.round = Round { is_refresh_over: true, ..Round::default() };
            }
            (Step::LogIn, Answer::Refused { .. }) => self.round.is_login_refused = true,
            (Step::Refresh, Answer::Refused { .. }) => self.token = None,
            // The token may well be good: the hub decides.
            (Step::Refresh, _) => self.round.is_refresh_over = true,
            (_, Answer::Unavailable { retry_after }) => {
                self.wait = Some(Wait::Unavailable(retry_after));
            }
            (_, Answer::Busy { retry_after }) => self.wait = Some(Wait::Busy(retry_after)),
            (_, Answer::Unreachable) => self.wait = Some(Wait::Unreachable),
            (_, _) => self.wait = Some(Wait::Odd),
        }
    }

    /// The wait is over: all may be tried again.
    pub fn handle_waited(&mut self) {
        self.wait = None;
        self.round = Round::default();
    }

    /// Half of the token's life is over while it is in use.
    pub fn handle_half_life(&mut self) {
        self.round.is_refresh_over = false;
    }

    /// The hub took the token.
    pub fn handle_welcomed(&mut self) {
        if let Some(token) = &mut self.token {
            token.standing = Standing::Good;
        }
    }

    /// The hub refused that token, or ended its session.
    pub fn handle_unauthorized(&mut self, refused: Serial) -> Which {
        if refused != self.serial {
            return Which::Older;
        }
        let token = self.token.take();
        // Two services that do not look into the same Redis must not cost a bcrypt a second.
        if token.is_some_and(|token| token.standing == Standing::Untried) {
            self.wait = Some(Wait::Refused(Refused::Hub));
        }
        Which::Present
    }

    /// Which token is the present one.
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// How long the present token lives.
    pub fn lifetime(&self) -> Option<Lifetime> {
        self.token.map(|token| token.lifetime)
    }

    /// Whether this device has registered.
    pub fn is_registered(&self) -> bool {
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

    fn refused(&self, one_time: OneTime) -> Refused {
        match one_time {
            _ if self.round.has_just_registered => Refused::Login,
            OneTime::AtHand => Refused::Registration,
            OneTime::Missing => Refused::NoOneTimeSecret,
        }
    }
}

#[cfg(test)]
mod tests;
