//! Where a sender begins: the proof that origin and copy speak of the same life of the stream.
//!
//! A bare watermark loses data in silence: a device's Redis comes back empty or shortened, gives
//! out IDs at or below the cursor, and the copy calls new entries duplicates. Nor does the entry at
//! the cursor prove much: it may be trimmed, or minted anew. So the origin keeps a *mark*: before
//! entries leave, the last ID that the stream had given out by then is written down beside it. A
//! Redis that comes back with an older state has lost its writes from the end backwards, so where the
//! mark still covers the cursor, every entry up to the cursor is still the one that was carried. Where
//! it does not, this is another life of the stream: a new epoch begins after the mark.
//!
//! That the stream is still the one is shown by a consumer group of ours in it, which goes where the
//! stream goes: DEL and RENAME take it away, RESTORE brings an older one back. Each read moves the group
//! and writes its position down beside the mark; where the two differ, the stream is another.
//! (The pair of epoch and offset is Centrifugo's; the digest of the entry at the offset, LiteFS's.)
//!
//! Nor is the cursor itself believed: whoever has the client's token can move it. It acknowledges
//! something only where this origin's seal on it shows that one of its own batches moved it there
//! (`seal`). Otherwise a new epoch begins behind what this side itself has seen acknowledged, and the
//! copy is searched for what it holds past that.

mod memory;

pub use self::memory::{EpochStart, HighWaterMark, LastRead, OriginMemory, OriginStanding};
use super::accounting::Extent;
use crate::{
    entry::Digest,
    limits::EPOCHS_REMEMBERED_MAX,
    loss::{Checkpoint, Loss, LossCause, Tally, TallyPrecision},
    message::Cursor,
    partner::PartnerMatch,
    seal::SealKey,
    seq::{Epoch, Seq},
    wire::json::PositionBody,
};

/// Where to begin, and what has to be written down at the origin first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The epoch to send under.
    pub epoch: Epoch,
    /// After which entry to begin to read.
    pub after: Seq,
    /// The tally there.
    pub tally: Tally,
    /// Where the copy's cursor stands under that epoch, which the first batch must join: `0-0` at
    /// the beginning of a life, though the stream may still hold entries of the life before.
    pub joins_after: Seq,
    /// Entries up to here may be in the copy under an older epoch.
    pub inherited: Seq,
    /// How the two ends were found.
    pub finding: ResumeFinding,
    /// What nobody can count any more, for the ledger: where a life ended without its last entries.
    pub loss: Option<Loss>,
}

/// Where a sender begins, once that is written down at its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderStart {
    /// Where to begin and under which epoch.
    pub position: Position,
    /// The stream as it stands under that epoch.
    pub standing: OriginStanding,
}

impl SenderStart {
    /// Of a stream that cannot be read now: nothing begins before it can.
    pub fn unreadable(standing: OriginStanding) -> Self {
        let OriginMemory { epoch, acked: Checkpoint { seq: after, tally }, inherited, .. } =
            standing.memory;
        let finding = ResumeFinding::Agree;
        let position =
            Position { epoch, after, tally, joins_after: after, inherited, finding, loss: None };
        Self { position, standing }
    }
}

/// How the two ends were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeFinding {
    /// They agree, or one has nothing that could disagree.
    Agree,
    /// The copy forgot what it had acknowledged: what the origin still has is sent again.
    CopyRewound,
    /// The origin is in another life: a new epoch begins.
    OriginReplaced,
    /// The copy's cursor stands where no batch of this origin moved it: somebody else has used the
    /// client's credentials. A new epoch begins.
    ForeignCursor,
    /// Nothing that is remembered was agreed with the other side. A new epoch begins, in which what waits
    /// is carried.
    NewPartner,
}

/// Decides where the sender begins. `at_cursor` is the digest of the origin's entry at the cursor's
/// seq, if the origin holds one.
pub fn find_position(
    standing: &OriginStanding,
    cursor: &Cursor,
    at_cursor: Option<Digest>,
    met: PartnerMatch,
) -> Position {
    let OriginStanding { extent, memory, .. } = standing;
    if matches!(met, PartnerMatch::Other | PartnerMatch::OtherCursor) {
        return with_another(standing, cursor, met);
    }
    let Some(cursor) = &located(memory, cursor, at_cursor) else {
        return without_cursor(standing, met);
    };
    if memory.epoch > cursor.epoch && standing.is_intact() {
        // The origin began a new life and the copy has not heard of it, or has forgotten it.
        let place = common(memory, cursor);
        let forgot = place.seq == cursor.seq && cursor.seq < memory.acked.seq;
        let finding = if forgot { ResumeFinding::CopyRewound } else { ResumeFinding::Agree };
        return anew(memory.epoch, place, (cursor, memory.inherited), finding);
    }
    if is_same_life(standing, cursor, at_cursor) {
        let forgot = memory.epoch == cursor.epoch && cursor.seq < memory.acked.seq;
        let finding = if forgot { ResumeFinding::CopyRewound } else { ResumeFinding::Agree };
        let mut position =
            resume(memory, cursor.epoch, Checkpoint::new(cursor.seq, cursor.tally), finding);
        if cursor.is_found {
            // The copy has no cursor that the first batch could join.
            position.joins_after = Seq::ZERO;
        }
        return position;
    }
    let is_foreign = is_foreign_cursor(standing, cursor);
    // Up to where everything is both still here and surely carried: the mark, since the cursor lies
    // past it and the copy takes entries in order; of an older epoch, what was acknowledged.
    let kept = if !memory.epoch.is_known() || !standing.is_intact() {
        Checkpoint::START
    } else if memory.epoch == cursor.epoch && memory.high_water_mark.seq < cursor.seq && !is_foreign
    {
        let HighWaterMark { seq, added } = memory.high_water_mark;
        Checkpoint::new(seq, Tally { added, ..memory.acked.tally })
    } else if memory.acked.seq <= extent.last
        && (memory.epoch < cursor.epoch || at_cursor.is_none() || is_foreign)
    {
        // A copy that was wiped since then is not that far in its later epoch. One that an operator
        // has reset is nowhere in it, and has kept what it had.
        let is_behind = !cursor.seq.is_zero() && cursor.seq < memory.acked.seq;
        if is_behind { Checkpoint::new(cursor.seq, cursor.tally) } else { memory.acked }
    } else {
        Checkpoint::START
    };
    // Where the memory is of an older epoch still, nobody knows up to where the others came.
    let is_older = memory.epoch.is_known() && memory.epoch < cursor.epoch;
    let inherited = if is_older || is_foreign { extent.last } else { memory.inherited };
    // The copy may not have heard of the life that has ended here.
    let next = cursor.epoch.max(memory.epoch).next();
    if is_foreign {
        let mut position = anew(next, kept, (cursor, inherited), ResumeFinding::ForeignCursor);
        position.inherited = inherited;
        position.loss = position.loss.map(|loss| Loss { cause: LossCause::ForeignCursor, ..loss });
        return position;
    }
    let mut position = anew(next, kept, (cursor, inherited), ResumeFinding::OriginReplaced);
    let is_gone = !standing.is_intact() || !memory.epoch.is_known();
    if is_gone
        && let Some(mark) =
            standing.high_water_mark_in(cursor.epoch).filter(|mark| mark.seq >= cursor.seq)
    {
        position.loss = taken_away(extent, cursor, mark);
    }
    position
}

/// Where the cursor is in the lives of this stream; none for a copy that has none. Of which life an entry
/// is that was found without its epoch is only sure in the first, or where it is here as well.
fn located(memory: &OriginMemory, cursor: &Cursor, at_cursor: Option<Digest>) -> Option<Cursor> {
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

/// The copy knows of no entry: all that the origin has, under the epoch that it is in. Where it has only
/// forgotten its cursor, it is searched.
fn without_cursor(standing: &OriginStanding, met: PartnerMatch) -> Position {
    let memory = &standing.memory;
    let may_hold = if met == PartnerMatch::Wiped { Seq::ZERO } else { memory.high_water_mark.seq };
    let inherited = memory.inherited.max(may_hold);
    if memory.epoch.is_known() && !standing.is_intact() {
        let begun = (&Cursor::default(), inherited);
        let place = Checkpoint::START;
        return anew(memory.epoch.next(), place, begun, ResumeFinding::OriginReplaced);
    }
    let was_told = !memory.acked.seq.is_zero();
    let finding = if was_told { ResumeFinding::CopyRewound } else { ResumeFinding::Agree };
    let epoch = memory.epoch.max(Epoch::FIRST);
    Position { inherited, ..resume(memory, epoch, Checkpoint::START, finding) }
}

/// What waits, in an epoch that neither side has been in. A copy that may have gone back to before it met
/// this origin is searched for what it has.
fn with_another(standing: &OriginStanding, cursor: &Cursor, met: PartnerMatch) -> Position {
    let memory = &standing.memory;
    let has_kept = met == PartnerMatch::Other && memory.epoch.is_known() && standing.is_intact();
    let place = if has_kept { memory.acked } else { Checkpoint::START };
    let inherited = memory.inherited.max(memory.high_water_mark.seq);
    let epoch = memory.epoch.max(cursor.epoch).next();
    let mut position = anew(epoch, place, (cursor, inherited), ResumeFinding::NewPartner);
    (position.inherited, position.loss) = (inherited, None);
    position
}

/// What is gone of a stream that was deleted, or that another stands in the place of: what was seen of it
/// past the cursor. Where nothing was, nothing is.
fn taken_away(extent: &Extent, cursor: &Cursor, mark: HighWaterMark) -> Option<Loss> {
    // Some may be in what stands there now.
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

/// Whether the stream and its memory are what they were and the copy's cursor is none of theirs.
fn is_foreign_cursor(standing: &OriginStanding, cursor: &Cursor) -> bool {
    let is_told = standing.memory.epoch == cursor.epoch && standing.memory.seal_key.is_some();
    is_told && !is_own_cursor(&standing.memory, cursor)
}

/// Whether a batch of this life moved the cursor there. What this side has written down as acknowledged
/// needs no other proof.
fn is_own_cursor(memory: &OriginMemory, cursor: &Cursor) -> bool {
    let Cursor { epoch, seq, tally, seal, .. } = *cursor;
    let is_sealed = |key: SealKey| seal == Some(key.seal(epoch, seq, tally));
    cursor.is_found
        || seq.is_zero()
        || Checkpoint { seq, tally } == memory.acked
        || memory.seal_key.is_some_and(is_sealed)
}

fn resume(
    memory: &OriginMemory,
    epoch: Epoch,
    Checkpoint { seq: after, tally }: Checkpoint,
    finding: ResumeFinding,
) -> Position {
    let inherited = memory.inherited;
    Position { epoch, after, tally, joins_after: after, inherited, finding, loss: None }
}

fn anew(
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

fn is_same_life(standing: &OriginStanding, cursor: &Cursor, at_cursor: Option<Digest>) -> bool {
    if cursor.seq.is_zero() {
        // A copy that was reset is in a later epoch: what was acknowledged before is in it still.
        let memory = &standing.memory;
        return memory.epoch == cursor.epoch || memory.acked.seq.is_zero();
    }
    let proof = at_cursor.zip(cursor.digest).map(|(here, there)| here == there);
    let memory = &standing.memory;
    if memory.epoch.is_known() {
        let is_marked = memory.epoch == cursor.epoch && memory.high_water_mark.seq >= cursor.seq;
        is_marked
            && standing.is_intact()
            && is_own_cursor(memory, cursor)
            && proof != Some(false)
            && !is_foreign(standing, cursor, at_cursor)
    } else {
        // Somebody deleted the memory; the entry itself proves that the stream is the same, or its group.
        let is_given = standing.extent.last_delivered.is_some_and(|given| given >= cursor.seq);
        proof == Some(true) || (is_given && proof.is_none())
    }
}

/// The copy holds an entry past all that this origin has seen acknowledged, and this origin, which still
/// has older ones, does not have it: another device with a copy of this memory may have sent it.
fn is_foreign(standing: &OriginStanding, cursor: &Cursor, at_cursor: Option<Digest>) -> bool {
    let is_gone = cursor.digest.is_some() && at_cursor.is_none();
    let holds_older = standing.extent.length > 0 && standing.extent.first <= cursor.seq;
    is_gone && holds_older && standing.memory.acked.seq < cursor.seq
}

/// Up to where the stream is what it was in the copy's epoch: no life since began before that.
fn common(memory: &OriginMemory, cursor: &Cursor) -> Checkpoint {
    let since = || memory.epochs.iter().filter(|life| life.epoch > cursor.epoch);
    let is_known = since().count() as u64 == memory.epoch.0 - cursor.epoch.0;
    let Some(least) = since().min_by_key(|life| life.start.seq).filter(|_| is_known) else {
        return Checkpoint::START;
    };
    let at_cursor = Checkpoint::new(cursor.seq, cursor.tally);
    if least.start.seq <= cursor.seq { least.start } else { at_cursor }
}

impl Position {
    /// Whether new IDs are to come behind the cursor: where it shows what was given out. A place that was
    /// only found may be anything that somebody says.
    pub fn raises_last_id(&self, cursor: &Cursor) -> bool {
        self.finding == ResumeFinding::OriginReplaced && !cursor.is_found
    }
}

impl OriginMemory {
    /// What is remembered once `position` begins in a stream that reaches so far: nothing of an
    /// older life but how the lives began. `key` is a new one.
    #[must_use]
    pub fn begin_epoch(&self, position: &Position, extent: &Extent, key: SealKey) -> Self {
        let &Position { epoch, after, tally, inherited, .. } = position;
        // A life that is only adopted began where nobody remembers.
        let is_replaced = matches!(
            position.finding,
            ResumeFinding::OriginReplaced
                | ResumeFinding::ForeignCursor
                | ResumeFinding::NewPartner
        );
        let acked = Checkpoint::new(after, tally);
        let start = if is_replaced { acked } else { Checkpoint::START };
        let mut lives = self.epochs.clone();
        lives.push(EpochStart { epoch, start });
        lives.drain(..lives.len().saturating_sub(EPOCHS_REMEMBERED_MAX));
        Self {
            epoch,
            epochs: lives,
            high_water_mark: HighWaterMark { seq: extent.last, added: extent.added },
            acked,
            dead_lettered: Seq::ZERO,
            inherited,
            recorded_losses: None,
            seal_key: Some(key),
            last_delivered: (extent.last_delivered.is_some() || !extent.last.is_zero())
                .then_some(after),
            partner: self.partner.clone(),
        }
    }
}

impl From<Position> for PositionBody {
    fn from(position: Position) -> Self {
        let Position { epoch, after, tally, joins_after: joint, inherited, loss, .. } = position;
        Self { epoch, after, tally, joins_after: joint, inherited, loss }
    }
}

#[cfg(test)]
mod tests;
