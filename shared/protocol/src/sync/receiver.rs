//! The copy's end of a session: checks each batch, and says what to append and what to acknowledge.
//!
//! The cursor in the copy's Redis, and the script that moves it, decide what is appended. A receiver
//! checks everything that can be checked without them, so that the script does not fail half way.
//!
//! A batch is checked by [`plan_append`] alone where there is no session, as over plain HTTP.

use std::{collections::VecDeque, time::Duration};

use crate::{
    entry::{Digest, Direction, Entry, EntryLimits, RejectReason},
    limits::{BATCH_BYTES_MAX, FIELD_BYTES_MIN, LOSS_COUNT_MAX},
    loss::BatchAccount,
    message::{Ack, GoawayReason, Push},
    seal::Seal,
    seq::{Epoch, Seq},
};

/// A batch as it was received, before it is checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UncheckedBatch {
    /// The epoch of the origin that the batch belongs to; [`Epoch::UNKNOWN`] for that of the copy.
    pub epoch: Epoch,
    /// The end of the batch before; without it no gap is looked for.
    pub after: Option<Seq>,
    /// The end of this batch; without it the seq of the last entry.
    pub through: Option<Seq>,
    /// The entries.
    pub entries: Vec<Entry>,
    /// The origin's counts and losses.
    pub account: BatchAccount,
}

/// A checked batch for the script: append the entries past the cursor, then move the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// The epoch of the origin that the batch belongs to.
    pub epoch: Epoch,
    /// The position of the copy as this session knows it. A copy behind it has gone back to an older
    /// state.
    pub known: Option<(Epoch, Seq)>,
    /// The end of the batch before; without it no gap is looked for.
    pub after: Option<Seq>,
    /// The seq that the cursor moves to.
    pub through: Seq,
    /// The entries to append, in order.
    pub entries: Vec<Entry>,
    /// Entries that are never appended. They go to the ledger.
    pub refused: Vec<(Seq, RejectReason)>,
    /// The digest of the entry at `through`.
    pub digest: Option<Digest>,
    /// The origin's counts and losses.
    pub account: BatchAccount,
    /// The origin's seal on the cursor at `through`.
    pub seal: Option<Seal>,
}

impl Append {
    /// Returns whether the batch may have to wait for more than the script: for a search, or for its
    /// quota of ledger lines.
    pub fn may_wait(&self) -> bool {
        let has_lines = !self.account.losses.is_empty() || !self.refused.is_empty();
        self.account.is_inherited || has_lines
    }
}

/// The result of an [`Append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendResult {
    /// All entries past the cursor are in the copy.
    Done {
        /// The cursor now.
        cursor: Seq,
        /// The number of entries that were appended.
        accepted: u64,
        /// The number of entries that the copy had already.
        duplicates: u64,
        /// The copy's ID of the last entry appended.
        id: Option<Seq>,
    },
    /// The client has used up its quota of searches or ledger lines. Nothing was done; the batch may be
    /// sent again after this time.
    RateLimited(Duration),
    /// The batch would be appended, as far as its header tells. Nothing was done.
    WouldAppend,
    /// A newer session of this client has begun. Nothing was done.
    Superseded,
    /// The copy is in this newer epoch of the origin. Nothing was done.
    StaleEpoch(Epoch),
    /// The batch begins behind this cursor. Nothing was done.
    Gap(Seq),
    /// The batch is more than one epoch ahead of this one. Nothing was done.
    EpochAhead(Epoch),
    /// The batch ends more than a day ahead of the hub's clock. Nothing was done.
    SeqAhead,
}

/// A fault in a batch. Nothing of the batch may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// Its entries are not in ascending order, or lie outside of the range that it covers.
    #[error("the batch's entries are not in ascending order of seq: {at} comes after {before}")]
    OutOfOrder {
        /// The misplaced entry.
        at: Seq,
        /// The entry before it.
        before: Seq,
    },
    /// It has several entries, and is larger than a batch may be.
    #[error(
        "the batch is too large: several entries together may have at most {BATCH_BYTES_MAX} bytes, \
         where each field counts as at least {FIELD_BYTES_MIN}"
    )]
    TooLarge,
    /// One of its losses cannot have been found before its entries.
    #[error(
        "invalid losses in the batch: expected ascending ranges between its beginning and its end, \
         of at most {LOSS_COUNT_MAX} entries each"
    )]
    Losses,
}

/// Checks a batch and returns what to append.
///
/// # Errors
/// [`BadBatch`] if the order, the size or the losses of the batch break a rule of the protocol.
pub fn plan_append(
    batch: UncheckedBatch,
    direction: Direction,
    limits: &EntryLimits,
) -> Result<Append, BadBatch> {
    let UncheckedBatch { epoch, after, through, entries, account } = batch;
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
    entries.retain(|entry| match entry.validate(direction, limits) {
        Ok(()) => true,
        Err(reason) => {
            refused.push((entry.seq, reason));
            false
        }
    });
    let charge: usize = entries.iter().map(Entry::charged_bytes).sum();
    if entries.len() > 1 && charge > BATCH_BYTES_MAX {
        return Err(BadBatch::TooLarge);
    }
    Ok(Append { epoch, known: None, after, through, entries, refused, digest, account, seal: None })
}

/// Checks that the losses lie after the batch before, one range after the other. Only the loss that ended
/// an older epoch lies elsewhere, and comes first.
fn check_losses(
    epoch: Epoch,
    (after, through): (Option<Seq>, Seq),
    account: &BatchAccount,
) -> Result<(), BadBatch> {
    let mut before = after.unwrap_or_default();
    for (at, loss) in account.losses.iter().enumerate() {
        let is_sane = loss.from <= loss.to && loss.count.unwrap_or(0) <= LOSS_COUNT_MAX;
        let is_of_older_epoch = at == 0 && loss.epoch < epoch && loss.count.is_none();
        if !is_sane || (loss.epoch != epoch && epoch.is_known() && !is_of_older_epoch) {
            return Err(BadBatch::Losses);
        }
        if !is_of_older_epoch {
            if loss.from <= before || loss.to > through {
                return Err(BadBatch::Losses);
            }
            before = loss.to;
        }
    }
    Ok(())
}

/// The copy's end of one connection.
///
/// Call [`Self::handle_push`] for each batch, run the script with the [`Append`] that it returns, then
/// call [`Self::handle_appended`] with the result, in the order of the batches. The [`Ack`] that comes
/// back is the answer to the peer.
pub struct Receiver {
    direction: Direction,
    limits: EntryLimits,
    epoch: Epoch,
    cursor: Seq,
    /// Epoch and refused entries of the batches that the script is working on, oldest first.
    pending: VecDeque<(Epoch, Vec<(Seq, RejectReason)>)>,
    received: u64,
    duplicates: u64,
    lost: u64,
}

impl Receiver {
    /// Creates a receiver for a copy at this position.
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

    /// Checks a batch and returns what to append. [`Self::handle_appended`] follows, in the order of the
    /// batches.
    ///
    /// # Errors
    /// [`GoawayReason::Protocol`] if the batch breaks a rule; the connection must end.
    pub fn handle_push(&mut self, push: Push) -> Result<Append, GoawayReason> {
        let Push { epoch, after, through, entries, account, seal } = push;
        let (after, through) = (Some(after), Some(through));
        let batch = UncheckedBatch { epoch, after, through, entries, account };
        let mut append =
            plan_append(batch, self.direction, &self.limits).map_err(|_| GoawayReason::Protocol)?;
        append.seal = seal;
        self.pending.push_back((epoch, append.refused.clone()));
        self.lost += append.account.losses.iter().filter_map(|loss| loss.count).sum::<u64>();
        Ok(append)
    }

    /// Returns the position of the copy, for a batch that goes to the script now.
    pub fn position(&self) -> (Epoch, Seq) {
        (self.epoch, self.cursor)
    }

    /// Takes the result of the script for the oldest pending batch, and returns the acknowledgement.
    ///
    /// # Errors
    /// The [`GoawayReason`] with which the connection must end, if nothing was appended.
    pub fn handle_appended(&mut self, appended: &AppendResult) -> Result<Ack, GoawayReason> {
        let (epoch, refused) = self.pending.pop_front().unwrap_or_default();
        match *appended {
            AppendResult::Done { cursor, accepted, duplicates, .. } => {
                (self.epoch, self.cursor) = (epoch, cursor);
                self.received += accepted;
                self.duplicates += duplicates;
                Ok(Ack { epoch: self.epoch, seq: cursor, refused })
            }
            AppendResult::RateLimited(_) => Err(GoawayReason::Unavailable),
            // The store asks for this only for itself.
            AppendResult::WouldAppend => Err(GoawayReason::Other),
            AppendResult::Superseded => Err(GoawayReason::Superseded),
            AppendResult::StaleEpoch(_) => Err(GoawayReason::StaleEpoch),
            AppendResult::Gap(_) => Err(GoawayReason::Gap),
            AppendResult::EpochAhead(_) => Err(GoawayReason::EpochAhead),
            AppendResult::SeqAhead => Err(GoawayReason::SeqAhead),
        }
    }

    /// Returns the cursor as an acknowledgement, for a PONG.
    pub fn ack(&self) -> Ack {
        Ack { epoch: self.epoch, seq: self.cursor, refused: Vec::new() }
    }

    /// Returns the number of entries that the peer reported lost in this session.
    pub fn reported_lost(&self) -> u64 {
        self.lost
    }

    /// Returns the number of entries that were appended in this session.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Returns the number of entries in this session that the copy had already.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }
}
