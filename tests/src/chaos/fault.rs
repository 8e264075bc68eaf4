//! What goes wrong, to whom, when and for how long: a pure function of the seed.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Connections end now, and the next few each after some bytes.
    Cut,
    /// Connections end for the device, and the hub is not told.
    HalfOpen,
    /// Connections are there and carry nothing.
    BlackHole,
    /// What the device says arrives, what it is answered does not.
    LostAnswers,
    /// Everything arrives late.
    Slow,
    /// No connection can be had.
    Offline,
    /// No WebSocket can be had, only HTTP.
    NoWebsocket,
    /// SIGKILL, and after a while a new one; files are kept.
    Kill,
    /// SIGTERM and a new one, of both hubs in turn.
    Roll,
    /// SIGSTOP, and after a while SIGCONT.
    Pause,
    /// SIGKILL, and the append-only file loses its end before the new one.
    Truncate,
    /// SIGKILL, and there is no file any more for the new one.
    Wipe,
    /// The memory's limit is reached.
    Full,
    /// The same with a backlog in front that was made without a link.
    FullOffline,
    /// The primary becomes a replica of nobody, and a primary again; connections stay.
    Demote,
    /// Another Redis takes its place behind the same address; connections stay with the old one.
    FailOver,
    /// Too few replicas follow for a write to be taken.
    NoReplicas,
    /// It starts before its state directory is mounted.
    Unmounted,
    /// An app trims the out stream, while the link is there.
    Trim,
    /// An app trims the out stream while there is no link.
    TrimOffline,
    /// An app deletes entries.
    Delete,
    /// An operator ends all sessions of a client.
    Revoke,
    /// All sessions of a client are about to run out.
    Expire,
}

/// What it is done to.
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

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When, in milliseconds from the beginning of the load.
    pub at_ms: u64,
    /// For how long.
    pub lasts_ms: u64,
    /// What.
    pub kind: Kind,
    /// To what.
    pub place: Place,
    /// Which one of those there are.
    pub which: usize,
    /// How much: bytes, entries, milliseconds.
    pub amount: u64,
    /// How far the clock of a Redis that lost its file's end is behind when it is back.
    pub clock_back_ms: u64,
}

/// How many of each place there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// Devices, each with a link, an agent and a Redis.
    pub devices: usize,
    /// Hubs behind one address.
    pub hubs: usize,
}

/// One row of what can go wrong.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    kind: Kind,
    place: Place,
    /// How often, beside the others.
    weight: u32,
    lasts_ms: (u64, u64),
    /// Least and most; small ones are drawn as often as large ones.
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

/// Pauses and silences stay well below the product's own limits of 10 s and more, so that a run of a
/// minute sees many of them.
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

/// From the beginning of the load to the first fault: something has to be under way.
const FIRST_MS: u64 = 500;
/// Between one fault and the next, least and most: some come at once, and some find all carried.
const GAP_MS: (u64, u64) = (50, 5000);

/// How far a clock may be behind.
const CLOCK_BACK_MS: (u64, u64) = (500, 60_000);

impl Row {
    /// Such as `kill-agent`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.kind.word(), self.place.word())
    }

    fn is_meant_by(&self, word: &str) -> bool {
        word == "all"
            || word == self.kind.word()
            || word == self.place.word()
            || word == self.name()
    }
}

impl Fault {
    /// Such as `kill-agent`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.kind.word(), self.place.word())
    }
}

/// The rows that these words name, less those that the others do; a word is a kind (`kill`), a place
/// (`agent`), both (`kill-agent`), or `all`.
///
/// # Errors
/// A word that names nothing, with all there are.
pub fn select(with: &[String], without: &[String]) -> Result<Vec<Row>, String> {
    for word in with.iter().chain(without) {
        if !ROWS.iter().any(|row| row.is_meant_by(word)) {
            let names: Vec<_> = ROWS.iter().map(Row::name).collect();
            return Err(format!(
                "there is no fault {word:?}; there are all, a kind, a place, or one of {}",
                names.join(" ")
            ));
        }
    }
    let is_named = |row: &Row, words: &[String]| words.iter().any(|word| row.is_meant_by(word));
    let rows = ROWS.iter().filter(|row| is_named(row, with) && !is_named(row, without));
    Ok(rows.copied().collect())
}

/// The faults of a load of so many milliseconds, in the order of their beginning.
pub fn draw(seed: u64, load_ms: u64, fleet: Fleet, rows: &[Row]) -> Vec<Fault> {
    let mut random = StdRng::seed_from_u64(seed);
    let total: u32 = rows.iter().map(|row| row.weight).sum();
    let mut faults = Vec::new();
    let mut at_ms = FIRST_MS;
    while at_ms < load_ms && total > 0 {
        let mut ticket = random.random_range(0..total);
        let drawn = rows.iter().find(|row| match ticket.checked_sub(row.weight) {
            Some(rest) => {
                ticket = rest;
                false
            }
            None => true,
        });
        let row = drawn.expect("the ticket is below the sum of the weights");
        let fault = one(&mut random, at_ms, row, fleet);
        faults.push(fault);
        if row.kind == Kind::Roll {
            let others = (1..fleet.hubs).map(|next| (fault.which + next) % fleet.hubs);
            faults.extend(others.map(|which| Fault { which, ..fault }));
        }
        at_ms += even(&mut random, GAP_MS);
    }
    faults
}

fn one(random: &mut StdRng, at_ms: u64, row: &Row, fleet: Fleet) -> Fault {
    let count = match row.place {
        // A session belongs to a device.
        Place::Auth if matches!(row.kind, Kind::Revoke | Kind::Expire) => fleet.devices,
        Place::Link | Place::Agent | Place::DeviceRedis => fleet.devices,
        Place::Hub => fleet.hubs,
        Place::CloudRedis if matches!(row.kind, Kind::Trim | Kind::Delete) => fleet.devices,
        Place::CloudRedis | Place::Auth | Place::AuthRedis => 1,
    };
    let which = random.random_range(0..count);
    let lasts_ms = random.random_range(row.lasts_ms.0..=row.lasts_ms.1);
    let amount = even(random, row.amount);
    let has_lost = matches!(row.kind, Kind::Truncate | Kind::Wipe);
    // A device without a clock of its own begins where its file system's dates end.
    let is_back = has_lost && random.random();
    let clock_back_ms = if is_back { even(random, CLOCK_BACK_MS) } else { 0 };
    Fault { at_ms, lasts_ms, kind: row.kind, place: row.place, which, amount, clock_back_ms }
}

/// Even over the orders of magnitude.
fn even(random: &mut StdRng, (least, most): (u64, u64)) -> u64 {
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

    const FLEET: Fleet = Fleet { devices: 2, hubs: 2 };

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn all() -> Vec<Row> {
        select(&words("all"), &[]).unwrap()
    }

    #[test]
    fn one_seed_gives_one_schedule_and_another_seed_another() {
        for seed in 0..20 {
            let faults = draw(seed, 60_000, FLEET, &all());
            assert_eq!(faults, draw(seed, 60_000, FLEET, &all()));
            assert_ne!(faults, draw(seed + 1, 60_000, FLEET, &all()));
        }
    }

    #[test]
    fn a_longer_run_of_a_seed_begins_as_the_shorter_one() {
        let (short, long) = (draw(7, 30_000, FLEET, &all()), draw(7, 90_000, FLEET, &all()));
        assert!(short.len() > 15 && long.len() > 2 * short.len());
        assert!(long.starts_with(&short));
    }

    #[test]
    fn every_row_is_drawn_in_time_and_hits_only_what_there_is() {
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
