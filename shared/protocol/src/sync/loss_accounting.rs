//! Counts the entries of an origin stream that are neither carried, nor dead letters, nor in the stream: the
//! losses.
//!
//! Redis counts every entry ever added to a stream (`entries-added`). A cursor has the same count for its
//! place. So the number of entries that a trimmed stream no longer has past the cursor follows by
//! subtraction: all that were added, less those accounted for, less those still there. Only entries that an
//! app deleted past the cursor (XDEL) cannot be told from trimmed ones. The count is an upper bound then, and
//! its cause says so.

use std::fmt;

use crate::{
    loss::{Checkpoint, Loss, LossCause, Tally, TallyPrecision},
    seq::{Epoch, Seq},
};

/// The first and last IDs of a stream and its counters, as its Redis reports them at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The first entry; `0-0` for none.
    pub first: Seq,
    /// The last ID that it has generated (`last-generated-id`).
    pub last: Seq,
    /// The greatest ID that was deleted with XDEL (`max-deleted-entry-id`). Trimming does not change it.
    pub max_deleted: Seq,
    /// The number of entries in it.
    pub length: u64,
    /// The number of entries ever added to it (`entries-added`).
    pub added: u64,
    /// The position of Spoke's consumer group (`last-delivered-id`); none without the group.
    pub last_delivered: Option<Seq>,
}

impl Extent {
    /// Returns the last seq that trimming has removed, and everything before it.
    fn trimmed_through(&self) -> Seq {
        if self.length > 0 { self.first.before() } else { self.last }
    }
}

/// The losses after one place that are in the origin's ledger already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedLosses {
    /// The number of entries added up to that place.
    pub base_added: u64,
    /// The number of entries added up to the end of the recorded losses.
    pub through_added: u64,
    /// The last recorded seq.
    pub last: Seq,
}

/// Returns the losses after `place`, for the copy's ledger, and the tally past them.
///
/// `acked` is the place up to which the copy once had everything. Missing entries before it were lost by the
/// copy; those past it were trimmed. A stream is trimmed at its front only, so nothing is missing while it
/// still has an entry at or before `place`.
pub(super) fn find_missing(
    epoch: Epoch,
    place: Checkpoint,
    acked: Checkpoint,
    extent: &Extent,
) -> (Vec<Loss>, Tally) {
    find_losses(LedgerSide::Copy, epoch, place, acked, extent)
}

/// Returns the losses after a place that are not in the origin's ledger yet, and the record of all that are
/// once these are written.
pub(super) fn find_unrecorded(
    epoch: Epoch,
    Checkpoint { seq: after, tally }: Checkpoint,
    acked: Checkpoint,
    extent: &Extent,
    recorded: Option<RecordedLosses>,
) -> Option<(Vec<Loss>, RecordedLosses)> {
    let base_added = tally.added;
    let is_of_this = |losses: &RecordedLosses| {
        losses.base_added == base_added && losses.through_added >= base_added
    };
    let start = match recorded.filter(is_of_this) {
        Some(RecordedLosses { through_added, last, .. }) => {
            let lost = through_added - base_added;
            Checkpoint::new(last.max(after), tally.with_missing(lost, lost))
        }
        None => Checkpoint::new(after, tally),
    };
    let (losses, past) = find_losses(LedgerSide::Origin, epoch, start, acked, extent);
    let (through_added, last) = (past.added, extent.trimmed_through());
    let recorded = RecordedLosses { base_added, through_added, last };
    (!losses.is_empty()).then_some((losses, recorded))
}

/// The ledger that the losses are for. The origin's ledger has those that were lost before they were ever
/// carried. A copy that went back has lost those lines with the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LedgerSide {
    Origin,
    Copy,
}

fn find_losses(
    ledger: LedgerSide,
    epoch: Epoch,
    Checkpoint { seq: after, tally }: Checkpoint,
    acked: Checkpoint,
    extent: &Extent,
) -> (Vec<Loss>, Tally) {
    let has_older = extent.length > 0 && extent.first <= after;
    let to = extent.trimmed_through();
    // An entry that was deleted among those still there is counted at the end of the stream. If it were
    // counted here, it would be subtracted again from those that are trimmed later.
    let deleted_later = u64::from(extent.max_deleted > to);
    let missing = extent.added.saturating_sub(tally.added + extent.length + deleted_later);
    if has_older || missing == 0 || tally.is_unknown() {
        // The number of entries deleted in the middle is unknown until the end of the stream.
        return (Vec::new(), tally.at_least_if(extent.max_deleted > after));
    }
    // Past the acknowledgement, a tally with more entries shows only that this one counts too few.
    let acked_missing = match acked.seq > after {
        true => acked.tally.added.saturating_sub(tally.added).min(missing),
        false => 0,
    };
    let dead = acked.tally.dead.saturating_sub(tally.dead).min(acked_missing);
    let dead_or_lost =
        (acked.tally.dead + acked.tally.lost).saturating_sub(tally.dead + tally.lost);
    let lost_by_copy = match ledger {
        // Some entries that the copy once had are still there, and it is unknown which: all may be lost,
        // and those that are found missing later are not taken for dead letters.
        _ if to < acked.seq => acked_missing,
        LedgerSide::Origin => acked_missing.saturating_sub(dead_or_lost),
        LedgerSide::Copy => acked_missing - dead,
    };
    let trimmed_from = if acked_missing > 0 { acked.seq.max(after) } else { after };
    // At least the entry at `max_deleted` was removed on purpose.
    let is_deleted = extent.max_deleted > trimmed_from;
    let trimmed =
        (missing - acked_missing).saturating_sub(u64::from(is_deleted && deleted_later == 0));
    let cause = match tally.precision {
        TallyPrecision::Exact if !is_deleted => LossCause::Trimmed,
        _ => LossCause::TrimmedOrDeleted,
    };
    let losses = [
        (lost_by_copy, after, to.min(acked.seq), LossCause::Rewound),
        (trimmed, trimmed_from, to, cause),
    ];
    let losses = losses.into_iter().filter(|(count, ..)| *count > 0);
    let losses = losses.map(|(count, after, to, cause)| Loss {
        epoch,
        from: after.after(),
        // The acknowledged range may end past the last missing entry.
        to: to.max(after.after()),
        count: Some(count),
        cause,
    });
    let lost = (acked_missing - dead) + trimmed;
    (losses.collect(), tally.with_missing(missing, lost).at_least_if(deleted_later > 0))
}

impl fmt::Display for RecordedLosses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.base_added, self.through_added, self.last)
    }
}

impl RecordedLosses {
    /// Parses the text that `Display` writes; none for any other text.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let (base, upto, to) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            base_added: base.parse().ok()?,
            through_added: upto.parse().ok()?,
            last: to.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests;
