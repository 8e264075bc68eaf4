//! What is known of the entries of an origin that are in no copy, and how it is counted.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::seq::{Epoch, Seq};

/// How many entries an origin had taken up to one place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many were added up to there.
    pub added: u64,
    /// How many of those are dead letters, or were deleted before they were carried.
    pub dead: u64,
    /// How many of those were lost before they were carried.
    pub lost: u64,
    /// What `added` is worth.
    pub precision: TallyPrecision,
}

/// How much a tally knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TallyPrecision {
    /// Its numbers are the truth.
    Exact,
    /// Some were deleted before its place that it does not count.
    AtLeast,
    /// Nothing: its numbers are 0, and only the end of the stream can tell.
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

/// Why entries are in no copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossCause {
    /// The origin was trimmed before they were carried.
    Trimmed,
    /// The same, but an app has deleted some by hand as well: the count is at most.
    TrimmedOrDeleted,
    /// The copy's Redis went back to an older state, and the origin no longer had them. What an app
    /// deleted of those is counted too.
    Rewound,
    /// The origin's own Redis went back: what it forgot before that was carried nobody can count.
    OriginRewound,
    /// The receiver refused the entry for good.
    Refused,
    /// Carried, though the copy may hold them under an older epoch: a possible repeat, not a loss.
    Uncertain,
    /// Not lost either: the copy's cursor had been moved there by somebody else with the client's
    /// credentials, so what this range holds is sent again.
    ForeignCursor,
    /// Carried, and trimmed from the hub's in stream before a consumer group had read it.
    TrimmedUnread,
    /// Something that a newer version knows.
    Other,
}

/// One line of the loss ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The life of the origin that the range belongs to.
    pub epoch: Epoch,
    /// The range's first seq.
    pub from: Seq,
    /// Its last.
    pub to: Seq,
    /// How many entries; none where nobody can know.
    pub count: Option<u64>,
    /// Why.
    pub cause: LossCause,
}

/// What a batch says of its origin beside the entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchAccount {
    /// The origin's count at the batch's end.
    pub tally: Tally,
    /// What was lost before the batch's first entry, for the copy's ledger.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
    /// Entries of this batch may be in the copy under an older epoch: look before appending.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_inherited: bool,
}

impl Tally {
    /// At the very beginning of a stream.
    pub const ZERO: Self = Self { added: 0, dead: 0, lost: 0, precision: TallyPrecision::Exact };

    /// Nothing is known; only the end of the stream can tell.
    pub fn is_unknown(&self) -> bool {
        self.precision == TallyPrecision::Unknown
    }

    /// The same, where entries past it were deleted that it cannot count.
    pub(crate) fn at_least_if(self, is_doubted: bool) -> Self {
        let known = match self.precision {
            TallyPrecision::Exact if is_doubted => TallyPrecision::AtLeast,
            known => known,
        };
        Self { precision: known, ..self }
    }

    /// Past one more entry, which the copy will hold.
    #[must_use]
    pub fn with_carried(self) -> Self {
        if self.is_unknown() { self } else { Self { added: self.added + 1, ..self } }
    }

    /// Past a dead letter.
    #[must_use]
    pub fn with_dead_letter(self) -> Self {
        Self { dead: self.dead + u64::from(!self.is_unknown()), ..self.with_carried() }
    }

    /// Past this many entries that are gone, of which so many are losses.
    #[must_use]
    pub(crate) fn with_missing(self, gone: u64, lost: u64) -> Self {
        let dead = self.dead + gone.saturating_sub(lost);
        Self { added: self.added + gone, dead, lost: self.lost + lost, ..self }
    }

    /// At the end of a stream to which this many were added: what was not met on the way was deleted.
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

    /// The stable word.
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

    /// All that `word` gives.
    pub fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().chain([Self::Other]).map(Self::word)
    }

    /// The cause of this word; `Other` for one that is not known here.
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

/// The text is no tally.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tally is three whole numbers joined by commas, with ~ behind them where there may be more, \
     or ~ alone where nothing is known"
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
    /// None for what no Redis can have counted: it counts in 63 bits, so that sums stay in 64, and
    /// the parts are no more than the whole.
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
