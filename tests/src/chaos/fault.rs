//! The schedule of faults: what fails, where, when and for how long; a pure function of the seed.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Connections end now, and the next few end after some bytes each.
    Cut,
    /// Connections end for the device, and the hub does not notice.
    HalfOpen,
    /// Connections stay open and carry nothing.
    BlackHole,
    /// What the device sends arrives, the answers do not.
    LostAnswers,
    /// Everything arrives late.
    Slow,
    /// Connections are refused.
    Offline,
    /// WebSockets are refused, HTTP works.
    NoWebsocket,
    /// SIGKILL, and after a while a restart; files are kept.
    Kill,
    /// SIGTERM and a restart, of both hubs in turn.
    Roll,
    /// SIGSTOP, and after a while SIGCONT.
    Pause,
    /// SIGKILL, and the append-only file loses its end before the restart.
    Truncate,
    /// SIGKILL, and the append-only file is deleted before the restart.
    Wipe,
    /// The memory limit is reached.
    Full,
    /// The same after a backlog was built up without a link.
    FullOffline,
    /// The primary becomes a replica without a primary, and then a primary again; connections stay.
    Demote,
    /// Another Redis takes its place behind the same address; connections stay with the old one.
    FailOver,
    /// Too few replicas for a write.
    NoReplicas,
    /// The agent starts before its state directory is mounted.
    Unmounted,
    /// An app trims the out stream while the link works.
    Trim,
    /// An app trims the out stream while there is no link.
    TrimOffline,
    /// An app deletes entries.
    Delete,
    /// An operator ends all sessions of a client.
    Revoke,
    /// All sessions of a client are about to expire.
    Expire,
}

/// The target of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The link of a device.
    Link,
    /// An agent.
    Agent,
    /// The Redis of a device.
    DeviceRedis,
    /// A hub.
    Hub,
    /// The Redis of the streams in the cloud.
    CloudRedis,
    /// Auth.
    Auth,
    /// The Redis of auth.
    AuthRedis,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When, in milliseconds from the start of the load.
    pub at_ms: u64,
    /// How long.
    pub lasts_ms: u64,
    /// Which kind.
    pub kind: Kind,
    /// Which target.
    pub place: Place,
    /// The index of the target among those of its place.
    pub which: usize,
    /// How much: bytes, entries or milliseconds.
    pub amount: u64,
    /// How far the clock of a Redis that lost the end of its file is behind when it is back.
    pub clock_back_ms: u64,
}

/// The number of targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// Devices, each with a link, a process with agents, and a Redis.
    pub devices: usize,
    /// Clients, spread evenly over the devices.
    pub clients: usize,
    /// Hubs behind one address.
    pub hubs: usize,
}

/// One row of the table of faults.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    kind: Kind,
    place: Place,
    /// The relative frequency.
    weight: u32,
    lasts_ms: (u64, u64),
    /// The bounds of the amount; each order of magnitude is equally likely.
    amount: (u64, u64),
}

const fn row(
    kind: Kind,
    place: Place,
    weight: u32,
    lasts_ms: (u64, u64),
    amount: (u64, u64),
) -> Row {
    Row { kind, place, weight, lasts_ms, amount }
}

/// Pauses and silences are much shorter than the product's timeouts of 10 s and more, so that a run of a
/// minute has many of them.
const ROWS: [Row; 43] = [
    row(Kind::Cut, Place::Link, 8, (0, 0), (1, 300_000)),
    row(Kind::HalfOpen, Place::Link, 4, (500, 5000), (0, 0)),
    row(Kind::BlackHole, Place::Link, 4, (200, 5000), (0, 0)),
    row(Kind::LostAnswers, Place::Link, 4, (200, 3000), (0, 0)),
    row(Kind::Slow, Place::Link, 3, (500, 4000), (5, 300)),
    row(Kind::Offline, Place::Link, 4, (500, 8000), (0, 0)),
    row(Kind::NoWebsocket, Place::Link, 3, (1000, 6000), (0, 0)),
    row(Kind::TrimOffline, Place::Link, 4, (500, 6000), (1, 300)),
    row(Kind::FullOffline, Place::Link, 2, (500, 4000), (0, 0)),
    row(Kind::Kill, Place::Agent, 6, (0, 3000), (0, 0)),
    row(Kind::Pause, Place::Agent, 3, (100, 4000), (0, 0)),
    row(Kind::Unmounted, Place::Agent, 2, (500, 4000), (0, 0)),
    row(Kind::Kill, Place::DeviceRedis, 5, (0, 2000), (0, 0)),
    row(Kind::Pause, Place::DeviceRedis, 2, (100, 3000), (0, 0)),
    row(Kind::Truncate, Place::DeviceRedis, 6, (0, 2000), (10, 3_000_000)),
    row(Kind::Wipe, Place::DeviceRedis, 2, (0, 2000), (0, 0)),
    row(Kind::Full, Place::DeviceRedis, 2, (200, 3000), (0, 0)),
    row(Kind::Demote, Place::DeviceRedis, 2, (200, 3000), (1, 3)),
    row(Kind::NoReplicas, Place::DeviceRedis, 2, (200, 3000), (0, 0)),
    row(Kind::Trim, Place::DeviceRedis, 2, (0, 0), (1, 300)),
    row(Kind::Delete, Place::DeviceRedis, 2, (0, 0), (1, 5)),
    row(Kind::Kill, Place::Hub, 6, (0, 3000), (0, 0)),
    row(Kind::Roll, Place::Hub, 3, (0, 1000), (0, 0)),
    row(Kind::Pause, Place::Hub, 3, (100, 4000), (0, 0)),
    row(Kind::Kill, Place::CloudRedis, 5, (0, 2000), (0, 0)),
    row(Kind::Pause, Place::CloudRedis, 2, (100, 3000), (0, 0)),
    row(Kind::Truncate, Place::CloudRedis, 5, (0, 2000), (10, 3_000_000)),
    row(Kind::Wipe, Place::CloudRedis, 1, (0, 2000), (0, 0)),
    row(Kind::Full, Place::CloudRedis, 2, (200, 3000), (0, 0)),
    row(Kind::Demote, Place::CloudRedis, 2, (200, 3000), (1, 3)),
    row(Kind::FailOver, Place::CloudRedis, 2, (0, 0), (0, 0)),
    row(Kind::NoReplicas, Place::CloudRedis, 2, (200, 3000), (0, 0)),
    row(Kind::Trim, Place::CloudRedis, 2, (0, 0), (1, 300)),
    row(Kind::Delete, Place::CloudRedis, 2, (0, 0), (1, 5)),
    row(Kind::Kill, Place::Auth, 3, (0, 6000), (0, 0)),
    row(Kind::Pause, Place::Auth, 1, (100, 3000), (0, 0)),
    row(Kind::Revoke, Place::Auth, 3, (0, 0), (0, 0)),
    row(Kind::Expire, Place::Auth, 2, (0, 0), (1, 2000)),
    row(Kind::Cut, Place::Auth, 1, (0, 0), (1, 2000)),
    row(Kind::Kill, Place::AuthRedis, 2, (0, 2000), (0, 0)),
    row(Kind::Pause, Place::AuthRedis, 1, (100, 3000), (0, 0)),
    row(Kind::Demote, Place::AuthRedis, 1, (200, 3000), (1, 3)),
    row(Kind::NoReplicas, Place::AuthRedis, 1, (200, 3000), (0, 0)),
];

/// The time from the start of the load to the first fault, when entries are in flight.
const FIRST_MS: u64 = 500;
/// The bounds of the time between two faults: some follow at once, and some find everything carried.
const GAP_MS: (u64, u64) = (50, 5000);

/// The bounds of how far a clock may be behind.
const CLOCK_BACK_MS: (u64, u64) = (500, 60_000);

impl Row {
    /// The name, such as `kill-agent`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.kind.word(), self.place.word())
    }

    fn matches(&self, word: &str) -> bool {
        word == "all"
            || word == self.kind.word()
            || word == self.place.word()
            || word == self.name()
    }
}

impl Fault {
    /// The name, such as `kill-agent`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.kind.word(), self.place.word())
    }
}

/// The rows that the words of `with` name, except those that the words of `without` name; a word is a kind
/// (`kill`), a place (`agent`), both (`kill-agent`), or `all`.
///
/// # Errors
/// If a word names no row, with all names.
pub fn select(with: &[String], without: &[String]) -> Result<Vec<Row>, String> {
    for word in with.iter().chain(without) {
        if !ROWS.iter().any(|row| row.matches(word)) {
            let names: Vec<_> = ROWS.iter().map(Row::name).collect();
            return Err(format!(
                "unknown fault {word:?}, expected all, a kind, a place, or one of {}",
                names.join(" ")
            ));
        }
    }
    let is_named = |row: &Row, words: &[String]| words.iter().any(|word| row.matches(word));
    let rows = ROWS.iter().filter(|row| is_named(row, with) && !is_named(row, without));
    Ok(rows.copied().collect())
}

/// The faults for a load of this many milliseconds, in the order of their start.
pub fn draw(seed: u64, load_ms: u64, fleet: Fleet, rows: &[Row]) -> Vec<Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let total: u32 = rows.iter().map(|row| row.weight).sum();
    let mut faults = Vec::new();
    let mut at_ms = FIRST_MS;
    while at_ms < load_ms && total > 0 {
        let mut lot = random.random_range(0..total);
        let drawn = rows.iter().find(|row| match lot.checked_sub(row.weight) {
            Some(rest) => {
                lot = rest;
                false
            }
            None => true,
        });
        let row = drawn.expect("the lot is below the sum of the weights");
        let fault = one(&mut random, at_ms, row, fleet);
        faults.push(fault);
        if row.kind == Kind::Roll {
            let others = (1..fleet.hubs).map(|next| (fault.which + next) % fleet.hubs);
            faults.extend(others.map(|which| Fault { which, ..fault }));
        }
        at_ms += draw_log_uniform(&mut random, GAP_MS);
    }
    faults
}

fn one(random: &mut StdRng, at_ms: u64, row: &Row, fleet: Fleet) -> Fault {
    let count = match row.place {
        // Sessions belong to clients.
        Place::Auth if matches!(row.kind, Kind::Revoke | Kind::Expire) => fleet.clients,
        Place::Link | Place::Agent | Place::DeviceRedis => fleet.devices,
        Place::Hub => fleet.hubs,
        Place::CloudRedis if matches!(row.kind, Kind::Trim | Kind::Delete) => fleet.clients,
        Place::CloudRedis | Place::Auth | Place::AuthRedis => 1,
    };
    let which = random.random_range(0..count);
    let lasts_ms = random.random_range(row.lasts_ms.0..=row.lasts_ms.1);
    let amount = draw_log_uniform(random, row.amount);
    let has_lost = matches!(row.kind, Kind::Truncate | Kind::Wipe);
    // A device without a battery-backed clock starts at the latest date in its file system.
    let is_back = has_lost && random.random();
    let clock_back_ms = if is_back { draw_log_uniform(random, CLOCK_BACK_MS) } else { 0 };
    Fault { at_ms, lasts_ms, kind: row.kind, place: row.place, which, amount, clock_back_ms }
}

/// Draws a number, uniformly on a logarithmic scale.
fn draw_log_uniform(random: &mut StdRng, (least, most): (u64, u64)) -> u64 {
    let part: f64 = random.random();
    match least {
        0 => 0,
        least => (least as f64 * (most as f64 / least as f64).powf(part)) as u64,
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::HalfOpen => "half-open",
            Self::BlackHole => "black-hole",
            Self::LostAnswers => "lost-answers",
            Self::Slow => "slow",
            Self::Offline => "offline",
            Self::NoWebsocket => "no-websocket",
            Self::Kill => "kill",
            Self::Roll => "roll",
            Self::Pause => "pause",
            Self::Truncate => "truncate",
            Self::Wipe => "wipe",
            Self::Full => "full",
            Self::FullOffline => "full-offline",
            Self::Demote => "demote",
            Self::FailOver => "fail-over",
            Self::NoReplicas => "no-replicas",
            Self::Unmounted => "unmounted",
            Self::Trim => "trim",
            Self::TrimOffline => "trim-offline",
            Self::Delete => "delete",
            Self::Revoke => "revoke",
            Self::Expire => "expire",
        }
    }
}

impl Place {
    fn word(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Agent => "agent",
            Self::DeviceRedis => "device-redis",
            Self::Hub => "hub",
            Self::CloudRedis => "cloud-redis",
            Self::Auth => "auth",
            Self::AuthRedis => "auth-redis",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FLEET: Fleet = Fleet { devices: 2, clients: 2, hubs: 2 };

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn all() -> Vec<Row> {
        select(&words("all"), &[]).unwrap()
    }

    #[test]
    fn each_seed_determines_its_own_schedule() {
        for seed in 0..20 {
            let faults = draw(seed, 60_000, FLEET, &all());
            assert_eq!(faults, draw(seed, 60_000, FLEET, &all()));
            assert_ne!(faults, draw(seed + 1, 60_000, FLEET, &all()));
        }
    }

    #[test]
    fn a_longer_run_of_a_seed_starts_with_the_shorter_one() {
        let (short, long) = (draw(7, 30_000, FLEET, &all()), draw(7, 90_000, FLEET, &all()));
        assert!(short.len() > 15 && long.len() > 2 * short.len());
        assert!(long.starts_with(&short));
    }

    #[test]
    fn every_row_is_drawn_in_time_and_targets_only_what_exists() {
        let mut seen = BTreeSet::new();
        for fault in (0..50).flat_map(|seed| draw(seed, 60_000, FLEET, &all())) {
            assert!(fault.at_ms < 60_000 && fault.which < 2, "{fault:?}");
            seen.insert(fault.name());
        }
        let names: BTreeSet<_> = ROWS.iter().map(Row::name).collect();
        assert_eq!(seen, names);
    }

    #[test]
    fn words_select_by_kind_by_place_and_by_both() {
        let names = |with: &str, without: &str| -> Vec<String> {
            let rows = select(&words(with), &words(without)).unwrap();
            rows.iter().map(Row::name).collect()
        };
        assert_eq!(names("wipe", ""), ["wipe-device-redis", "wipe-cloud-redis"]);
        assert_eq!(
            names("agent revoke", "pause"),
            ["kill-agent", "unmounted-agent", "revoke-auth"]
        );
        assert_eq!(names("kill-hub", ""), ["kill-hub"]);
        assert_eq!(names("all", "all"), [""; 0]);
        assert!(select(&words("kil"), &[]).unwrap_err().contains("kill-agent"));
        assert!(draw(1, 60_000, FLEET, &[]).is_empty());
    }

    #[test]
    fn both_hubs_are_rolled_one_after_the_other() {
        let rows = select(&words("roll"), &[]).unwrap();
        for pair in draw(3, 60_000, FLEET, &rows).chunks(2) {
            assert_eq!(pair[0].at_ms, pair[1].at_ms);
            assert_ne!(pair[0].which, pair[1].which);
        }
    }
}
