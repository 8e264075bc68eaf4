//! Finds the position where a sender begins, by a proof that origin and copy mean the same epoch of the
//! stream.
//!
//! A bare watermark loses data in silence: a device's Redis comes back empty or shortened, generates IDs at
//! or below the cursor, and the copy takes new entries for duplicates. Nor does the entry at the cursor prove
//! much: it may be trimmed, or another one may have its ID. So the origin keeps a [`HighWaterMark`]: before
//! entries are sent, the last ID that the stream has generated is recorded beside it. A Redis that comes back
//! with an older state has lost its latest writes. So where the mark covers the cursor, every entry up to the
//! cursor is still the one that was carried. Where it does not, the stream is in a new epoch, which begins
//! after the mark.
//!
//! A consumer group in the stream proves that it is still the same stream: DEL and RENAME remove the group,
//! and RESTORE brings an older one back. Each read moves the group and records its position beside the mark.
//! If the two differ, the stream was replaced. (The pair of epoch and offset is from Centrifugo; the digest of
//! the entry at the offset, from LiteFS.)
//!
//! The cursor itself is not trusted: anyone with the client's token can move it. It acknowledges something
//! only if this origin's [`Seal`](crate::seal::Seal) on it proves that one of its own batches moved it there.
//! Otherwise a new epoch begins after the last recorded acknowledgement, and the copy is searched.

mod memory;

pub use self::memory::{EpochStart, HighWaterMark, LastRead, OriginMemory, OriginStanding};
use super::loss_accounting::Extent;
use crate::{
    entry::Digest,
    loss::{Checkpoint, Loss, LossCause, Tally, TallyPrecision},
    message::Cursor,
    partner::PartnerMatch,
    seal::SealKey,
    seq::{Epoch, Seq},
    wire::json::PositionBody,
};

/// Where a sender begins, before it is recorded at the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The epoch to send under.
    pub epoch: Epoch,
    /// The entry after which to read.
    pub after: Seq,
    /// The tally at `after`.
    pub tally: Tally,
    /// The cursor of the copy in that epoch, which the first batch must join. It is `0-0` at the beginning of
    /// an epoch, even if the stream holds entries of the epoch before.
    pub joins_after: Seq,
    /// Entries up to here may be in the copy under an older epoch.
    pub inherited: Seq,
    /// What the handshake found.
    pub finding: ResumeFinding,
    /// The range at the end of the last epoch whose entries cannot be counted, for the ledger.
    pub loss: Option<Loss>,
}

/// Where a sender begins, as recorded at its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderStart {
    /// The position.
    pub position: Position,
    /// The state of the stream in that epoch.
    pub standing: OriginStanding,
}

impl SenderStart {
    /// Creates the start for a stream that cannot be read now. Nothing is sent before it can.
    pub fn unreadable(standing: OriginStanding) -> Self {
        let OriginMemory { epoch, acked, inherited, .. } = standing.memory;
        let Checkpoint { seq: after, tally } = acked;
        let finding = ResumeFinding::Agree;
        let position =
            Position { epoch, after, tally, joins_after: after, inherited, finding, loss: None };
        Self { position, standing }
    }
}

/// What a handshake found about origin and copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeFinding {
    /// They agree, or one of them has nothing that could disagree.
    Agree,
    /// The copy lost entries that it had acknowledged. The entries that the origin still has are sent again.
    CopyRewound,
    /// The origin was replaced or went back. A new epoch begins.
    OriginReplaced,
    /// No batch of this origin moved the copy's cursor to its place: another party has used the client's
    /// credentials. A new epoch begins.
    ForeignCursor,
    /// This side's state was agreed with another peer. A new epoch begins, in which the unacknowledged entries
    /// are carried.
    NewPartner,
}

/// Finds the position where the sender begins. `at_cursor` is the digest of the origin's entry at the
/// cursor's seq, if the origin has one.
pub fn find_position(
    standing: &OriginStanding,
    cursor: &Cursor,
    at_cursor: Option<Digest>,
    partner_match: PartnerMatch,
) -> Position {
    let OriginStanding { extent, memory, .. } = standing;
    if matches!(partner_match, PartnerMatch::Other | PartnerMatch::OtherCursor) {
        return position_with_new_partner(standing, cursor, partner_match);
    }
    let Some(cursor) = &with_epoch_and_tally(memory, cursor, at_cursor) else {
        return position_without_cursor(standing, partner_match);
    };
    if memory.epoch > cursor.epoch && standing.is_intact() {
        // The origin began a new epoch that the copy has not received, or has lost.
        let place = last_common_checkpoint(memory, cursor);
        let is_rewound = place.seq == cursor.seq && cursor.seq < memory.acked.seq;
        let finding = if is_rewound { ResumeFinding::CopyRewound } else { ResumeFinding::Agree };
        return begin_epoch_at(memory.epoch, place, (cursor, memory.inherited), finding);
    }
    if is_same_epoch(standing, cursor, at_cursor) {
        let is_rewound = memory.epoch == cursor.epoch && cursor.seq < memory.acked.seq;
        let finding = if is_rewound { ResumeFinding::CopyRewound } else { ResumeFinding::Agree };
        let place = better_counted(cursor, memory);
        let mut position = continue_at(memory, cursor.epoch, place, finding);
        position.inherited = inherited_through(standing, cursor);
        if cursor.is_found {
            // The copy has no cursor that the first batch could join.
            position.joins_after = Seq::ZERO;
        }
        return position;
    }
    let is_foreign = is_foreign_cursor(standing, cursor);
    let place = last_certain_checkpoint(standing, cursor, at_cursor, is_foreign);
    let inherited = if is_foreign { extent.last } else { inherited_through(standing, cursor) };
    // The copy may not have received the epoch that has ended here.
    let next = cursor.epoch.max(memory.epoch).next();
    if is_foreign {
        let finding = ResumeFinding::ForeignCursor;
        let mut position = begin_epoch_at(next, place, (cursor, inherited), finding);
        position.inherited = inherited;
        position.loss = position.loss.map(|loss| Loss { cause: LossCause::ForeignCursor, ..loss });
        return position;
    }
    let finding = ResumeFinding::OriginReplaced;
    let mut position = begin_epoch_at(next, place, (cursor, inherited), finding);
    let is_gone = !standing.is_intact() || !memory.epoch.is_known();
    if is_gone
        && let Some(mark) =
            standing.high_water_mark_in(cursor.epoch).filter(|mark| mark.seq >= cursor.seq)
    {
        position.loss = loss_of_replaced_stream(extent, cursor, mark);
    }
    position
}

/// Returns the entry up to which this side's entries may be in the copy under an epoch before the cursor's. If
/// the recorded state is gone, or of an older epoch, that may be all of them.
fn inherited_through(standing: &OriginStanding, cursor: &Cursor) -> Seq {
    let OriginStanding { extent, memory, .. } = standing;
    // There is no epoch before the first one.
    let is_unknown = cursor.epoch > memory.epoch.max(Epoch::FIRST);
    if is_unknown { extent.last } else { memory.inherited }
}

/// Returns the last checkpoint up to which everything is still in the origin and certainly carried. In the
/// cursor's epoch it is the high-water mark, since the cursor lies past it and the copy takes entries in
/// order. In an older epoch it is the last acknowledgement.
fn last_certain_checkpoint(
    standing: &OriginStanding,
    cursor: &Cursor,
    at_cursor: Option<Digest>,
    is_foreign: bool,
) -> Checkpoint {
    let OriginStanding { extent, memory, .. } = standing;
    let mark = memory.high_water_mark;
    if !memory.epoch.is_known() || !standing.is_intact() {
        Checkpoint::START
    } else if memory.epoch == cursor.epoch && mark.seq < cursor.seq && !is_foreign {
        Checkpoint::new(mark.seq, Tally { added: mark.added, ..memory.acked.tally })
    } else if memory.acked.seq <= extent.last
        && (memory.epoch < cursor.epoch || at_cursor.is_none() || is_foreign)
    {
        // A copy that was wiped since is not that far in its later epoch. One that an operator has reset has
        // no seq in it, and has kept its entries.
        let is_behind = !cursor.seq.is_zero() && cursor.seq < memory.acked.seq;
        if is_behind { Checkpoint::new(cursor.seq, cursor.tally) } else { memory.acked }
    } else {
        Checkpoint::START
    }
}

/// Returns the cursor with an epoch and a tally; none for a copy without a cursor. An entry that was found
/// without its epoch is certain in the first epoch only, or if the origin has the same entry.
fn with_epoch_and_tally(
    memory: &OriginMemory,
    cursor: &Cursor,
    at_cursor: Option<Digest>,
) -> Option<Cursor> {
    let epoch = match cursor.epoch {
        Epoch::UNKNOWN if cursor.is_found => {
            let is_proven = at_cursor.is_some() && at_cursor == cursor.digest;
            let epoch = memory.epoch.max(Epoch::FIRST);
            (is_proven || epoch == Epoch::FIRST).then_some(epoch)?
        }
        Epoch::UNKNOWN => return None,
        epoch => epoch,
    };
    let tally = match cursor.is_found {
        true if epoch != memory.epoch || cursor.seq < memory.acked.seq => {
            Tally { precision: TallyPrecision::AtLeast, ..Tally::ZERO }
        }
        true if cursor.seq != memory.acked.seq => {
            Tally { precision: TallyPrecision::AtLeast, ..memory.acked.tally }
        }
        true => memory.acked.tally,
        false => cursor.tally,
    };
    Some(Cursor { epoch, tally, ..*cursor })
}

/// Returns the position for a copy that knows of no entry: everything in the origin, under its current epoch.
/// A copy that has only lost its cursor is searched.
fn position_without_cursor(standing: &OriginStanding, partner_match: PartnerMatch) -> Position {
    let memory = &standing.memory;
    let inherited = match partner_match == PartnerMatch::Wiped {
        true => memory.inherited,
        false => memory.inherited.max(memory.high_water_mark.seq),
    };
    if memory.epoch.is_known() && !standing.is_intact() {
        let (cursor, finding) = (Cursor::default(), ResumeFinding::OriginReplaced);
        let epoch = memory.epoch.next();
        return begin_epoch_at(epoch, Checkpoint::START, (&cursor, inherited), finding);
    }
    let was_acked = !memory.acked.seq.is_zero();
    let finding = if was_acked { ResumeFinding::CopyRewound } else { ResumeFinding::Agree };
    let epoch = memory.epoch.max(Epoch::FIRST);
    Position { inherited, ..continue_at(memory, epoch, Checkpoint::START, finding) }
}

/// Returns the position for another peer: the unacknowledged entries, in an epoch that neither side has
/// used. The copy is searched, since it may have gone back to a time before it met this origin.
fn position_with_new_partner(
    standing: &OriginStanding,
    cursor: &Cursor,
    partner_match: PartnerMatch,
) -> Position {
    let memory = &standing.memory;
    let keeps_acked =
        partner_match == PartnerMatch::Other && memory.epoch.is_known() && standing.is_intact();
    let place = if keeps_acked { memory.acked } else { Checkpoint::START };
    let inherited = memory.inherited.max(memory.high_water_mark.seq);
    let epoch = memory.epoch.max(cursor.epoch).next();
    let mut position = begin_epoch_at(epoch, place, (cursor, inherited), ResumeFinding::NewPartner);
    (position.inherited, position.loss) = (inherited, None);
    position
}

/// Returns the loss of a stream that was deleted or replaced: the entries past the cursor up to `mark`; none
/// if there were none.
fn loss_of_replaced_stream(extent: &Extent, cursor: &Cursor, mark: HighWaterMark) -> Option<Loss> {
    // Some of them may be in the stream that is there now.
    let is_known = extent.length == 0 || extent.first > mark.seq;
    let count = is_known && cursor.tally.precision == TallyPrecision::Exact;
    let count = count.then(|| mark.added.saturating_sub(cursor.tally.added));
    (mark.seq > cursor.seq && count != Some(0)).then(|| Loss {
        epoch: cursor.epoch,
        from: cursor.seq.after(),
        to: mark.seq,
        count,
        cause: LossCause::OriginRewound,
    })
}

/// Returns whether the cursor is of this epoch, but was not moved there by one of its batches.
fn is_foreign_cursor(standing: &OriginStanding, cursor: &Cursor) -> bool {
    let is_sealed = standing.memory.epoch == cursor.epoch && standing.memory.seal_key.is_some();
    is_sealed && !is_own_cursor(&standing.memory, cursor)
}

/// Returns whether a batch of this epoch moved the cursor there. An acknowledgement that this side has
/// recorded needs no other proof.
fn is_own_cursor(memory: &OriginMemory, cursor: &Cursor) -> bool {
    let Cursor { epoch, seq, tally, seal, .. } = *cursor;
    let is_sealed = |key: SealKey| seal == Some(key.seal(epoch, seq, tally));
    cursor.is_found
        || seq.is_zero()
        || Checkpoint { seq, tally } == memory.acked
        || memory.seal_key.is_some_and(is_sealed)
}

/// Returns the checkpoint at the cursor. Where the acknowledgement is at the same place, its tally may count more of
/// the same entries: the copy may have lost its own, and been sent them again with a tally that is a lower bound.
fn better_counted(cursor: &Cursor, memory: &OriginMemory) -> Checkpoint {
    let is_same_place = (memory.epoch, memory.acked.seq) == (cursor.epoch, cursor.seq);
    if is_same_place && memory.acked.tally.added > cursor.tally.added {
        return memory.acked;
    }
    Checkpoint::new(cursor.seq, cursor.tally)
}

fn continue_at(
    memory: &OriginMemory,
    epoch: Epoch,
    Checkpoint { seq: after, tally }: Checkpoint,
    finding: ResumeFinding,
) -> Position {
    let inherited = memory.inherited;
    Position { epoch, after, tally, joins_after: after, inherited, finding, loss: None }
}

fn begin_epoch_at(
    epoch: Epoch,
    Checkpoint { seq: after, tally }: Checkpoint,
    (cursor, inherited): (&Cursor, Seq),
    finding: ResumeFinding,
) -> Position {
    let inherited = if after < cursor.seq { inherited.max(cursor.seq) } else { inherited };
    let loss = (after < cursor.seq).then(|| Loss {
        epoch: cursor.epoch,
        from: after.after(),
        to: cursor.seq,
        count: None,
        cause: LossCause::OriginRewound,
    });
    Position { epoch, after, tally, joins_after: Seq::ZERO, inherited, finding, loss }
}

/// Returns whether the stream is in the cursor's epoch, with every entry up to the cursor still the one that
/// was carried.
fn is_same_epoch(standing: &OriginStanding, cursor: &Cursor, at_cursor: Option<Digest>) -> bool {
    let memory = &standing.memory;
    if cursor.seq.is_zero() {
        // A copy that was reset is in a later epoch, and still has what it acknowledged before.
        return memory.epoch == cursor.epoch || memory.acked.seq.is_zero();
    }
    let is_same_entry = at_cursor.zip(cursor.digest).map(|(here, there)| here == there);
    if memory.epoch.is_known() {
        let is_marked = memory.epoch == cursor.epoch && memory.high_water_mark.seq >= cursor.seq;
        is_marked
            && standing.is_intact()
            && is_own_cursor(memory, cursor)
            && is_same_entry != Some(false)
            && !is_sent_by_clone(standing, cursor, at_cursor)
    } else {
        // The state hash was deleted: the entry itself proves that the stream is the same, or its group.
        let last_delivered = standing.extent.last_delivered;
        let is_delivered = last_delivered.is_some_and(|delivered| delivered >= cursor.seq);
        is_same_entry == Some(true) || (is_delivered && is_same_entry.is_none())
    }
}

/// Returns whether the copy holds an entry past this origin's last acknowledgement that this origin does not
/// have, although it has older ones: another device with a copy of this state may have sent it.
fn is_sent_by_clone(standing: &OriginStanding, cursor: &Cursor, at_cursor: Option<Digest>) -> bool {
    let is_gone = cursor.digest.is_some() && at_cursor.is_none();
    let has_older = standing.extent.length > 0 && standing.extent.first <= cursor.seq;
    is_gone && has_older && standing.memory.acked.seq < cursor.seq
}

/// Returns the last checkpoint up to which the stream is as it was in the cursor's epoch: no later epoch began
/// before it.
fn last_common_checkpoint(memory: &OriginMemory, cursor: &Cursor) -> Checkpoint {
    let later = || memory.epochs.iter().filter(|start| start.epoch > cursor.epoch);
    let is_known = later().count() as u64 == memory.epoch.0 - cursor.epoch.0;
    let Some(first) = later().min_by_key(|epoch| epoch.start.seq).filter(|_| is_known) else {
        return Checkpoint::START;
    };
    let at_cursor = Checkpoint::new(cursor.seq, cursor.tally);
    if first.start.seq <= cursor.seq { first.start } else { at_cursor }
}

impl Position {
    /// Returns whether the stream must generate its next IDs after the cursor, where the cursor proves which
    /// IDs were generated before. A cursor that was only found proves nothing.
    pub fn raises_last_id(&self, cursor: &Cursor) -> bool {
        self.finding == ResumeFinding::OriginReplaced && !cursor.is_found
    }
}

impl From<Position> for PositionBody {
    fn from(position: Position) -> Self {
        let Position { epoch, after, tally, joins_after, inherited, loss, .. } = position;
        Self { epoch, after, tally, joins_after, inherited, loss }
    }
}

#[cfg(test)]
mod tests;
