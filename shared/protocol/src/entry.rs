//! [`Entry`]: an ordered list of (field, value) byte strings with its ID in the origin stream.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    hex_text::write_hex,
    limits::{ENTRY_FIELDS_MAX, ENTRY_VALUE_BYTES_MAX, FIELD_BYTES_MIN, FIELD_NAME_BYTES_MAX},
    seq::Seq,
};

/// The name and value of a field. Any bytes; order and repetitions are significant.
pub type Field = (Bytes, Bytes);

/// An entry of an origin stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its ID in the origin stream.
    pub seq: Seq,
    /// Its fields, in order.
    pub fields: Vec<Field>,
}

/// The direction of entries. It decides which field names Spoke reserves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From a device to the hub.
    Up,
    /// From the hub to a device.
    Down,
}

impl Direction {
    /// Returns the stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Parses the word of [`Self::word`].
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Up, Self::Down].into_iter().find(|direction| direction.word() == word)
    }

    /// Returns the fields that Spoke adds in front of an entry's own at the copy. An entry that has one of them
    /// could pass for another client's, so it is never carried.
    pub fn reserved(self) -> &'static [&'static [u8]] {
        match self {
            Self::Up => &[b"client", b"epoch", b"seq"],
            Self::Down => &[b"seq"],
        }
    }
}

/// The limits of one entry, which the receiver grants in WELCOME.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryLimits {
    /// The maximum number of fields.
    pub fields: usize,
    /// The maximum number of bytes of all values together.
    pub value_bytes: usize,
}

impl Default for EntryLimits {
    fn default() -> Self {
        Self { fields: ENTRY_FIELDS_MAX, value_bytes: ENTRY_VALUE_BYTES_MAX }
    }
}

/// Why an entry can never be carried. The words are stable: they are in `dead:x` and on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum RejectReason {
    /// It has a field whose name Spoke reserves.
    #[error("the entry has a field whose name is reserved (client, epoch or seq)")]
    ReservedField,
    /// It has more fields than the receiver accepts.
    #[error("the entry has too many fields")]
    TooManyFields,
    /// Its values, or the name of a field, are larger than the receiver accepts.
    #[error("the entry is too large")]
    TooLarge,
    /// It has no field, which Redis cannot store.
    #[error("the entry has no field")]
    Empty,
    /// A reason of a newer version.
    #[error("the peer refused the entry for a reason that this version does not know")]
    #[serde(other)]
    Other,
}

impl RejectReason {
    const ALL: [Self; 4] = [Self::ReservedField, Self::TooManyFields, Self::TooLarge, Self::Empty];

    /// Returns the stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::ReservedField => "reserved-field",
            Self::TooManyFields => "too-many-fields",
            Self::TooLarge => "too-large",
            Self::Empty => "empty",
            Self::Other => "other",
        }
    }

    /// Returns all words of [`Self::word`].
    pub fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().chain([Self::Other]).map(Self::word)
    }

    /// Parses the word of [`Self::word`]; [`Self::Other`] for an unknown word.
    pub fn from_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.word() == word).unwrap_or(Self::Other)
    }
}

impl Entry {
    /// Returns the bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Returns the bytes that limits charge it: those of its names and values, at least [`FIELD_BYTES_MIN`] for
    /// each field.
    pub fn charged_bytes(&self) -> usize {
        let charge = |bytes: usize| bytes.max(FIELD_BYTES_MIN);
        self.fields.iter().map(|(name, value)| charge(name.len() + value.len())).sum()
    }

    /// Checks that it can be carried in this direction within these limits.
    ///
    /// # Errors
    /// [`RejectReason`], the first that applies.
    pub fn validate(&self, direction: Direction, limits: &EntryLimits) -> Result<(), RejectReason> {
        if self.fields.is_empty() {
            return Err(RejectReason::Empty);
        }
        if self.fields.len() > limits.fields {
            return Err(RejectReason::TooManyFields);
        }
        let reserved = direction.reserved();
        if self.fields.iter().any(|(name, _)| reserved.contains(&name.as_ref())) {
            return Err(RejectReason::ReservedField);
        }
        let value_bytes: usize = self.fields.iter().map(|(_, value)| value.len()).sum();
        let longest_name = self.fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        if value_bytes > limits.value_bytes || longest_name > FIELD_NAME_BYTES_MAX {
            return Err(RejectReason::TooLarge);
        }
        Ok(())
    }

    /// Returns the digest of its fields.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for part in self.fields.iter().flat_map(|(name, value)| [name, value]) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut digest = [0; Digest::BYTES];
        digest.copy_from_slice(&hash.finalize()[..Digest::BYTES]);
        Digest(digest)
    }
}

/// The digest of an entry, which shows whether two entries with the same seq are the same. It is the first 128
/// bits of the SHA-256 over each name and value, each after its length as 8 bytes, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; Digest::BYTES]);

impl Digest {
    /// Its length in bytes.
    pub const BYTES: usize = 16;

    /// Parses the text that `Display` writes; none for any other text.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut digest = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut digest).ok()?;
        Some(Self(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&str, &str)]) -> Entry {
        let own = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Entry {
            seq: Seq::new(1, 0),
            fields: fields.iter().map(|(name, value)| (own(name), own(value))).collect(),
        }
    }

    #[test]
    fn each_limit_is_checked_at_its_boundary() {
        let limits = EntryLimits { fields: 2, value_bytes: 10 };
        let check = |fields: &[(&str, &str)]| entry(fields).validate(Direction::Up, &limits);
        let name = "n".repeat(FIELD_NAME_BYTES_MAX);
        assert_eq!(check(&[("a", "12345"), ("a", "12345")]), Ok(()));
        assert_eq!(check(&[("a", "12345"), ("a", "123456")]), Err(RejectReason::TooLarge));
        assert_eq!(check(&[("a", ""), ("b", ""), ("c", "")]), Err(RejectReason::TooManyFields));
        assert_eq!(check(&[(&name, "")]), Ok(()));
        assert_eq!(check(&[(&format!("{name}n"), "")]), Err(RejectReason::TooLarge));
        assert_eq!(check(&[]), Err(RejectReason::Empty));
    }

    #[test]
    fn only_the_fields_that_the_copy_adds_are_reserved() {
        let limits = EntryLimits::default();
        for name in ["client", "epoch", "seq"] {
            let fields = [("a", "1"), (name, "x")];
            assert_eq!(
                entry(&fields).validate(Direction::Up, &limits),
                Err(RejectReason::ReservedField)
            );
        }
        assert_eq!(
            entry(&[("seq", "")]).validate(Direction::Down, &limits),
            Err(RejectReason::ReservedField)
        );
        assert_eq!(entry(&[("client", "")]).validate(Direction::Down, &limits), Ok(()));
        assert_eq!(
            entry(&[("Client", ""), ("req", "1-0")]).validate(Direction::Up, &limits),
            Ok(())
        );
    }

    #[test]
    fn entries_with_the_same_concatenated_bytes_have_different_digests() {
        let all = [
            entry(&[("a", "bc")]),
            entry(&[("ab", "c")]),
            entry(&[("a", "b"), ("c", "")]),
            entry(&[("c", ""), ("a", "b")]),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a.digest(), b.digest());
            }
        }
        assert_eq!(Digest::from_hex(all[0].digest().to_string().as_bytes()), Some(all[0].digest()));
        assert_eq!(Digest::from_hex(b"00"), None);
    }

    #[test]
    fn every_reject_reason_round_trips_through_its_word() {
        for reason in [
            RejectReason::ReservedField,
            RejectReason::TooManyFields,
            RejectReason::TooLarge,
            RejectReason::Empty,
        ] {
            assert_eq!(RejectReason::from_word(reason.word()), reason);
        }
        assert_eq!(RejectReason::from_word("from a later version"), RejectReason::Other);
    }
}
