//! What of an origin stream is accounted for: carried, dead, or in the loss ledger.
//!
//! Redis counts every entry ever added to a stream (`entries-added`). A cursor bears the same count
//! for its place, so what a trimmed stream no longer holds past the cursor is known by subtraction:
//! all that were added, less those accounted for, less those still there. Only entries that an app
//! deleted past the cursor (XDEL) cannot be told from trimmed ones; then the count is an upper bound
//! and its cause says so.

use std::fmt;

use crate::{
    loss::{Checkpoint, Loss, LossCause, Tally, TallyPrecision},
    seq::{Epoch, Seq},
};

/// How far a stream reaches, as its Redis tells at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The first entry it holds; `0-0` for none.
    pub first: Seq,
    /// The last ID it has given out.
    pub last: Seq,
    /// The greatest ID that was deleted by hand; trimming does not move it.
    pub max_deleted: Seq,
    /// How many entries it holds.
    pub length: u64,
    /// How many were ever added to it.
    pub added: u64,
    /// Up to where the group of ours in it says that it was given out; none where it has no such group.
    pub last_delivered: Option<Seq>,
}

impl Extent {
    /// Where a stream that was trimmed holds nothing any more, up to and with.
    fn trimmed_through(&self) -> Seq {
        if self.length > 0 { self.first.before() } else { self.last }
    }
}

/// The losses of one place that stand in the origin's ledger already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedLosses {
    /// The tally of the place after which they were lost.
    pub base_added: u64,
    /// Up to which tally they were written.
    pub through_added: u64,
    /// The last seq of what was written.
    pub last: Seq,
}

/// What of a stream is gone that should come after `after`, for the copy's ledger, and the tally past
/// it.
///
/// `acked` is up to where the copy once held everything, with the tally there: what is gone of that
/// was lost by the copy, what is gone past it was trimmed. A stream is trimmed at its front only,
/// so nothing is gone while it still holds an entry at or before `after`.
pub fn find_missing(
    epoch: Epoch,
    place: Checkpoint,
    acked: Checkpoint,
    extent: &Extent,
) -> (Vec<Loss>, Tally) {
    find(LedgerSide::Copy, epoch, place, acked, extent)
}

/// Of the same, what does not stand in the origin's ledger yet, and what then does.
pub fn find_unrecorded(
    epoch: Epoch,
    Checkpoint { seq: after, tally }: Checkpoint,
    acked: Checkpoint,
    extent: &Extent,
    written: Option<RecordedLosses>,
) -> Option<(Vec<Loss>, RecordedLosses)> {
    let base = tally.added;
    let begun = match written
        .filter(|written| written.base_added == base && written.through_added >= base)
    {
        Some(RecordedLosses { through_added: upto, last: to, .. }) => {
            Checkpoint::new(to.max(after), tally.with_missing(upto - base, upto - base))
        }
        None => Checkpoint::new(after, tally),
    };
    let (losses, past) = find(LedgerSide::Origin, epoch, begun, acked, extent);
    let written = RecordedLosses {
        base_added: base,
        through_added: past.added,
        last: extent.trimmed_through(),
    };
    (!losses.is_empty()).then_some((losses, written))
}

/// Whose ledger the losses are for. The origin's has what was lost before it was ever carried; the
/// copy's, where the copy went back, has lost those lines with the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LedgerSide {
    Origin,
    Copy,
}

fn find(
    ledger: LedgerSide,
    epoch: Epoch,
    Checkpoint { seq: after, tally }: Checkpoint,
    acked: Checkpoint,
    extent: &Extent,
) -> (Vec<Loss>, Tally) {
    let holds_older = extent.length > 0 && extent.first <= after;
    let to = extent.trimmed_through();
    // An entry that was deleted among those still there is left to the end of the stream: counted
    // here it would be subtracted again, from those that are trimmed later.
    let still = u64::from(extent.max_deleted > to);
    let gone = extent.added.saturating_sub(tally.added + extent.length + still);
    if holds_older || gone == 0 || tally.is_unknown() {
        // What was deleted in the middle stays unknown until the end of the stream is reached.
        return (Vec::new(), tally.at_least_if(extent.max_deleted > after));
    }
    let held = acked.tally.added.saturating_sub(tally.added).min(gone);
    let dead = acked.tally.dead.saturating_sub(tally.dead).min(held);
    let dead_or_lost =
        (acked.tally.dead + acked.tally.lost).saturating_sub(tally.dead + tally.lost);
    let rewound = match ledger {
        // Of what the copy once had some is still there, and nobody knows which: all may be lost,
        // and what is found gone later is taken for none of the dead.
        _ if to < acked.seq => held,
        LedgerSide::Origin => held.saturating_sub(dead_or_lost),
        LedgerSide::Copy => held - dead,
    };
    let trimmed_from = if held > 0 { acked.seq.max(after) } else { after };
    // At least the one at `deleted` was taken out on purpose.
    let is_deleted = extent.max_deleted > trimmed_from;
    let trimmed = (gone - held).saturating_sub(u64::from(is_deleted && still == 0));
    let cause = match tally.precision {
        TallyPrecision::Exact if !is_deleted => LossCause::Trimmed,
        _ => LossCause::TrimmedOrDeleted,
    };
    let losses = [
        (rewound, after, to.min(acked.seq), LossCause::Rewound),
        (trimmed, trimmed_from, to, cause),
    ];
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
    (losses.collect(), tally.with_missing(gone, lost).at_least_if(still > 0))
}

impl fmt::Display for RecordedLosses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.base_added, self.through_added, self.last)
    }
}

impl RecordedLosses {
    /// As it was written; none for anything else.
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
