//! How what was read is cut into batches.

use std::collections::VecDeque;

use crate::{
    entry::{Direction, Entry, RejectReason},
    loss::{BatchAccount, Tally},
    message::{Push, ReceiveLimits},
    seq::{Epoch, Seq},
};

/// Cuts what was read after `after` into batches within the limits, and sets apart what can never
/// be carried. The batches cover those too: the cursor passes over them.
pub(super) fn split(
    direction: Direction,
    granted: &ReceiveLimits,
    (epoch, after, tally): (Epoch, Seq, Tally),
    entries: Vec<Entry>,
) -> (VecDeque<Push>, Vec<(Seq, RejectReason)>) {
    let begin = |after, tally| {
        let account = BatchAccount { tally, ..BatchAccount::default() };
        Push { epoch, after, through: after, entries: Vec::new(), account, seal: None }
    };
    let mut batches = VecDeque::new();
    let mut letters = Vec::new();
    let mut push = begin(after, tally);
    let mut bytes = 0;
    for entry in entries {
        let seq = entry.seq;
        match entry.validate(direction, &granted.entry) {
            Err(reason) => {
                // Redis keeps no entry without fields: this one was too large to be read.
                let reason =
                    if reason == RejectReason::Empty { RejectReason::TooLarge } else { reason };
                letters.push((seq, reason));
                push.account.tally = push.account.tally.with_dead_letter();
            }
            Ok(()) => {
                let size = entry.charged_bytes();
                let is_full = push.entries.len() == granted.batch_entries
                    || bytes + size > granted.batch_bytes;
                if is_full && !push.entries.is_empty() {
                    let next = begin(push.through, push.account.tally);
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
    (batches, letters)
}
