//! The entries added to one origin and their fate there, according to the apps and the origin's own Redis.
//! The verdict covers what happened to them on the way.

use spoke_protocol::Seq;

use super::load::{Offer, digest};

/// The fate of an entry at its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The origin's Redis accepted and kept it, or an app trimmed it: it has to be accounted for.
    Kept,
    /// The answer was lost with the Redis that should have sent it, and the entry was not found afterwards.
    Unanswered,
    /// The origin's own Redis came back without it.
    Forgotten,
    /// An app deleted it.
    Deleted,
}

/// An entry that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Its number.
    pub number: u64,
    /// Its ID in the origin; unknown if it was not answered.
    pub seq: Option<Seq>,
    /// The digest of its fields.
    pub digest: u64,
    /// Whether it belongs to the dead letters.
    pub is_poison: bool,
    /// Its fate.
    pub fate: Fate,
    /// Whether an app may have trimmed it; otherwise only Spoke can have removed it.
    pub is_trimmed: bool,
    /// Whether its Redis was rewound since; its dead letter may have been lost with the end of the file.
    pub is_rewound: bool,
}

/// The entries of one origin in the order in which they were offered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Book {
    /// The name, such as `dev1.up`.
    pub origin: String,
    /// The entries.
    pub entries: Vec<Added>,
    /// How often the origin's Redis came back with an older state.
    pub rewinds: u32,
}

impl Book {
    /// An empty book.
    pub fn new(origin: &str) -> Self {
        Self { origin: origin.to_owned(), ..Self::default() }
    }

    /// Records an entry that Redis accepted, or one without an answer.
    pub fn record(&mut self, offer: &Offer, seq: Option<Seq>) {
        let fate = if seq.is_some() { Fate::Kept } else { Fate::Unanswered };
        let Offer { number, ref fields, is_poison } = *offer;
        self.entries.push(Added {
            number,
            seq,
            digest: digest(fields),
            is_poison,
            fate,
            is_trimmed: false,
            is_rewound: false,
        });
    }

    /// Records that an app deletes this entry.
    pub fn delete(&mut self, seq: Seq) {
        let is_it = |added: &&mut Added| added.seq == Some(seq) && added.fate == Fate::Kept;
        if let Some(added) = self.entries.iter_mut().rev().find(is_it) {
            added.fate = Fate::Deleted;
        }
    }

    /// Records that an app trims everything before this entry.
    pub fn trim(&mut self, first: Seq) {
        let is_before = |added: &&mut Added| added.seq.is_some_and(|seq| seq < first);
        self.entries.iter_mut().filter(is_before).for_each(|added| added.is_trimmed = true);
    }

    /// The last ID that its Redis generated and still knows, as far as the apps know.
    pub fn last(&self) -> Seq {
        let kept = self.entries.iter().rev().filter(|added| added.fate != Fate::Forgotten);
        kept.filter_map(|added| added.seq).next().unwrap_or(Seq::ZERO)
    }

    /// Records the state of a restarted Redis, whose last generated ID is `last` and which holds `found`
    /// after the last answered entry. Returns how many answered entries it forgot.
    pub fn reopen(&mut self, last: Seq, found: &[(u64, Seq)]) -> usize {
        for added in self.entries.iter_mut().filter(|added| added.fate == Fate::Unanswered) {
            if let Some((_, seq)) = found.iter().find(|(number, _)| *number == added.number) {
                (added.seq, added.fate) = (Some(*seq), Fate::Kept);
            }
        }
        let is_gone = |added: &&mut Added| {
            added.fate != Fate::Forgotten && added.seq.is_some_and(|seq| seq > last)
        };
        let mut forgotten = 0;
        for added in self.entries.iter_mut().rev().filter(is_gone) {
            added.fate = Fate::Forgotten;
            forgotten += 1;
        }
        forgotten
    }

    /// Records that its Redis lost writes.
    pub fn rewind(&mut self) {
        self.rewinds += 1;
        self.entries.iter_mut().for_each(|added| added.is_rewound = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(number: u64) -> Offer {
        Offer { number, fields: Vec::new(), is_poison: false }
    }

    fn seq(ms: u64) -> Seq {
        Seq::new(ms, 0)
    }

    fn fates(book: &Book) -> Vec<Fate> {
        book.entries.iter().map(|added| added.fate).collect()
    }

    #[test]
    fn entries_past_the_end_of_a_restarted_redis_are_forgotten_for_good() {
        use Fate::{Forgotten, Kept};
        let mut book = Book::new("dev1.up");
        (1..=4).for_each(|n| book.record(&offer(n), Some(seq(n))));
        assert_eq!(book.reopen(seq(2), &[]), 2);
        assert_eq!((fates(&book), book.last()), (vec![Kept, Kept, Forgotten, Forgotten], seq(2)));
        // The same ID again, for another entry.
        book.record(&offer(5), Some(seq(3)));
        assert_eq!(book.reopen(seq(3), &[]), 0);
        assert_eq!(fates(&book), [Kept, Kept, Forgotten, Forgotten, Kept]);
        // A wiped Redis forgets everything.
        assert_eq!(book.reopen(Seq::ZERO, &[]), 3);
    }

    #[test]
    fn an_unanswered_entry_that_is_found_later_is_kept() {
        use Fate::{Kept, Unanswered};
        let mut book = Book::new("dev1.up");
        book.record(&offer(1), Some(seq(1)));
        book.record(&offer(2), None);
        book.record(&offer(3), None);
        assert_eq!((book.reopen(seq(2), &[(2, seq(2))]), book.last()), (0, seq(2)));
        assert_eq!(fates(&book), [Kept, Kept, Unanswered]);
    }

    #[test]
    fn deleting_an_id_deletes_the_entry_kept_under_it() {
        let mut book = Book::new("dev1.up");
        book.record(&offer(1), Some(seq(1)));
        book.reopen(Seq::ZERO, &[]);
        book.record(&offer(2), Some(seq(1)));
        book.delete(seq(1));
        assert_eq!(fates(&book), [Fate::Forgotten, Fate::Deleted]);
    }
}
