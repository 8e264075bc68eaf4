//! A fault that repeats is said when it begins and when it ends: pure.

use std::time::{Duration, Instant};

/// The faults since the last time all was well.
#[derive(Debug, Default)]
pub struct Trouble {
    spell: Option<Spell>,
}

#[derive(Debug)]
struct Spell {
    since: Instant,
    count: u64,
    words: Vec<&'static str>,
}

/// What to do with a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It is the first of its kind.
    Aloud,
    /// It has been said.
    Nothing,
}

/// A spell of faults that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// How many there were.
    pub count: u64,
    /// How long it took.
    pub lasted: Duration,
}

impl Trouble {
    /// A fault of the kind that `word` names.
    pub fn handle_fault(&mut self, word: &'static str, now: Instant) -> Say {
        let spell = self.spell.get_or_insert(Spell { since: now, count: 0, words: Vec::new() });
        spell.count += 1;
        if spell.words.contains(&word) {
            return Say::Nothing;
        }
        spell.words.push(word);
        Say::Aloud
    }

    /// All is well; gives the spell that ends with this, if there was one.
    pub fn handle_good(&mut self, now: Instant) -> Option<Over> {
        let spell = self.spell.take()?;
        Some(Over { count: spell.count, lasted: now.duration_since(spell.since) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_once_a_spell_and_the_end_has_the_count() {
        let begin = Instant::now();
        let mut trouble = Trouble::default();
        assert_eq!(trouble.handle_good(begin), None);
        let words = ["unreachable", "broken", "unreachable", "broken", "unreachable"];
        let said = words.map(|word| trouble.handle_fault(word, begin));
        assert_eq!(said, [Say::Aloud, Say::Aloud, Say::Nothing, Say::Nothing, Say::Nothing]);
        let lasted = Duration::from_secs(7);
        assert_eq!(trouble.handle_good(begin + lasted), Some(Over { count: 5, lasted }));
        assert_eq!(trouble.handle_good(begin + lasted), None);
        assert_eq!(trouble.handle_fault("broken", begin), Say::Aloud);
    }
}
