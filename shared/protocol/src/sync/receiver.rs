//! The copy's end: what a batch may do to the copy, and what is said of it.
//!
//! The truth is the cursor in the copy's Redis and the script that moves it; a receiver only checks
//! what can be checked without it, so that the script finds nothing to fail on half way.

use std::{collections::VecDeque, time::Duration};

use crate::{
    entry::{Digest, Direction, Entry, EntryLimits, RejectReason},
    limits::{BATCH_BYTES_MAX, FIELD_BYTES_MIN, LOSS_COUNT_MAX},
    loss::BatchAccount,
    message::{Ack, GoawayReason, Push},
    seal::Seal,
    seq::{Epoch, Seq},
};

/// What the script is to do: append what is past the cursor, then move the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The life of the origin that this batch belongs to.
    pub epoch: Epoch,
    /// Where this session knows the copy to be; one that lies behind it went back to an older state.
    pub known: Option<(Epoch, Seq)>,
    /// Where the batch before ended; without it no gap is looked for.
    pub after: Option<Seq>,
    /// Where the cursor goes.
    pub through: Seq,
    /// What to append, in order.
    pub entries: Vec<Entry>,
    /// What will never be appended, and goes to the ledger.
    pub refused: Vec<(Seq, RejectReason)>,
    /// The digest of the entry at `through`.
    pub digest: Option<Digest>,
    /// What the batch says of its origin.
    pub account: BatchAccount,
    /// The origin's seal on the cursor at `through`.
    pub seal: Option<Seal>,
}

impl Append {
    /// It may have to wait for more than the script: for a search, or for room in the ledger.
    pub fn may_wait(&self) -> bool {
        let has_lines = !self.account.losses.is_empty() || !self.refused.is_empty();
        self.account.is_inherited || has_lines
    }
}

/// What the script did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendResult {
    /// All that was past the cursor is in the copy.
    Done {
        /// The cursor now.
        cursor: Seq,
        /// How many entries were appended.
        accepted: u64,
        /// How many the copy had already.
        duplicates: u64,
        /// The copy's ID of the last entry appended.
        id: Option<Seq>,
    },
    /// Not now: the client has asked for too much that is dear. Nothing was done; it may come again after
    /// this.
    Later(Duration),
    /// It would be, as far as could be told without its entries.
    Ready,
    /// A newer session of this client has begun; nothing was done.
    Superseded,
    /// The copy is in this newer life of the origin; nothing was done.
    StaleEpoch(Epoch),
    /// The batch does not join this cursor; nothing was done.
    Gap(Seq),
    /// The batch is of a life further on than the one after this; nothing was done.
    EpochAhead(Epoch),
    /// The batch ends more than a day ahead of the hub's clock; nothing was done.
    SeqAhead,
}

/// What is wrong with a batch; nothing of it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// Its entries do not stand in ascending order, or outside of what the batch says it covers.
    #[error("the batch's entries are not in ascending order of seq: {at} comes after {before}")]
    OutOfOrder {
        /// The entry that stands wrong.
        at: Seq,
        /// What stands before it.
        before: Seq,
    },
    /// It has several entries, and is larger than a batch may be.
    #[error(
        "a batch of several entries holds at most {BATCH_BYTES_MAX} bytes, where each field counts \
         as at least {FIELD_BYTES_MIN}"
    )]
    TooLarge,
    /// A loss that it tells of is none that can have been found before its entries.
    #[error(
        "the losses that the batch tells of do not stand in ascending order between its beginning \
         and its end, or count more than {LOSS_COUNT_MAX} entries"
    )]
    Losses,
}

/// Checks a batch and says what is to be done with it.
///
/// # Errors
/// `BadBatch`.
pub fn plan(
    epoch: Epoch,
    (after, through): (Option<Seq>, Option<Seq>),
    entries: Vec<Entry>,
    account: BatchAccount,
    (direction, limits): (Direction, &EntryLimits),
) -> Result<Append, BadBatch> {
    let mut before = after.unwrap_or_default();
    for entry in &entries {
        if entry.seq <= before {
            return Err(BadBatch::OutOfOrder { at: entry.seq, before });
        }
        before = entry.seq;
    }
    let through = through.unwrap_or(before);
    if through < before {
        return Err(BadBatch::OutOfOrder { at: through, before });
    }
    check_losses(epoch, (after, through), &account)?;
    let digest = entries.last().filter(|last| last.seq == through).map(Entry::digest);
    let mut refused = Vec::new();
    let mut entries = entries;
    entries.retain(|entry| match entry.check(direction, limits) {
        Ok(()) => true,
        Err(reason) => {
            refused.push((entry.seq, reason));
            false
        }
    });
    let charge: usize = entries.iter().map(Entry::charge).sum();
    if entries.len() > 1 && charge > BATCH_BYTES_MAX {
        return Err(BadBatch::TooLarge);
    }
    Ok(Append { epoch, known: None, after, through, entries, refused, digest, account, seal: None })
}

/// What was lost before a batch was lost after the batch before, one range after the other. Only what
/// ended a life before this one stands elsewhere, and first.
fn check_losses(
    epoch: Epoch,
    (after, through): (Option<Seq>, Seq),
    account: &BatchAccount,
) -> Result<(), BadBatch> {
    let mut before = after.unwrap_or_default();
    for (at, loss) in account.losses.iter().enumerate() {
        let is_sane = loss.from <= loss.to && loss.count.unwrap_or(0) <= LOSS_COUNT_MAX;
        let is_of_older_life = at == 0 && loss.epoch < epoch && loss.count.is_none();
        if !is_sane || (loss.epoch != epoch && epoch.is_known() && !is_of_older_life) {
            return Err(BadBatch::Losses);
        }
        if !is_of_older_life {
            if loss.from <= before || loss.to > through {
                return Err(BadBatch::Losses);
            }
            before = loss.to;
        }
    }
    Ok(())
}

/// One copy's end of one connection.
pub struct Receiver {
    direction: Direction,
    limits: EntryLimits,
    epoch: Epoch,
    cursor: Seq,
    /// Of the batches that the script has in hand, oldest first.
    pending: VecDeque<(Epoch, Vec<(Seq, RejectReason)>)>,
    received: u64,
    duplicates: u64,
    lost: u64,
}

impl Receiver {
    /// A receiver whose copy stands there.
    pub fn new(direction: Direction, limits: EntryLimits, (epoch, cursor): (Epoch, Seq)) -> Self {
        Self {
            direction,
            limits,
            epoch,
            cursor,
            pending: VecDeque::new(),
            received: 0,
            duplicates: 0,
            lost: 0,
        }
    }

    /// What to do with a batch; `handle_appended` follows, in the order of the batches.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn handle_push(&mut self, push: Push) -> Result<Append, GoawayReason> {
        let Push { epoch, after, through, entries, account, seal } = push;
        let (range, kind) = ((Some(after), Some(through)), (self.direction, &self.limits));
        let mut append =
            plan(epoch, range, entries, account, kind).map_err(|_| GoawayReason::Protocol)?;
        append.seal = seal;
        self.pending.push_back((epoch, append.refused.clone()));
        self.lost += append.account.losses.iter().filter_map(|loss| loss.count).sum::<u64>();
        Ok(append)
    }

    /// Where the copy stands, for a batch that goes to the script now.
    pub fn known(&self) -> (Epoch, Seq) {
        (self.epoch, self.cursor)
    }

    /// What to say once the script has run.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn handle_appended(&mut self, appended: &AppendResult) -> Result<Ack, GoawayReason> {
        let (epoch, refused) = self.pending.pop_front().unwrap_or_default();
        match *appended {
            AppendResult::Done { cursor, accepted, duplicates, .. } => {
                (self.epoch, self.cursor) = (epoch, cursor);
                self.received += accepted;
                self.duplicates += duplicates;
                Ok(Ack { epoch: self.epoch, seq: cursor, refused })
            }
            AppendResult::Later(_) => Err(GoawayReason::Unavailable),
            // The store looks for itself only.
            AppendResult::Ready => Err(GoawayReason::Other),
            AppendResult::Superseded => Err(GoawayReason::Superseded),
            AppendResult::StaleEpoch(_) => Err(GoawayReason::StaleEpoch),
            AppendResult::Gap(_) => Err(GoawayReason::Gap),
            AppendResult::EpochAhead(_) => Err(GoawayReason::EpochAhead),
            AppendResult::SeqAhead => Err(GoawayReason::SeqAhead),
        }
    }

    /// The cursor once more.
    pub fn ack(&self) -> Ack {
        Ack { epoch: self.epoch, seq: self.cursor, refused: Vec::new() }
    }

    /// How many entries the other side told to be lost in this session.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How many entries came in this session, and how many of those the copy had already.
    pub fn counts(&self) -> (u64, u64) {
        (self.received, self.duplicates)
    }
}
