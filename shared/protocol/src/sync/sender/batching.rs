//! Cuts entries into batches.

use std::collections::VecDeque;

use crate::{
    entry::{Direction, Entry, RejectReason},
    loss::{BatchAccount, Checkpoint},
    message::{Push, ReceiveLimits},
    seq::{Epoch, Seq},
};

/// Cuts the entries after `start` into batches within the limits, and returns apart those that can never be
/// carried. The batches cover those too: the cursor passes over them.
pub(super) fn split(
    direction: Direction,
    granted: &ReceiveLimits,
    epoch: Epoch,
    start: Checkpoint,
    entries: Vec<Entry>,
) -> (VecDeque<Push>, Vec<(Seq, RejectReason)>) {
    let empty_push = |after, tally| {
        let account = BatchAccount { tally, ..BatchAccount::default() };
        Push { epoch, after, through: after, entries: Vec::new(), account, seal: None }
    };
    let mut batches = VecDeque::new();
    let mut dead_letters = Vec::new();
    let mut push = empty_push(start.seq, start.tally);
    let mut bytes = 0;
    for entry in entries {
        let seq = entry.seq;
        match entry.validate(direction, &granted.entry) {
            Err(reason) => {
                // Redis stores no entry without fields: this one was too large to be read.
                let reason =
                    if reason == RejectReason::Empty { RejectReason::TooLarge } else { reason };
                dead_letters.push((seq, reason));
                push.account.tally = push.account.tally.with_dead_letter();
            }
            Ok(()) => {
                let size = entry.charged_bytes();
                let is_full = push.entries.len() == granted.batch_entries
                    || bytes + size > granted.batch_bytes;
                if is_full && !push.entries.is_empty() {
                    let next = empty_push(push.through, push.account.tally);
                    batches.push_back(std::mem::replace(&mut push, next));
                    bytes = 0;
                }
                bytes += size;
                push.account.tally = push.account.tally.with_carried();
                push.entries.push(entry);
            }
        }
        push.through = seq;
    }
    if push.through > push.after {
        batches.push_back(push);
    }
    (batches, dead_letters)
}
