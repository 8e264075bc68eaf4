//! Counts of an origin's entries, and the losses among them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::seq::{Epoch, Seq};

/// The counts of an origin's entries up to one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// The number of entries added.
    pub added: u64,
    /// The number of those that are dead letters, or were deleted before they were carried.
    pub dead: u64,
    /// The number of those that were lost before they were carried.
    pub lost: u64,
    /// The precision of `added`.
    pub precision: TallyPrecision,
}

/// The precision of a [`Tally`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TallyPrecision {
    /// Its numbers are exact.
    Exact,
    /// It does not count some entries that were deleted before its place.
    AtLeast,
    /// Its numbers are 0, and are known only at the end of the stream.
    #[default]
    Unknown,
}

/// A place in an origin: a seq, and the tally there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// The last entry that is counted.
    pub seq: Seq,
    /// The origin's counts up to there.
    pub tally: Tally,
}

impl Checkpoint {
    /// The beginning of a stream.
    pub const START: Self = Self { seq: Seq::ZERO, tally: Tally::ZERO };

    /// Returns the checkpoint at this seq.
    pub fn new(seq: Seq, tally: Tally) -> Self {
        Self { seq, tally }
    }
}

/// Why entries are not in the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossCause {
    /// The origin was trimmed before they were carried.
    Trimmed,
    /// The same, but an app has deleted entries as well: the count is an upper bound.
    TrimmedOrDeleted,
    /// The copy's Redis went back to an older state, and the origin no longer had them. Those that an app
    /// deleted are counted too.
    Rewound,
    /// The origin's own Redis went back. The entries that it lost before they were carried cannot be counted.
    OriginRewound,
    /// The receiver refused the entry permanently.
    Refused,
    /// Carried, but the copy may have them under an older epoch: a possible duplicate, not a loss.
    Uncertain,
    /// Not lost either: another party with the client's credentials had moved the copy's cursor there, so
    /// this range is sent again.
    ForeignCursor,
    /// Carried, and trimmed from the hub's in stream before a consumer group had read it.
    TrimmedUnread,
    /// A cause of a newer version.
    Other,
}

/// One line of the loss ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The epoch of the origin.
    pub epoch: Epoch,
    /// The first seq of the range.
    pub from: Seq,
    /// The last seq of the range.
    pub to: Seq,
    /// The number of entries; none if it cannot be known.
    pub count: Option<u64>,
    /// The cause.
    pub cause: LossCause,
}

/// The origin's counts and losses, as a batch carries them beside its entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchAccount {
    /// The origin's counts at the end of the batch.
    pub tally: Tally,
    /// The losses before the first entry of the batch, for the copy's ledger.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
    /// Whether entries of the batch may be in the copy under an older epoch, so that it is searched first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_inherited: bool,
}

impl Tally {
    /// The counts at the beginning of a stream.
    pub const ZERO: Self = Self { added: 0, dead: 0, lost: 0, precision: TallyPrecision::Exact };

    /// Returns whether the counts are unknown.
    pub fn is_unknown(&self) -> bool {
        self.precision == TallyPrecision::Unknown
    }

    /// Returns these counts as lower bounds, if `is_doubted`: entries after the place were deleted that cannot
    /// be counted.
    pub(crate) fn at_least_if(self, is_doubted: bool) -> Self {
        let known = match self.precision {
            TallyPrecision::Exact if is_doubted => TallyPrecision::AtLeast,
            known => known,
        };
        Self { precision: known, ..self }
    }

    /// Returns the counts after one more entry that is carried.
    #[must_use]
    pub fn with_carried(self) -> Self {
        if self.is_unknown() { self } else { Self { added: self.added + 1, ..self } }
    }

    /// Returns the counts after one more dead letter.
    #[must_use]
    pub fn with_dead_letter(self) -> Self {
        Self { dead: self.dead + u64::from(!self.is_unknown()), ..self.with_carried() }
    }

    /// Returns the counts after this many missing entries, of which `lost` are losses.
    #[must_use]
    pub(crate) fn with_missing(self, missing: u64, lost: u64) -> Self {
        let dead = self.dead + missing.saturating_sub(lost);
        Self { added: self.added + missing, dead, lost: self.lost + lost, ..self }
    }

    /// Returns the counts at the end of a stream to which `added` entries were ever added. The entries that were
    /// not read on the way were deleted.
    #[must_use]
    pub fn at_end(self, added: u64) -> Self {
        let deleted = if self.is_unknown() { 0 } else { added.saturating_sub(self.added) };
        let dead = (self.dead + deleted).min(added);
        Self { added, dead, lost: self.lost.min(added - dead), precision: TallyPrecision::Exact }
    }
}

impl LossCause {
    const ALL: [Self; 8] = [
        Self::Trimmed,
        Self::TrimmedOrDeleted,
        Self::Rewound,
        Self::OriginRewound,
        Self::Refused,
        Self::Uncertain,
        Self::ForeignCursor,
        Self::TrimmedUnread,
    ];

    /// Returns the stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::TrimmedOrDeleted => "trimmed-or-deleted",
            Self::Rewound => "rewound",
            Self::OriginRewound => "origin-rewound",
            Self::Refused => "refused",
            Self::Uncertain => "uncertain",
            Self::ForeignCursor => "foreign-cursor",
            Self::TrimmedUnread => "trimmed-unread",
            Self::Other => "other",
        }
    }

    /// Returns all words of [`Self::word`].
    pub fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().chain([Self::Other]).map(Self::word)
    }

    /// Parses the word of [`Self::word`]; [`Self::Other`] for an unknown word.
    pub fn from_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|cause| cause.word() == word).unwrap_or(Self::Other)
    }
}

impl Serialize for LossCause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for LossCause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_word(&String::deserialize(deserializer)?))
    }
}

/// A text that is not a tally.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid tally: expected three whole numbers joined by commas, followed by ~ if there may be \
     more, or ~ alone if nothing is known"
)]
pub struct BadTally;

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, dead, lost, precision: known } = self;
        match known {
            TallyPrecision::Exact => write!(f, "{added},{dead},{lost}"),
            TallyPrecision::AtLeast => write!(f, "{added},{dead},{lost}~"),
            TallyPrecision::Unknown => write!(f, "~"),
        }
    }
}

impl FromStr for Tally {
    type Err = BadTally;

    fn from_str(text: &str) -> Result<Self, BadTally> {
        let (numbers, known) = match text.strip_suffix('~') {
            Some("") => return Ok(Self::default()),
            Some(numbers) => (numbers, TallyPrecision::AtLeast),
            None => (text, TallyPrecision::Exact),
        };
        let mut numbers = numbers.splitn(3, ',').map(str::parse::<u64>);
        let mut number = || numbers.next().and_then(Result::ok).ok_or(BadTally);
        let (added, dead, lost) = (number()?, number()?, number()?);
        Self::checked(added, dead, lost, known).ok_or(BadTally)
    }
}

impl Tally {
    /// Creates a tally; none for numbers that no Redis can have counted. Redis counts in 63 bits, so that sums
    /// fit in 64, and the parts are no more than the whole.
    pub fn checked(added: u64, dead: u64, lost: u64, known: TallyPrecision) -> Option<Self> {
        let most = if known == TallyPrecision::Unknown { 0 } else { i64::MAX as u64 };
        let is_sane = added <= most && dead <= added && lost <= added - dead;
        is_sane.then_some(Self { added, dead, lost, precision: known })
    }
}

impl Serialize for Tally {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tally {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
