//! Rate limits of clients and addresses: pure, `now` is an argument.
//!
//! An attempt that failed the precheck counts against its address and, where it names a client, against that client;
//! for a login from that address only. A one-time code can be guessed, so registrations count from all addresses
//! together. Failures add a growing wait, for that client from that address and, later since a whole peer may share
//! it, for the address. Each attempt counts as a failure until it has succeeded, so that concurrent attempts count as
//! much as consecutive ones.
//!
//! An attempt that passed the precheck ([`Precheck::Passed`]) counts against its client only, apart from the others:
//! attempts of other peers under its name or from its address never throttle it.
//!
//! The counts live in this process alone: several auth processes each allow their own share.
//!
//! The number of keys is bounded. At the bound, keys that throttle no attempt are evicted. A key that throttles one
//! never is, or a flood of made-up names would reset it.

mod meter;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use spoke_protocol::ClientId;
use spoke_service::server::PeerNet;

use meter::{FailurePenalty, RateMeter, RefillRate};

use crate::config::RateLimitSettings;

/// The endpoint of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AuthAction {
    /// Registers with a one-time code or a proof.
    Register,
    /// Logs in, or rotates the secret.
    Login,
    /// Refreshes or ends a session, without bcrypt.
    Session,
}

/// The result of the cheap check that runs before bcrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Precheck {
    /// Nothing supports the claimed identity.
    Failed,
    /// The request has a right code or proof, the tag of the client's secret, or a live token.
    Passed,
}

/// One request, as the limits count it.
#[derive(Debug, Clone)]
pub(crate) struct AuthAttempt {
    /// The endpoint.
    pub(crate) action: AuthAction,
    /// The network of the peer.
    pub(crate) peer: PeerNet,
    /// The claimed client; `None` for an invalid token.
    pub(crate) client: Option<ClientId>,
    /// The result of the precheck.
    pub(crate) precheck: Precheck,
}

/// The attempt is over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimitError {
    /// The minimum time to wait.
    pub(crate) wait: Duration,
    /// The limit with the longest wait.
    pub(crate) kind: LimitKind,
}

/// The kind of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LimitKind {
    /// Attempts from the address.
    AddressRate,
    /// Attempts for the client.
    ClientRate,
    /// Failures for the client from the address.
    ClientFailures,
    /// Failures from the address.
    AddressFailures,
    /// The number of keys is at its bound, and each throttles an attempt.
    NoRoom,
}

impl LimitKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 5] = [
        Self::AddressRate,
        Self::ClientRate,
        Self::ClientFailures,
        Self::AddressFailures,
        Self::NoRoom,
    ];

    /// Returns the stable word, for metrics and logs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::AddressRate => "address-rate",
            Self::ClientRate => "client-rate",
            Self::ClientFailures => "client-failures",
            Self::AddressFailures => "address-failures",
            Self::NoRoom => "no-room",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum RateKey {
    AddressRate(PeerNet),
    /// With the network where attempts from others must not count.
    ClientRate(AuthAction, Precheck, ClientId, Option<PeerNet>),
    ClientFailures(AuthAction, Precheck, ClientId, PeerNet),
    AddressFailures(PeerNet),
}

impl RateKey {
    fn kind(&self) -> LimitKind {
        match self {
            Self::AddressRate(_) => LimitKind::AddressRate,
            Self::ClientRate(..) => LimitKind::ClientRate,
            Self::ClientFailures(..) => LimitKind::ClientFailures,
            Self::AddressFailures(_) => LimitKind::AddressFailures,
        }
    }
}

/// Units of an attempt that runs bcrypt, on its address; [`AuthAction::Session`] counts as one.
const BCRYPT_UNITS: u32 = 10;
/// Until one failure of an address is forgiven: at a large peer, some device always fails.
const ADDRESS_FORGIVEN_AFTER: Duration = Duration::from_secs(6);
/// The longest wait of a whole address for failures.
const ADDRESS_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two evictions when the last one found no key to evict.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct RateRules {
    address: RefillRate,
    register: RefillRate,
    login: RefillRate,
    session: RefillRate,
    client_failures: FailurePenalty,
    address_failures: FailurePenalty,
}

/// The rate limits of one process, with their counts.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    rules: RateRules,
    meters: HashMap<RateKey, RateMeter>,
    keys_max: usize,
    full_until: Option<Instant>,
}

impl RateRules {
    fn of(settings: &RateLimitSettings) -> Self {
        let per_minute = |count: u32| Duration::from_secs(60) / count.max(1);
        let longest = Duration::from_secs(settings.failure_wait_seconds_max);
        Self {
            address: RefillRate {
                unit: per_minute(settings.address_per_minute) / BCRYPT_UNITS,
                burst: settings.address_burst.saturating_mul(BCRYPT_UNITS),
            },
            register: RefillRate {
                unit: per_minute(settings.register_per_minute),
                burst: settings.register_burst,
            },
            login: RefillRate {
                unit: per_minute(settings.login_per_minute),
                burst: settings.login_burst,
            },
            session: RefillRate {
                unit: per_minute(settings.login_per_minute) / BCRYPT_UNITS,
                burst: settings.login_burst.saturating_mul(BCRYPT_UNITS),
            },
            client_failures: FailurePenalty {
                forgiven_after: longest,
                free: settings.failures_free,
                longest,
            },
            address_failures: FailurePenalty {
                forgiven_after: ADDRESS_FORGIVEN_AFTER,
                free: settings.address_failures_free,
                longest: ADDRESS_WAIT_MAX.min(longest),
            },
        }
    }
}

impl RateLimiter {
    /// Returns a limiter without counts, for at most `keys_max` clients and addresses.
    pub(crate) fn new(settings: &RateLimitSettings, keys_max: usize) -> Self {
        let rules = RateRules::of(settings);
        Self { rules, meters: HashMap::new(), keys_max, full_until: None }
    }

    /// Applies these settings from now on. The counts so far stay.
    pub(crate) fn set_rules(&mut self, settings: &RateLimitSettings) {
        self.rules = RateRules::of(settings);
    }

    /// Admits the attempt and counts it. An attempt over a limit is not counted.
    ///
    /// # Errors
    /// [`RateLimitError`] with the longest of the waits that apply.
    pub(crate) fn admit(
        &mut self,
        attempt: &AuthAttempt,
        now: Instant,
    ) -> Result<(), RateLimitError> {
        self.check_failures(attempt, now)?;
        let charges = self.charges(attempt);
        let waits = charges.iter().map(|(key, rate, units)| {
            let wait = self.meters.get(key).map(|meter| meter.rate_wait(*rate, *units, now));
            (key.clone(), wait.unwrap_or_default())
        });
        if let Some((key, wait)) = waits.max_by_key(|(_, wait)| *wait).filter(|w| !w.1.is_zero()) {
            return Err(RateLimitError { wait, kind: key.kind() });
        }
        let new = charges.iter().filter(|(key, ..)| !self.meters.contains_key(key)).count();
        let has_room = self.has_room(new, now);
        if !has_room && attempt.precheck == Precheck::Failed {
            let (wait, kind) = (SWEEP_INTERVAL, LimitKind::NoRoom);
            return Err(RateLimitError { wait, kind });
        }
        for (key, rate, units) in charges {
            // A prechecked attempt is admitted even where no key is left to count it.
            if has_room || self.meters.contains_key(&key) {
                self.meters
                    .entry(key)
                    .or_insert_with(|| RateMeter::new(now))
                    .charge(rate, units, now);
            }
        }
        for (key, penalty) in self.penalties(attempt) {
            if self.meters.contains_key(&key) || self.has_room(1, now) {
                self.meters.entry(key).or_insert_with(|| RateMeter::new(now)).fail(penalty, now);
            }
        }
        Ok(())
    }

    /// Forgives the failures of the client from this address, since it has proven its identity. Of the failures of
    /// the address only this attempt's own is forgiven, or one good client would cover any number of guesses at others.
    pub(crate) fn handle_success(&mut self, attempt: &AuthAttempt, now: Instant) {
        self.handle_no_verdict(attempt, now);
        if let Some(client) = &attempt.client {
            let (action, precheck) = (attempt.action, attempt.precheck);
            self.meters.remove(&RateKey::ClientFailures(
                action,
                precheck,
                client.clone(),
                attempt.peer,
            ));
        }
    }

    /// No longer counts the attempt as a failure: it was found neither right nor wrong.
    pub(crate) fn handle_no_verdict(&mut self, attempt: &AuthAttempt, now: Instant) {
        for (key, penalty) in self.penalties(attempt) {
            let Some(meter) = self.meters.get_mut(&key) else { continue };
            meter.forgive(penalty, now);
            if meter.is_idle(now) {
                self.meters.remove(&key);
            }
        }
    }

    /// Returns the number of clients and addresses with counts.
    pub(crate) fn keys(&self) -> usize {
        self.meters.len()
    }

    fn check_failures(&self, attempt: &AuthAttempt, now: Instant) -> Result<(), RateLimitError> {
        let keys = self.penalties(attempt).into_iter().map(|(key, _)| key);
        let waits =
            keys.filter_map(|key| Some((key.kind(), self.meters.get(&key)?.failure_wait(now))));
        match waits.max_by_key(|(_, wait)| *wait).filter(|(_, wait)| !wait.is_zero()) {
            Some((kind, wait)) => Err(RateLimitError { wait, kind }),
            None => Ok(()),
        }
    }

    /// Returns the keys that an attempt counts against, each with its rate and units.
    fn charges(&self, attempt: &AuthAttempt) -> Vec<(RateKey, RefillRate, u32)> {
        let units = match attempt.action {
            AuthAction::Register | AuthAction::Login => BCRYPT_UNITS,
            AuthAction::Session => 1,
        };
        let mut charges = match attempt.precheck {
            Precheck::Failed => {
                vec![(RateKey::AddressRate(attempt.peer), self.rules.address, units)]
            }
            Precheck::Passed => Vec::new(),
        };
        if let Some(client) = &attempt.client {
            let peer = (attempt.action == AuthAction::Login).then_some(attempt.peer);
            let key = RateKey::ClientRate(attempt.action, attempt.precheck, client.clone(), peer);
            let rate = self.client_rate(attempt.action);
            charges.push((key, rate, 1));
        }
        charges
    }

    fn penalties(&self, attempt: &AuthAttempt) -> Vec<(RateKey, FailurePenalty)> {
        let Some(client) =
            attempt.client.as_ref().filter(|_| attempt.action != AuthAction::Session)
        else {
            return Vec::new();
        };
        let (action, precheck) = (attempt.action, attempt.precheck);
        let of_client = RateKey::ClientFailures(action, precheck, client.clone(), attempt.peer);
        let of_client = (of_client, self.rules.client_failures);
        match precheck {
            Precheck::Failed => {
                vec![
                    of_client,
                    (RateKey::AddressFailures(attempt.peer), self.rules.address_failures),
                ]
            }
            Precheck::Passed => vec![of_client],
        }
    }

    fn client_rate(&self, action: AuthAction) -> RefillRate {
        match action {
            AuthAction::Register => self.rules.register,
            AuthAction::Login => self.rules.login,
            AuthAction::Session => self.rules.session,
        }
    }

    /// Returns whether `new` keys fit, after an eviction if necessary. It evicts an eighth at a time, so that a flood of
    /// new names does not scan all keys each time.
    fn has_room(&mut self, new: usize, now: Instant) -> bool {
        if self.meters.len() + new <= self.keys_max {
            return true;
        }
        if self.full_until.is_some_and(|until| now < until) {
            return false;
        }
        self.meters.retain(|_, meter| !meter.is_idle(now));
        let target = self.keys_max - (self.keys_max / 8).max(new).min(self.keys_max);
        let excess = self.meters.len().saturating_sub(target);
        if excess > 0 {
            let mut free: Vec<_> = self
                .meters
                .iter()
                .filter(|(key, meter)| !self.is_throttling(key, meter, now))
                .map(|(key, meter)| (meter.clear_at, key.clone()))
                .collect();
            free.sort_unstable_by_key(|(clear_at, _)| *clear_at);
            for (_, key) in free.into_iter().take(excess) {
                self.meters.remove(&key);
            }
        }
        let has_room = self.meters.len() + new <= self.keys_max;
        self.full_until = (!has_room).then(|| now + SWEEP_INTERVAL);
        has_room
    }

    /// Returns whether evicting this key would admit an attempt that has to wait now, or shorten the wait after the
    /// next failure.
    fn is_throttling(&self, key: &RateKey, meter: &RateMeter, now: Instant) -> bool {
        let rules = &self.rules;
        match key {
            RateKey::AddressRate(_) => !meter.rate_wait(rules.address, BCRYPT_UNITS, now).is_zero(),
            RateKey::ClientRate(action, ..) => {
                !meter.rate_wait(self.client_rate(*action), 1, now).is_zero()
            }
            RateKey::ClientFailures(..) => {
                meter.failures(rules.client_failures, now) >= rules.client_failures.free
            }
            RateKey::AddressFailures(_) => {
                meter.failures(rules.address_failures, now) >= rules.address_failures.free
            }
        }
    }
}

#[cfg(test)]
mod tests;
