//! What was added to one origin and what became of it there, as the apps and the origin's own Redis
//! tell; what became of it on the way is the verdict's.

use spoke_protocol::Seq;

use super::load::{Offer, digest};

/// What became of an entry at its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The origin's Redis took it and kept it, or an app trimmed it: it has to be accounted for.
    Kept,
    /// Its answer was lost with the Redis that should have given it, and it was not there afterwards.
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
    /// Its ID in the origin; not known of one that was not answered.
    pub seq: Option<Seq>,
    /// Of its fields.
    pub digest: u64,
    /// It belongs into the dead letters.
    pub is_poison: bool,
    /// What became of it.
    pub fate: Fate,
    /// An app may have trimmed it; if not, nobody but Spoke took it out.
    pub is_trimmed: bool,
    /// Its Redis has gone back since, and its dead letter may have gone with the end of the file.
    pub is_rewound: bool,
}

/// The entries of one origin in the order in which they were offered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Book {
    /// Such as `dev1.up`.
    pub origin: String,
    /// The entries.
    pub entries: Vec<Added>,
    /// How often the origin's Redis came back with an older state.
    pub rewinds: u32,
}

impl Book {
    /// An empty one.
    pub fn new(origin: &str) -> Self {
        Self { origin: origin.to_owned(), ..Self::default() }
    }

    /// Redis took this entry, or nobody knows whether it did.
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

    /// An app deletes this entry.
    pub fn delete(&mut self, seq: Seq) {
        let is_it = |added: &&mut Added| added.seq == Some(seq) && added.fate == Fate::Kept;
        if let Some(added) = self.entries.iter_mut().rev().find(is_it) {
            added.fate = Fate::Deleted;
        }
    }

    /// An app trims all before this entry.
    pub fn trim(&mut self, first: Seq) {
        let is_before = |added: &&mut Added| added.seq.is_some_and(|seq| seq < first);
        self.entries.iter_mut().filter(is_before).for_each(|added| added.is_trimmed = true);
    }

    /// The last ID that its Redis gave out and still knows, as far as the apps were answered.
    pub fn last(&self) -> Seq {
        let kept = self.entries.iter().rev().filter(|added| added.fate != Fate::Forgotten);
        kept.filter_map(|added| added.seq).next().unwrap_or(Seq::ZERO)
    }

    /// Its Redis is back, has given out `last` and nothing behind that, and holds `found` behind what
    /// the apps were answered. Gives how many answered entries it forgot.
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

    /// Its Redis lost writes.
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
    fn what_lies_past_the_end_of_a_redis_that_is_back_is_forgotten_for_good() {
        use Fate::{Forgotten, Kept};
        let mut book = Book::new("dev1.up");
        (1..=4).for_each(|n| book.record(&offer(n), Some(seq(n))));
        assert_eq!(book.reopen(seq(2), &[]), 2);
        assert_eq!((fates(&book), book.last()), (vec![Kept, Kept, Forgotten, Forgotten], seq(2)));
        // The same ID again, for another entry.
        book.record(&offer(5), Some(seq(3)));
        assert_eq!(book.reopen(seq(3), &[]), 0);
        assert_eq!(fates(&book), [Kept, Kept, Forgotten, Forgotten, Kept]);
        // A wiped one remembers nothing.
        assert_eq!(book.reopen(Seq::ZERO, &[]), 3);
    }

    #[test]
    fn an_entry_without_an_answer_is_kept_where_it_is_found() {
        use Fate::{Kept, Unanswered};
        let mut book = Book::new("dev1.up");
        book.record(&offer(1), Some(seq(1)));
        book.record(&offer(2), None);
        book.record(&offer(3), None);
        assert_eq!((book.reopen(seq(2), &[(2, seq(2))]), book.last()), (0, seq(2)));
        assert_eq!(fates(&book), [Kept, Kept, Unanswered]);
    }

    #[test]
    fn a_deleted_entry_is_the_kept_one_of_its_id() {
        let mut book = Book::new("dev1.up");
        book.record(&offer(1), Some(seq(1)));
        book.reopen(Seq::ZERO, &[]);
        book.record(&offer(2), Some(seq(1)));
        book.delete(seq(1));
        assert_eq!(fates(&book), [Fate::Forgotten, Fate::Deleted]);
    }
}
