//! What a copy holds under older epochs: where a life of the origin begins with entries that may have
//! been carried in another, only the copy itself can tell which.
//!
//! An entry with the seq and the bytes of one that was carried is that one. A Redis that comes back
//! with an older state keeps the beginning of what was carried, and whatever it mints then comes
//! behind: so where a seq was carried with other bytes, nothing from there on was carried in that
//! epoch.

use std::collections::HashMap;

use crate::{
    entry::{Digest, Entry},
    seq::{Epoch, Seq},
};

/// What was found of one origin in its copy.
#[derive(Debug, Default)]
pub struct CopyIndex {
    entries: HashMap<Seq, Vec<(Epoch, Digest)>>,
    /// All that could be there was looked at; otherwise an entry may be held unseen.
    is_complete: bool,
    /// Epochs in which a seq was carried with other bytes.
    past: Vec<Epoch>,
}

/// A batch without what the copy holds already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deduplicated {
    /// What to append.
    pub entries: Vec<Entry>,
    /// How many are held.
    pub held: u64,
    /// First, last and number of those to be appended that may be held all the same.
    pub uncertain: Option<(Seq, Seq, u64)>,
    /// In which epochs a seq was carried with other bytes, up to the end of the batch.
    past: Vec<Epoch>,
}

impl CopyIndex {
    /// These were found, after a search that saw all there could be, or did not. A copy that does
    /// not keep the epochs of its entries says `Epoch::UNKNOWN`.
    pub fn new(found: impl IntoIterator<Item = (Epoch, Seq, Digest)>, is_complete: bool) -> Self {
        let mut entries: HashMap<Seq, Vec<(Epoch, Digest)>> = HashMap::new();
        for (epoch, seq, digest) in found {
            entries.entry(seq).or_default().push((epoch, digest));
        }
        Self { entries, is_complete, past: Vec::new() }
    }

    /// Whether it is sure that nothing is held.
    pub fn is_void(&self) -> bool {
        self.is_complete && self.entries.is_empty()
    }

    /// Takes out of the entries after those that `settle` was last called for what is held.
    pub fn sift(&self, entries: Vec<Entry>) -> Deduplicated {
        let past = self.past.clone();
        let mut sifted = Deduplicated { entries: Vec::new(), held: 0, uncertain: None, past };
        for entry in entries {
            if self.is_held(&entry, &mut sifted.past) {
                sifted.held += 1;
                continue;
            }
            if !self.is_complete {
                let (from, _, count) = sifted.uncertain.unwrap_or((entry.seq, entry.seq, 0));
                sifted.uncertain = Some((from, entry.seq, count + 1));
            }
            sifted.entries.push(entry);
        }
        sifted
    }

    /// The batch is in the copy; one that is not may come again, and is sifted as it was.
    pub fn settle(&mut self, sifted: Deduplicated) {
        self.past = sifted.past;
    }

    fn is_held(&self, entry: &Entry, past: &mut Vec<Epoch>) -> bool {
        let Some(carried) = self.entries.get(&entry.seq) else { return false };
        let digest = entry.digest();
        let mut others = carried.iter().filter(|(epoch, _)| !past.contains(epoch));
        if others.any(|(_, other)| *other == digest) {
            return true;
        }
        let known = carried.iter().map(|(epoch, _)| *epoch).filter(|epoch| epoch.is_known());
        past.extend(known);
        false
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(ms: u64, value: &str) -> Entry {
        let field = (Bytes::from_static(b"v"), Bytes::copy_from_slice(value.as_bytes()));
        Entry { seq: Seq::new(ms, 0), fields: vec![field] }
    }

    fn held(entries: &[Entry], is_complete: bool) -> CopyIndex {
        CopyIndex::new(
            entries.iter().map(|entry| (Epoch(1), entry.seq, entry.digest())),
            is_complete,
        )
    }

    fn places(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.seq.ms).collect()
    }

    #[test]
    fn what_is_held_is_taken_out_up_to_the_first_that_has_other_bytes() {
        let carried: Vec<_> = (1..=6).map(|ms| entry(ms, "old")).collect();
        let mut held = held(&carried, true);
        // 3 was deleted by an app, 0 trimmed once and back again; 4 has other bytes, and 5 only looks
        // like the one that was carried.
        let batch = [(0, "old"), (1, "old"), (2, "old"), (4, "new"), (5, "old")];
        let sifted = held.sift(batch.map(|(ms, value)| entry(ms, value)).to_vec());
        assert_eq!((places(&sifted.entries), sifted.held), (vec![0, 4, 5], 2));
        assert_eq!(sifted.uncertain, None);
        // It could not be appended, and comes again.
        assert_eq!(held.sift(batch.map(|(ms, value)| entry(ms, value)).to_vec()), sifted);
        held.settle(sifted);
        // The next batch stands behind a new entry.
        assert_eq!(places(&held.sift(vec![entry(6, "old")]).entries), [6]);
    }

    #[test]
    fn other_bytes_in_one_epoch_say_nothing_of_another() {
        let place = |epoch, value| (Epoch(epoch), Seq::new(1, 0), entry(1, value).digest());
        let later = (Epoch(2), Seq::new(2, 0), entry(2, "b").digest());
        let held = CopyIndex::new([place(1, "a"), place(2, "b"), later], true);
        let sifted = held.sift(vec![entry(1, "b"), entry(2, "b")]);
        assert_eq!((places(&sifted.entries), sifted.held), (vec![], 2));
    }

    #[test]
    fn after_a_search_with_gaps_what_was_not_found_is_uncertain_and_what_was_is_held() {
        let held = held(&[entry(2, "old"), entry(4, "old")], false);
        let sifted = held.sift((1..=5).map(|ms| entry(ms, "old")).collect());
        assert_eq!((places(&sifted.entries), sifted.held), (vec![1, 3, 5], 2));
        assert_eq!(sifted.uncertain, Some((Seq::new(1, 0), Seq::new(5, 0), 3)));
    }
}
