//! Finds the entries of a batch that the copy holds already, under an older epoch.
//!
//! An epoch of an origin may begin with entries that were carried in an older one. Only the copy can tell
//! which: an entry with the seq and the bytes of a carried one is the same entry.
//!
//! A Redis that comes back with an older state keeps the beginning of what was carried, and every ID that
//! it generates afterwards comes later. So where a seq was carried with other bytes, nothing from there on
//! was carried in that epoch.

use std::collections::HashMap;

use crate::{
    entry::{Digest, Entry},
    seq::{Epoch, Seq},
};

/// An entry of one origin, as a search found it in the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedEntry {
    /// The epoch under which it was carried; [`Epoch::UNKNOWN`] in a copy that does not keep epochs.
    pub epoch: Epoch,
    /// Its seq in the origin.
    pub seq: Seq,
    /// The digest of its fields.
    pub digest: Digest,
}

/// The entries of one origin that a search found in its copy.
#[derive(Debug, Default)]
pub struct CopyIndex {
    entries: HashMap<Seq, Vec<(Epoch, Digest)>>,
    /// Whether the search saw everything that could be there.
    is_complete: bool,
    /// Epochs in which a seq was carried with other bytes.
    diverged: Vec<Epoch>,
}

/// A batch without the entries that the copy holds already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deduplicated {
    /// The entries to append.
    pub entries: Vec<Entry>,
    /// The number of entries that the copy holds.
    pub duplicates: u64,
    /// The entries to append that the copy may hold all the same, after an incomplete search.
    pub uncertain: Option<UncertainRange>,
    /// Epochs in which a seq was carried with other bytes, up to the end of the batch.
    diverged: Vec<Epoch>,
}

/// Entries that may be in the copy twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UncertainRange {
    /// The first of them.
    pub first: Seq,
    /// The last of them.
    pub last: Seq,
    /// Their number.
    pub count: u64,
}

impl CopyIndex {
    /// Creates an index of the entries that were found. `is_complete` says whether the search saw
    /// everything that could be there.
    pub fn new(found: impl IntoIterator<Item = CopiedEntry>, is_complete: bool) -> Self {
        let mut entries: HashMap<Seq, Vec<(Epoch, Digest)>> = HashMap::new();
        for CopiedEntry { epoch, seq, digest } in found {
            entries.entry(seq).or_default().push((epoch, digest));
        }
        Self { entries, is_complete, diverged: Vec::new() }
    }

    /// Returns whether the copy holds nothing for certain.
    pub fn is_known_empty(&self) -> bool {
        self.is_complete && self.entries.is_empty()
    }

    /// Removes the entries that the copy holds. They follow the batch that [`Self::confirm`] was last
    /// called for.
    pub fn deduplicate(&self, entries: Vec<Entry>) -> Deduplicated {
        let diverged = self.diverged.clone();
        let mut result =
            Deduplicated { entries: Vec::new(), duplicates: 0, uncertain: None, diverged };
        for entry in entries {
            if self.is_duplicate(&entry, &mut result.diverged) {
                result.duplicates += 1;
                continue;
            }
            if !self.is_complete {
                let (first, count) =
                    result.uncertain.map_or((entry.seq, 0), |range| (range.first, range.count));
                let (last, count) = (entry.seq, count + 1);
                result.uncertain = Some(UncertainRange { first, last, count });
            }
            result.entries.push(entry);
        }
        result
    }

    /// Takes note that the batch is in the copy. A batch that is not may come again, and is deduplicated
    /// as before.
    pub fn confirm(&mut self, batch: Deduplicated) {
        self.diverged = batch.diverged;
    }

    fn is_duplicate(&self, entry: &Entry, diverged: &mut Vec<Epoch>) -> bool {
        let Some(carried) = self.entries.get(&entry.seq) else { return false };
        let digest = entry.digest();
        let mut others = carried.iter().filter(|(epoch, _)| !diverged.contains(epoch));
        if others.any(|(_, other)| *other == digest) {
            return true;
        }
        let known = carried.iter().map(|(epoch, _)| *epoch).filter(|epoch| epoch.is_known());
        diverged.extend(known);
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

    fn copied(epoch: u64, entry: &Entry) -> CopiedEntry {
        CopiedEntry { epoch: Epoch(epoch), seq: entry.seq, digest: entry.digest() }
    }

    fn index(entries: &[Entry], is_complete: bool) -> CopyIndex {
        CopyIndex::new(entries.iter().map(|entry| copied(1, entry)), is_complete)
    }

    fn millis_of(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.seq.ms).collect()
    }

    #[test]
    fn entries_in_the_copy_are_removed_up_to_the_first_that_differs() {
        let carried: Vec<_> = (1..=6).map(|ms| entry(ms, "old")).collect();
        let mut index = index(&carried, true);
        // 3 was deleted by an app. 0 was trimmed before it was
        // carried, and restored by a rewind. 4 has other bytes, so 5 counts as new,
        // although its bytes are the same.
        let batch = [(0, "old"), (1, "old"), (2, "old"), (4, "new"), (5, "old")];
        let first = index.deduplicate(batch.map(|(ms, value)| entry(ms, value)).to_vec());
        assert_eq!((millis_of(&first.entries), first.duplicates), (vec![0, 4, 5], 2));
        assert_eq!(first.uncertain, None);
        // The append failed, and the batch comes again.
        assert_eq!(index.deduplicate(batch.map(|(ms, value)| entry(ms, value)).to_vec()), first);
        index.confirm(first);
        // The next batch follows a new entry.
        assert_eq!(millis_of(&index.deduplicate(vec![entry(6, "old")]).entries), [6]);
    }

    #[test]
    fn a_difference_in_one_epoch_does_not_affect_another_epoch() {
        let found =
            [copied(1, &entry(1, "a")), copied(2, &entry(1, "b")), copied(2, &entry(2, "b"))];
        let index = CopyIndex::new(found, true);
        let result = index.deduplicate(vec![entry(1, "b"), entry(2, "b")]);
        assert_eq!((millis_of(&result.entries), result.duplicates), (vec![], 2));
    }

    #[test]
    fn after_an_incomplete_search_entries_that_were_not_found_are_uncertain() {
        let index = index(&[entry(2, "old"), entry(4, "old")], false);
        let result = index.deduplicate((1..=5).map(|ms| entry(ms, "old")).collect());
        assert_eq!((millis_of(&result.entries), result.duplicates), (vec![1, 3, 5], 2));
        let (first, last) = (Seq::new(1, 0), Seq::new(5, 0));
        assert_eq!(result.uncertain, Some(UncertainRange { first, last, count: 3 }));
    }
}
