//! What of an origin stream is accounted for: carried, dead, or in the loss ledger.
//!
//! Redis counts every entry ever added to a stream (`entries-added`). A cursor bears the same count
//! for its place, so what a trimmed stream no longer holds past the cursor is known by subtraction:
//! all that were added, less those accounted for, less those still there. Only entries that an app
//! deleted past the cursor (XDEL) cannot be told from trimmed ones; then the count is an upper bound
//! and its cause says so.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::seq::{Epoch, Seq};

/// How far a stream reaches, as its Redis tells at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The first entry it holds; `0-0` for none.
    pub first: Seq,
    /// The last ID it has given out.
    pub last: Seq,
    /// The greatest ID that was deleted by hand; trimming does not move it.
    pub deleted: Seq,
    /// How many entries it holds.
    pub length: u64,
    /// How many were ever added to it.
    pub added: u64,
    /// Up to where the group of ours in it says that it was given out; none where it has no such group.
    pub given: Option<Seq>,
}

impl Extent {
    /// Where a stream that was trimmed holds nothing any more, up to and with.
    fn gone_to(&self) -> Seq {
        if self.length > 0 { self.first.before() } else { self.last }
    }
}

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
    pub known: Known,
}

/// How much a tally knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Known {
    /// Its numbers are the truth.
    Exactly,
    /// Some were deleted before its place that it does not count.
    AtLeast,
    /// Nothing: its numbers are 0, and only the end of the stream can tell.
    #[default]
    Nothing,
}

/// Why entries are in no copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
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
    pub cause: Cause,
}

/// What a batch says of its origin beside the entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// The origin's count at the batch's end.
    pub tally: Tally,
    /// What was lost before the batch's first entry, for the copy's ledger.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
    /// Entries of this batch may be in the copy under an older epoch: look before appending.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_inherited: bool,
}

/// The losses of one place that stand in the origin's ledger already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The tally of the place after which they were lost.
    pub base: u64,
    /// Up to which tally they were written.
    pub upto: u64,
    /// The last seq of what was written.
    pub to: Seq,
}

impl Tally {
    /// At the very beginning of a stream.
    pub const ZERO: Self = Self { added: 0, dead: 0, lost: 0, known: Known::Exactly };

    /// Nothing is known; only the end of the stream can tell.
    pub fn is_unknown(&self) -> bool {
        self.known == Known::Nothing
    }

    /// The same, where entries past it were deleted that it cannot count.
    fn doubted(self, is_doubted: bool) -> Self {
        let known = match self.known {
            Known::Exactly if is_doubted => Known::AtLeast,
            known => known,
        };
        Self { known, ..self }
    }

    /// Past one more entry, which the copy will hold.
    #[must_use]
    pub fn carried(self) -> Self {
        if self.is_unknown() { self } else { Self { added: self.added + 1, ..self } }
    }

    /// Past a dead letter.
    #[must_use]
    pub fn buried(self) -> Self {
        Self { dead: self.dead + u64::from(!self.is_unknown()), ..self.carried() }
    }

    /// Past this many entries that are gone, of which so many are losses.
    #[must_use]
    fn gone(self, gone: u64, lost: u64) -> Self {
        let dead = self.dead + gone.saturating_sub(lost);
        Self { added: self.added + gone, dead, lost: self.lost + lost, ..self }
    }

    /// At the end of a stream to which this many were added: what was not met on the way was deleted.
    #[must_use]
    pub fn at_end(self, added: u64) -> Self {
        let deleted = if self.is_unknown() { 0 } else { added.saturating_sub(self.added) };
        let dead = (self.dead + deleted).min(added);
        Self { added, dead, lost: self.lost.min(added - dead), known: Known::Exactly }
    }
}

/// What of a stream is gone that should come after `after`, for the copy's ledger, and the tally past
/// it.
///
/// `acked` is up to where the copy once held everything, with the tally there: what is gone of that
/// was lost by the copy, what is gone past it was trimmed. A stream is trimmed at its front only,
/// so nothing is gone while it still holds an entry at or before `after`.
pub fn missing(
    epoch: Epoch,
    place: (Seq, Tally),
    acked: (Seq, Tally),
    extent: &Extent,
) -> (Vec<Loss>, Tally) {
    find(Ledger::Copy, epoch, place, acked, extent)
}

/// Of the same, what does not stand in the origin's ledger yet, and what then does.
pub fn unwritten(
    epoch: Epoch,
    (after, tally): (Seq, Tally),
    acked: (Seq, Tally),
    extent: &Extent,
    written: Option<Written>,
) -> Option<(Vec<Loss>, Written)> {
    let base = tally.added;
    let begun = match written.filter(|written| written.base == base && written.upto >= base) {
        Some(Written { upto, to, .. }) => (to.max(after), tally.gone(upto - base, upto - base)),
        None => (after, tally),
    };
    let (losses, past) = find(Ledger::Origin, epoch, begun, acked, extent);
    let written = Written { base, upto: past.added, to: extent.gone_to() };
    (!losses.is_empty()).then_some((losses, written))
}

/// Whose ledger the losses are for. The origin's has what was lost before it was ever carried; the
/// copy's, where the copy went back, has lost those lines with the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ledger {
    Origin,
    Copy,
}

fn find(
    ledger: Ledger,
    epoch: Epoch,
    (after, tally): (Seq, Tally),
    acked: (Seq, Tally),
    extent: &Extent,
) -> (Vec<Loss>, Tally) {
    let holds_older = extent.length > 0 && extent.first <= after;
    let to = extent.gone_to();
    // An entry that was deleted among those still there is left to the end of the stream: counted
    // here it would be subtracted again, from those that are trimmed later.
    let still = u64::from(extent.deleted > to);
    let gone = extent.added.saturating_sub(tally.added + extent.length + still);
    if holds_older || gone == 0 || tally.is_unknown() {
        // What was deleted in the middle stays unknown until the end of the stream is reached.
        return (Vec::new(), tally.doubted(extent.deleted > after));
    }
    let held = acked.1.added.saturating_sub(tally.added).min(gone);
    let dead = acked.1.dead.saturating_sub(tally.dead).min(held);
    let dead_or_lost = (acked.1.dead + acked.1.lost).saturating_sub(tally.dead + tally.lost);
    let rewound = match ledger {
        // Of what the copy once had some is still there, and nobody knows which: all may be lost,
        // and what is found gone later is taken for none of the dead.
        _ if to < acked.0 => held,
        Ledger::Origin => held.saturating_sub(dead_or_lost),
        Ledger::Copy => held - dead,
    };
    let trimmed_from = if held > 0 { acked.0.max(after) } else { after };
    // At least the one at `deleted` was taken out on purpose.
    let is_deleted = extent.deleted > trimmed_from;
    let trimmed = (gone - held).saturating_sub(u64::from(is_deleted && still == 0));
    let cause = match tally.known {
        Known::Exactly if !is_deleted => Cause::Trimmed,
        _ => Cause::TrimmedOrDeleted,
    };
    let losses =
        [(rewound, after, to.min(acked.0), Cause::Rewound), (trimmed, trimmed_from, to, cause)];
    let losses = losses.into_iter().filter(|(count, ..)| *count > 0);
    let losses = losses.map(|(count, after, to, cause)| Loss {
        epoch,
        from: after.after(),
        // What was acknowledged may reach past the last one that is gone.
        to: to.max(after.after()),
        count: Some(count),
        cause,
    });
    let lost = (held - dead) + trimmed;
    (losses.collect(), tally.gone(gone, lost).doubted(still > 0))
}

impl Cause {
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

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Cause {
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
        let Self { added, dead, lost, known } = self;
        match known {
            Known::Exactly => write!(f, "{added},{dead},{lost}"),
            Known::AtLeast => write!(f, "{added},{dead},{lost}~"),
            Known::Nothing => write!(f, "~"),
        }
    }
}

impl FromStr for Tally {
    type Err = BadTally;

    fn from_str(text: &str) -> Result<Self, BadTally> {
        let (numbers, known) = match text.strip_suffix('~') {
            Some("") => return Ok(Self::default()),
            Some(numbers) => (numbers, Known::AtLeast),
            None => (text, Known::Exactly),
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
    pub fn checked(added: u64, dead: u64, lost: u64, known: Known) -> Option<Self> {
        let most = if known == Known::Nothing { 0 } else { i64::MAX as u64 };
        let is_sane = added <= most && dead <= added && lost <= added - dead;
        is_sane.then_some(Self { added, dead, lost, known })
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

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.base, self.upto, self.to)
    }
}

impl Written {
    /// As it was written; none for anything else.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let (base, upto, to) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { base: base.parse().ok()?, upto: upto.parse().ok()?, to: to.parse().ok()? })
    }
}

#[cfg(test)]
mod tests;
