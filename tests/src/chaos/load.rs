//! The entries that apps add: a pure function of the seed, the origin and the entry's number.

use std::hash::{DefaultHasher, Hash, Hasher};

use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use crate::entries::Fields;

/// The field with the unique name of an entry, such as `dev1.up/17`. Its ID is not unique: a Redis that
/// lost the end of its file generates the same ID again.
pub const NAME: &[u8] = b"chaos";

/// A total size of values above the limit.
const TOO_LARGE: usize = 1024 * 1024 + 1;
/// A number of fields above the limit.
const TOO_MANY: usize = 129;

/// An entry to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its number in its origin.
    pub number: u64,
    /// Its fields.
    pub fields: Fields,
    /// Whether it can never be carried and belongs to the dead letters.
    pub is_poison: bool,
}

/// How an app adds: some entries at once, then a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// The number of entries.
    pub entries: u64,
    /// The pause afterwards.
    pub pause_ms: u64,
}

/// The entry of this number.
pub fn offer(seed: u64, origin: &str, number: u64) -> Offer {
    let mut random = source(seed, origin, ("entry", number));
    let mut fields = vec![(NAME.to_vec(), format!("{origin}/{number}").into_bytes())];
    let mut is_poison = false;
    match random.random_range(0..1000) {
        0 => (fields, is_poison) = (with_many(fields, TOO_MANY), true),
        1 => {
            fields.insert(0, (b"seq".to_vec(), b"1-1".to_vec()));
            is_poison = true;
        }
        2 if number.is_multiple_of(3) => {
            fields.push((b"body".to_vec(), vec![b'x'; TOO_LARGE]));
            is_poison = true;
        }
        3..8 => fields.push((b"body".to_vec(), bytes(&mut random, 20_000..200_000))),
        8..40 => fields.push((b"body".to_vec(), bytes(&mut random, 1000..20_000))),
        40..60 => fields.push((Vec::new(), Vec::new())),
        60..80 => fields.push((b"\xff\xfe\0".to_vec(), b"\xc3\x28\0\r\n".to_vec())),
        80..90 => {
            let count = random.random_range(2..120);
            fields = with_many(fields, count);
        }
        90..110 => {
            let repeated = [("z", "1"), ("a", "2"), ("z", "3"), ("z", "1")];
            fields.extend(repeated.map(|(name, value)| (name.into(), value.into())));
        }
        110..120 => {}
        _ => fields.push((b"body".to_vec(), bytes(&mut random, 0..400))),
    }
    Offer { number, fields, is_poison }
}

/// The burst of an app's turn of this number.
pub fn burst(seed: u64, origin: &str, turn: u64) -> Burst {
    let mut random = source(seed, origin, ("burst", turn));
    let entries = match random.random_range(0..10) {
        0 => random.random_range(100..400),
        1..5 => 1,
        _ => random.random_range(2..60),
    };
    let pause_ms = match random.random_range(0..10) {
        0 => random.random_range(500..2000),
        1..4 => 0,
        _ => random.random_range(1..200),
    };
    Burst { entries, pause_ms }
}

/// The origin and number in an entry's name.
pub fn name_of(fields: &Fields) -> Option<(String, u64)> {
    let (_, name) = fields.iter().find(|(field, _)| field == NAME)?;
    let (origin, number) = std::str::from_utf8(name).ok()?.rsplit_once('/')?;
    Some((origin.to_owned(), number.parse().ok()?))
}

/// A hash of the fields' bytes, order and number, comparable within one run.
pub fn digest(fields: &[(Vec<u8>, Vec<u8>)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    fields.hash(&mut hasher);
    hasher.finish()
}

fn source(seed: u64, origin: &str, what: (&str, u64)) -> StdRng {
    let mut state = [0; 32];
    state[..8].copy_from_slice(&seed.to_le_bytes());
    state[8..16].copy_from_slice(&what.1.to_le_bytes());
    for (at, byte) in origin.bytes().chain(*b"/").chain(what.0.bytes()).enumerate() {
        let at = 16 + at % 16;
        state[at] = state[at].wrapping_mul(31).wrapping_add(byte);
    }
    StdRng::from_seed(state)
}

fn bytes(random: &mut StdRng, length: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(length)];
    random.fill_bytes(&mut bytes);
    bytes
}

fn with_many(mut fields: Fields, count: usize) -> Fields {
    let more = fields.len()..count;
    fields.extend(more.map(|n| (format!("field-{n}").into_bytes(), n.to_string().into_bytes())));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_reproducible_and_contains_its_own_name() {
        for number in 0..2000 {
            let entry = offer(1, "dev1.up", number);
            assert_eq!(entry, offer(1, "dev1.up", number));
            assert_eq!(name_of(&entry.fields), Some(("dev1.up".to_owned(), number)));
            assert_ne!(digest(&entry.fields), digest(&offer(1, "dev1.down", number).fields));
        }
    }

    #[test]
    fn every_kind_of_poison_occurs_but_rarely() {
        let offers: Vec<_> = (0..20_000).map(|number| offer(5, "dev1.up", number)).collect();
        let poison: Vec<_> = offers.iter().filter(|offer| offer.is_poison).collect();
        assert!((10..200).contains(&poison.len()), "{}", poison.len());
        assert!(poison.iter().any(|offer| offer.fields.len() == TOO_MANY));
        assert!(poison.iter().any(|offer| offer.fields[0].0 == b"seq"));
        assert!(poison.iter().any(|offer| offer.fields.iter().any(|f| f.1.len() == TOO_LARGE)));
    }

    #[test]
    fn bursts_and_pauses_come_from_the_seed() {
        let turns: Vec<_> = (0..100).map(|turn| burst(3, "dev2.down", turn)).collect();
        let again: Vec<_> = (0..100).map(|turn| burst(3, "dev2.down", turn)).collect();
        assert_eq!(turns, again);
        assert!(turns.iter().any(|burst| burst.entries > 99 && burst.entries < 400));
        assert!(turns.iter().any(|burst| burst.pause_ms >= 500));
    }
}
