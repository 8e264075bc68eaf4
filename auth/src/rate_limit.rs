//! How often a client and an address may come: pure, `now` is an argument.
//!
//! A stranger's visit is measured against its address and, where a client is named, against that client; for
//! a login from that address only. A one-time code can be guessed, so registrations are measured from all
//! addresses together. Failures bar the way longer and longer, for that client from that address and, with
//! more patience since a whole site may share it, for the address. Each visit counts as a failure until it
//! has succeeded, so that many at a time are no more than one after the other.
//!
//! A client that is most likely the one it says to be (`Standing::Likely`: a right code or proof, the tag of
//! its secret, a live token) is measured against itself only, apart from strangers: nothing that a stranger
//! does under its name or from its address holds it back.
//!
//! What is known lives in this process alone: several auth processes each allow their own share.
//!
//! The number of keys watched is bounded. When it is reached, those that would be admitted anyway
//! make room; one that is being held back never does, or a flood of made-up names would set it free.

mod meter;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use spoke_protocol::client_id::ClientId;
use spoke_service::server::PeerNet;

use meter::{Meter, Penalty, Rate};

use crate::config::ThrottleSettings;

/// What a visitor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// To register with a one-time code.
    Register,
    /// To log in with its secret.
    Login,
    /// To renew or end a session it has. No bcrypt is run for it.
    Session,
}

/// What is known of a visitor before bcrypt is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Nothing.
    Stranger,
    /// It is most likely the client it says to be.
    Likely,
}

/// Who comes, from where, for what.
#[derive(Debug, Clone)]
pub struct Visit {
    /// What for.
    pub action: Action,
    /// From where.
    pub site: PeerNet,
    /// Whom the visitor says to be; not known of a stranger with `Action::Session`.
    pub client: Option<ClientId>,
    /// What is known of it.
    pub standing: Standing,
}

/// The answer to one who has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// For how long, at least.
    pub wait: Duration,
    /// What it is that came too often.
    pub because: Because,
}

/// What came too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Because {
    /// Visits from the address.
    AddressRate,
    /// Visits for the client.
    ClientRate,
    /// Failures of the client from the address.
    ClientFailures,
    /// Failures from the address.
    AddressFailures,
    /// So many are held back that there is no room for one more.
    NoRoom,
}

impl Because {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::AddressRate,
        Self::ClientRate,
        Self::ClientFailures,
        Self::AddressFailures,
        Self::NoRoom,
    ];

    /// The stable word, in figures.
    pub fn word(self) -> &'static str {
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
enum Key {
    AddressRate(PeerNet),
    /// From one address, where somebody else's visits must not count.
    ClientRate(Action, Standing, ClientId, Option<PeerNet>),
    ClientFailures(Action, Standing, ClientId, PeerNet),
    AddressFailures(PeerNet),
}

impl Key {
    fn because(&self) -> Because {
        match self {
            Self::AddressRate(_) => Because::AddressRate,
            Self::ClientRate(..) => Because::ClientRate,
            Self::ClientFailures(..) => Because::ClientFailures,
            Self::AddressFailures(_) => Because::AddressFailures,
        }
    }
}

/// A visit to a session counts as one unit on its address, one that runs bcrypt as this many.
const BCRYPT_UNITS: u32 = 10;
/// Failures of an address are forgiven at this pace: at a large site some device is always wrong.
const ADDRESS_FORGIVEN_AFTER: Duration = Duration::from_secs(6);
/// The longest that a whole address is barred for failures.
const ADDRESS_BAR_MAX: Duration = Duration::from_secs(60);
/// Between two looks for room when the last one found none.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Rules {
    address: Rate,
    register: Rate,
    login: Rate,
    session: Rate,
    client_failures: Penalty,
    address_failures: Penalty,
}

/// What one process knows of who came how often.
#[derive(Debug)]
pub struct Throttle {
    rules: Rules,
    meters: HashMap<Key, Meter>,
    keys_max: usize,
    no_room_until: Option<Instant>,
}

impl Rules {
    fn of(settings: &ThrottleSettings) -> Self {
        let per_minute = |count: u32| Duration::from_secs(60) / count.max(1);
        let longest = Duration::from_secs(settings.failure_wait_seconds_max);
        Self {
            address: Rate {
                unit: per_minute(settings.address_per_minute) / BCRYPT_UNITS,
                burst: settings.address_burst.saturating_mul(BCRYPT_UNITS),
            },
            register: Rate {
                unit: per_minute(settings.register_per_minute),
                burst: settings.register_burst,
            },
            login: Rate {
                unit: per_minute(settings.login_per_minute),
                burst: settings.login_burst,
            },
            session: Rate {
                unit: per_minute(settings.login_per_minute) / BCRYPT_UNITS,
                burst: settings.login_burst.saturating_mul(BCRYPT_UNITS),
            },
            client_failures: Penalty {
                forgiven_after: longest,
                free: settings.failures_free,
                longest,
            },
            address_failures: Penalty {
                forgiven_after: ADDRESS_FORGIVEN_AFTER,
                free: settings.address_failures_free,
                longest: ADDRESS_BAR_MAX.min(longest),
            },
        }
    }
}

impl Throttle {
    /// Nobody has come yet. At most `keys_max` names and addresses are watched.
    pub fn new(settings: &ThrottleSettings, keys_max: usize) -> Self {
        let rules = Rules::of(settings);
        Self { rules, meters: HashMap::new(), keys_max, no_room_until: None }
    }

    /// Goes by these settings from now on.
    pub fn set_rules(&mut self, settings: &ThrottleSettings) {
        self.rules = Rules::of(settings);
    }

    /// Lets the visit pass and counts it, or says how long to wait; one that waits is not counted.
    ///
    /// # Errors
    /// `Refused` with the longest of the waits that apply.
    pub fn admit(&mut self, visit: &Visit, now: Instant) -> Result<(), Refused> {
        self.check_bars(visit, now)?;
        let charges = self.charges(visit);
        let waits = charges.iter().map(|(key, rate, units)| {
            let wait = self.meters.get(key).map(|meter| meter.rate_wait(*rate, *units, now));
            (key.clone(), wait.unwrap_or_default())
        });
        if let Some((key, wait)) = waits.max_by_key(|(_, wait)| *wait).filter(|w| !w.1.is_zero()) {
            return Err(Refused { wait, because: key.because() });
        }
        let new = charges.iter().filter(|(key, ..)| !self.meters.contains_key(key)).count();
        let has_room = self.has_room(new, now);
        if !has_room && visit.standing == Standing::Stranger {
            let (wait, because) = (SWEEP_INTERVAL, Because::NoRoom);
            return Err(Refused { wait, because });
        }
        for (key, rate, units) in charges {
            // A likely client passes where there is no room to count it.
            if has_room || self.meters.contains_key(&key) {
                self.meters.entry(key).or_insert_with(|| Meter::new(now)).charge(rate, units, now);
            }
        }
        for (key, penalty) in self.penalties(visit) {
            if self.meters.contains_key(&key) || self.has_room(1, now) {
                self.meters.entry(key).or_insert_with(|| Meter::new(now)).fail(penalty, now);
            }
        }
        Ok(())
    }

    /// Forgives the client its failures from this address, since it has shown who it is. Of those of
    /// the address only this visit's own is taken back, or one good client would cover for any number of
    /// guesses at others.
    pub fn handle_success(&mut self, visit: &Visit, now: Instant) {
        self.handle_no_verdict(visit, now);
        if let Some(client) = &visit.client {
            let (action, standing) = (visit.action, visit.standing);
            self.meters.remove(&Key::ClientFailures(action, standing, client.clone(), visit.site));
        }
    }

    /// Takes back that the visit counted as a failure: it was found neither right nor wrong.
    pub fn handle_no_verdict(&mut self, visit: &Visit, now: Instant) {
        for (key, penalty) in self.penalties(visit) {
            let Some(meter) = self.meters.get_mut(&key) else { continue };
            meter.forgive(penalty, now);
            if meter.is_idle(now) {
                self.meters.remove(&key);
            }
        }
    }

    /// How many names and addresses are watched.
    pub fn keys(&self) -> usize {
        self.meters.len()
    }

    fn check_bars(&self, visit: &Visit, now: Instant) -> Result<(), Refused> {
        let keys = self.penalties(visit).into_iter().map(|(key, _)| key);
        let waits =
            keys.filter_map(|key| Some((key.because(), self.meters.get(&key)?.bar_wait(now))));
        match waits.max_by_key(|(_, wait)| *wait).filter(|(_, wait)| !wait.is_zero()) {
            Some((because, wait)) => Err(Refused { wait, because }),
            None => Ok(()),
        }
    }

    /// What a visit is charged to. An `Action::Session` runs no bcrypt.
    fn charges(&self, visit: &Visit) -> Vec<(Key, Rate, u32)> {
        let units = match visit.action {
            Action::Register | Action::Login => BCRYPT_UNITS,
            Action::Session => 1,
        };
        let mut charges = match visit.standing {
            Standing::Stranger => vec![(Key::AddressRate(visit.site), self.rules.address, units)],
            Standing::Likely => Vec::new(),
        };
        if let Some(client) = &visit.client {
            let site = (visit.action == Action::Login).then_some(visit.site);
            let key = Key::ClientRate(visit.action, visit.standing, client.clone(), site);
            let rate = self.client_rate(visit.action);
            charges.push((key, rate, 1));
        }
        charges
    }

    fn penalties(&self, visit: &Visit) -> Vec<(Key, Penalty)> {
        let Some(client) = visit.client.as_ref().filter(|_| visit.action != Action::Session) else {
            return Vec::new();
        };
        let (action, standing) = (visit.action, visit.standing);
        let of_client = Key::ClientFailures(action, standing, client.clone(), visit.site);
        let of_client = (of_client, self.rules.client_failures);
        match standing {
            Standing::Stranger => {
                vec![of_client, (Key::AddressFailures(visit.site), self.rules.address_failures)]
            }
            Standing::Likely => vec![of_client],
        }
    }

    fn client_rate(&self, action: Action) -> Rate {
        match action {
            Action::Register => self.rules.register,
            Action::Login => self.rules.login,
            Action::Session => self.rules.session,
        }
    }

    /// Whether `new` keys fit, after making room for them if need be. An eighth is freed at a time,
    /// so that a flood of new names does not pay for a look at all of them each.
    fn has_room(&mut self, new: usize, now: Instant) -> bool {
        if self.meters.len() + new <= self.keys_max {
            return true;
        }
        if self.no_room_until.is_some_and(|until| now < until) {
            return false;
        }
        self.meters.retain(|_, meter| !meter.is_idle(now));
        let target = self.keys_max - (self.keys_max / 8).max(new).min(self.keys_max);
        let excess = self.meters.len().saturating_sub(target);
        if excess > 0 {
            let mut free: Vec<_> = self
                .meters
                .iter()
                .filter(|(key, meter)| !self.is_held_back(key, meter, now))
                .map(|(key, meter)| (meter.clear_at, key.clone()))
                .collect();
            free.sort_unstable_by_key(|(clear_at, _)| *clear_at);
            for (_, key) in free.into_iter().take(excess) {
                self.meters.remove(&key);
            }
        }
        let has_room = self.meters.len() + new <= self.keys_max;
        self.no_room_until = (!has_room).then(|| now + SWEEP_INTERVAL);
        has_room
    }

    /// Whether forgetting this key would let somebody pass who now has to wait, or count the next
    /// failure for less than it is.
    fn is_held_back(&self, key: &Key, meter: &Meter, now: Instant) -> bool {
        let rules = &self.rules;
        match key {
            Key::AddressRate(_) => !meter.rate_wait(rules.address, BCRYPT_UNITS, now).is_zero(),
            Key::ClientRate(action, ..) => {
                !meter.rate_wait(self.client_rate(*action), 1, now).is_zero()
            }
            Key::ClientFailures(..) => {
                meter.failures(rules.client_failures, now) >= rules.client_failures.free
            }
            Key::AddressFailures(_) => {
                meter.failures(rules.address_failures, now) >= rules.address_failures.free
            }
        }
    }
}

#[cfg(test)]
mod tests;
