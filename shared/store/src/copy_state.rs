//! The state of a copy, one field of its hash, and how the batches of one session follow each other in it.

use std::{
    fmt::{self, Write},
    str::FromStr,
};

use super::StoreError;
use crate::decode;
use spoke_protocol::{
    Digest, Direction, Epoch, Seal, Seq, Tally,
    sync::{Append, AppendResult},
};

/// The field of the hash.
pub(super) const FIELD: &str = "in";

/// Room for nearly every state: a digest and a seal of 32 bytes each, and seven numbers.
const TEXT_BYTES: usize = 160;

/// The state of a copy, as copy_state.lua writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct CopyState {
    /// The cursor.
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    /// The number of entries that were ever appended.
    pub(super) added: u64,
    /// When the last batch was appended, in milliseconds since 1970; 0 for never.
    pub(super) at_ms: u64,
    /// The origin's digest, seal and tally at the cursor.
    pub(super) digest: Option<Digest>,
    pub(super) seal: Option<Seal>,
    pub(super) tally: Tally,
}

/// A text that is not the state of a copy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadCopyState;

impl From<BadCopyState> for StoreError {
    fn from(_: BadCopyState) -> Self {
        decode::unexpected("the state of a copy in its hash's field in")
    }
}

impl fmt::Display for CopyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, seq, added, at_ms, digest, seal, tally } = self;
        write!(f, "{} {seq} {added} {at_ms} {} {}", epoch.0, OrDash(digest), OrDash(seal))?;
        write!(f, " {tally}")
    }
}

/// Writes a dash for none.
pub(super) struct OrDash<'a, T>(pub(super) &'a Option<T>);

impl<T: fmt::Display> fmt::Display for OrDash<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

impl FromStr for CopyState {
    type Err = BadCopyState;

    fn from_str(text: &str) -> Result<Self, BadCopyState> {
        let mut parts = text.split(' ');
        let mut next = || parts.next().ok_or(BadCopyState);
        let state = Self {
            epoch: Epoch(next()?.parse().map_err(|_| BadCopyState)?),
            seq: next()?.parse().map_err(|_| BadCopyState)?,
            added: next()?.parse().map_err(|_| BadCopyState)?,
            at_ms: next()?.parse().map_err(|_| BadCopyState)?,
            digest: Digest::from_hex(next()?.as_bytes()),
            seal: Seal::from_hex(next()?.as_bytes()),
            tally: next()?.parse().map_err(|_| BadCopyState)?,
        };
        Ok(state)
    }
}

impl CopyState {
    /// Returns the text, without growing it on the way.
    fn text(&self) -> String {
        let mut text = String::with_capacity(TEXT_BYTES);
        write!(text, "{self}").expect("writing to memory does not fail");
        text
    }

    /// Returns the state after a batch with `entries` entries, if the batch follows this state exactly, so that
    /// append.lua has nothing more to check.
    fn followed_by(
        &self,
        append: &Append,
        (direction, entries): (Direction, usize),
        now_ms: u64,
    ) -> Option<Self> {
        let is_joined = append.epoch == self.epoch
            && append.after == Some(self.seq)
            && append.through > self.seq
            && append.known <= Some((self.epoch, self.seq));
        // The clock of a device is not trusted.
        let is_in_time = direction == Direction::Down || append.through <= Seq::ceiling(now_ms);
        (self.epoch.is_known() && is_joined && is_in_time).then(|| Self {
            epoch: self.epoch,
            seq: append.through,
            added: self.added.saturating_add(entries as u64),
            at_ms: now_ms,
            digest: append.digest,
            seal: append.seal,
            tally: append.account.tally,
        })
    }
}

/// The state that the next batch of a session will find, if nothing else changes it. A batch that is sent before the
/// one in front of it was answered follows the state that is predicted for that one.
#[derive(Debug, Default)]
pub(super) struct StateChain {
    /// The state and its text.
    next: Option<(CopyState, String)>,
    unanswered: usize,
}

/// What append.lua compares the state with, and the state that it then writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StateStep {
    pub(super) expected: String,
    pub(super) new: String,
}

impl StateChain {
    /// Takes the next batch, in the order in which the batches are sent. `entries` is their number if the batch has to
    /// be appended without any ledger line. Returns none if append.lua has to check the batch.
    pub(super) fn begin(
        &mut self,
        append: &Append,
        (direction, entries): (Direction, Option<usize>),
        now_ms: u64,
    ) -> Option<StateStep> {
        self.unanswered += 1;
        let (state, expected) = self.next.take()?;
        let state = state.followed_by(append, (direction, entries?), now_ms)?;
        let new = state.text();
        self.next = Some((state, new.clone()));
        Some(StateStep { expected, new })
    }

    /// Takes the answer to a batch that was checked, with the text of the state that it left.
    pub(super) fn handle_checked(&mut self, result: &AppendResult, state: Option<String>) {
        self.handle_answered();
        // Batches that were sent since have changed it again.
        if self.unanswered == 0 {
            let text = state.filter(|_| matches!(result, AppendResult::Done { .. }));
            self.next = text.and_then(|text| Some((text.parse().ok()?, text)));
        }
    }

    /// Takes the answer to a batch that found the expected state, or a failure: the next comparison shows whether the
    /// batch is in the copy.
    pub(super) fn handle_answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spoke_protocol::{TallyPrecision, sync::UncheckedBatch};

    const NOW: u64 = 1_700_000_000_000;

    fn state(seq: u64) -> CopyState {
        let tally = Tally { added: seq, dead: 1, lost: 0, precision: TallyPrecision::Exact };
        let digest = Digest::from_hex(&[b'a'; 32]);
        let (epoch, seq) = (Epoch(2), Seq::new(seq, 0));
        CopyState { epoch, seq, added: seq.ms, at_ms: NOW, digest, seal: None, tally }
    }

    /// The batch of one entry from the state at `from` to that at `to`.
    fn batch(from: u64, to: u64) -> Append {
        let CopyState { epoch, seq, digest, tally, .. } = state(to);
        let account = spoke_protocol::BatchAccount { tally, ..Default::default() };
        Append {
            epoch,
            known: Some((epoch, Seq::new(from, 0))),
            after: Some(Seq::new(from, 0)),
            through: seq,
            entries: UncheckedBatch::default().entries,
            refused: Vec::new(),
            digest,
            account,
            seal: None,
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let seal = Seal::from_hex(b"0123456789abcdef0123456789abcdef");
        for state in [CopyState::default(), state(5), CopyState { seal, ..state(7) }] {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert_eq!(
            state(5).to_string(),
            format!("2 5-0 5 1700000000000 {} - 5,1,0", "a".repeat(32))
        );
        for text in
            ["", "1", "1 5 1 1 - - ~", "x 5-0 1 1 - - ~", "1 5-0 1 1 - -", "1 5-0 1 1 - - -"]
        {
            assert_eq!(text.parse::<CopyState>(), Err(BadCopyState), "{text}");
        }
        assert_eq!("1 0-0 4 5 - - ~".parse::<CopyState>().unwrap().tally, Tally::default());
    }

    #[test]
    fn only_a_batch_that_joins_the_state_needs_no_check() {
        let follows = |append: &Append, direction| {
            state(5).followed_by(append, (direction, 1), NOW).map(|new| (new.seq, new.added))
        };
        let joined = batch(5, 6);
        assert_eq!(follows(&joined, Direction::Up), Some((Seq::new(6, 0), 6)));
        let others = [
            Append { epoch: Epoch(1), ..joined.clone() },
            Append { epoch: Epoch(3), ..joined.clone() },
            Append { epoch: Epoch::UNKNOWN, ..joined.clone() },
            Append { after: None, ..joined.clone() },
            Append { after: Some(Seq::new(4, 0)), ..joined.clone() },
            Append { after: Some(Seq::new(6, 0)), ..joined.clone() },
            Append { through: Seq::new(5, 0), ..joined.clone() },
            Append { known: Some((Epoch(2), Seq::new(6, 0))), ..joined.clone() },
            Append { known: Some((Epoch(3), Seq::ZERO)), ..joined.clone() },
        ];
        for other in others {
            assert_eq!(follows(&other, Direction::Up), None, "{other:?}");
        }
        let ahead = Append { through: Seq::ceiling(NOW).after(), ..joined };
        assert_eq!(follows(&ahead, Direction::Up), None);
        assert!(follows(&ahead, Direction::Down).is_some(), "the clock of a device is not trusted");
    }

    #[test]
    fn a_batch_follows_the_predicted_state_and_a_checked_one_teaches_it() {
        let mut chain = StateChain::default();
        let begin = |chain: &mut StateChain, from, to| {
            chain.begin(&batch(from, to), (Direction::Up, Some(1)), NOW)
        };
        let done = |seq| AppendResult::Done {
            cursor: Seq::new(seq, 0),
            accepted: 1,
            duplicates: 0,
            id: None,
        };
        assert_eq!(begin(&mut chain, 4, 5), None, "the first is checked");
        assert_eq!(begin(&mut chain, 5, 6), None, "so is one that does not wait for its answer");
        chain.handle_checked(&done(5), Some(state(5).to_string()));
        chain.handle_checked(&done(6), Some(state(6).to_string()));
        let step = begin(&mut chain, 6, 7).expect("the state is known");
        assert_eq!((step.expected, step.new.clone()), (state(6).to_string(), state(7).to_string()));
        let next = begin(&mut chain, 7, 8).expect("the state is predicted");
        assert_eq!(next.expected, step.new);
        chain.handle_answered();
        chain.handle_answered();

        let with_lines = chain.begin(&batch(8, 9), (Direction::Up, None), NOW);
        assert_eq!(with_lines, None, "a batch with ledger lines is checked");
        chain.handle_checked(&AppendResult::Gap(Seq::ZERO), None);
        assert_eq!(begin(&mut chain, 9, 10), None, "the state is unknown after a refusal");
    }
}
