//! The origin's end of a session: reads entries, sends batches, and takes acknowledgements.
//!
//! The stream itself is the only buffer. A [`Sender`] reads ahead by one read, keeps what does not fit the
//! window yet, and forgets a batch once it is handed out. After a broken connection the next sender begins
//! at the receiver's cursor and reads again.

mod batching;
mod in_flight;
mod origin_side;
mod peer_clock;
mod path;
mod stats;
mod task;
mod trim;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    entry::{Direction, Entry, RejectReason},
    limits::CLOCK_INTERVAL,
    loss::{Checkpoint, Loss},
    message::{Ack, Push, ReceiveLimits},
    seal::SealKey,
    seq::{Epoch, Seq},
    sync::{
        loss_accounting::RecordedLosses,
        resume::{OriginStanding, Position, SenderStart},
    },
};

use self::{
    in_flight::{InFlight, InFlightBatch},
    stats::SenderStats,
    task::BlockedTask,
    trim::TrimQueue,
};
pub use self::{
    path::{
        LinkPath, PathFinding, PathLimit, SessionEnding, SessionSummary, StuckEntry, UnackedAtEnd,
    },
    peer_clock::PeerClock,
    stats::AckedBatch,
    task::{OriginRead, OriginTask, ReadSize},
    trim::TrimMode,
};

/// An acknowledgement that no batch in flight can have caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid acknowledgement of {acked}: expected the end of a batch in flight, and only refused \
     entries of those batches"
)]
pub struct BadAck {
    /// The acknowledged seq.
    pub acked: Seq,
}

/// The origin's end of one connection.
///
/// The calling order:
///
/// 1. Report each event: [`Self::handle_news`] when the origin may have more, [`Self::handle_ack`] and
///    [`Self::handle_hold`] for frames of the peer, and the result of each task
///    ([`Self::handle_read`], [`Self::handle_dead_lettered`], [`Self::handle_losses_recorded`],
///    [`Self::handle_ack_recorded`], or [`Self::handle_unreadable`] for a task that failed).
/// 2. Call [`Self::poll_task`] until it returns nothing, and do each [`OriginTask`]. One task of each kind
///    runs at a time.
/// 3. Call [`Self::poll_push`] while the outbox has room.
/// 4. Call [`Self::handle_timeout`] at [`Self::delayed_until`], and [`Self::poll_task`] again at
///    [`Self::record_due`] and [`Self::retry_at`].
///
/// [`Session`](super::session::Session) does all this for both directions of a connection.
pub struct Sender {
    direction: Direction,
    granted: ReceiveLimits,
    trim_queue: TrimQueue,
    epoch: Epoch,
    /// The seq after which this session began.
    start: Seq,
    /// The end of the last batch that was made, which the next one joins.
    joins_after: Seq,
    /// Entries up to here were read.
    read_through: Checkpoint,
    high_water_mark: Seq,
    seal_key: Option<SealKey>,
    acked: Checkpoint,
    /// The last acknowledgement before this session, as recorded at the origin.
    acked_before: Checkpoint,
    /// The last acknowledgement that was recorded at the origin.
    recorded_ack: Seq,
    /// The next acknowledgement is not recorded before this time.
    record_due_at: Option<Instant>,
    /// Entries up to here are dead letters already.
    dead_lettered: Seq,
    /// Entries up to here may be in the copy under an older epoch.
    inherited: Seq,
    /// Losses to write to the origin's ledger.
    pending_losses: Option<(Vec<Loss>, RecordedLosses)>,
    /// Losses in the origin's ledger that the copy has not acknowledged.
    recorded_losses: Option<RecordedLosses>,
    /// Losses for the copy's ledger, sent with the next batch.
    unsent_losses: Vec<Loss>,
    /// Whether the copy has acknowledged all losses in the origin's ledger.
    losses_acked: bool,
    ready: VecDeque<Push>,
    in_flight: InFlight,
    dead_letters: Vec<(Seq, RejectReason)>,
    has_news: bool,
    peer_clock: Option<PeerClock>,
    /// No batch is sent before this time, so that the other direction has the connection for itself.
    delayed_until: Option<Instant>,
    /// No batch after this entry is sent.
    stop_after: Option<Seq>,
    /// The first entry that is too far ahead of the peer's clock, and since when it waits.
    ahead_of_clock: Option<(Seq, Instant)>,
    /// Whether a read found losses while batches were in flight.
    awaits_acks: bool,
    /// The task that failed because of the type or the state of a key.
    blocked: Option<Box<BlockedTask>>,
    /// Whether the peer sent HOLD.
    is_on_hold: bool,
    is_reading: bool,
    is_dead_lettering: bool,
    is_recording_losses: bool,
    is_recording_ack: bool,
    stats: SenderStats,
}

impl Sender {
    /// Creates a sender that begins at `start`. It reads nothing before [`Self::handle_news`].
    pub fn new(
        direction: Direction,
        granted: ReceiveLimits,
        trim: TrimMode,
        start: &SenderStart,
    ) -> Self {
        let Position { epoch, after, tally, joins_after, inherited, loss, .. } = start.position;
        let OriginStanding { memory, extent, is_unreadable, .. } = &start.standing;
        let high_water_mark = memory.high_water_mark.seq;
        let probe = || Box::new(BlockedTask::probe(after, high_water_mark));
        Self {
            direction,
            granted,
            trim_queue: TrimQueue::new(trim),
            epoch,
            start: after,
            joins_after,
            read_through: Checkpoint::new(after, tally),
            high_water_mark,
            seal_key: memory.seal_key,
            acked: Checkpoint::new(after, tally),
            acked_before: memory.acked,
            recorded_ack: memory.acked.seq,
            record_due_at: None,
            dead_lettered: memory.dead_lettered,
            inherited,
            pending_losses: None,
            recorded_losses: memory.recorded_losses,
            unsent_losses: loss.into_iter().collect(),
            losses_acked: false,
            ready: VecDeque::new(),
            in_flight: InFlight::new(),
            dead_letters: Vec::new(),
            has_news: false,
            peer_clock: None,
            delayed_until: None,
            stop_after: None,
            ahead_of_clock: None,
            awaits_acks: false,
            blocked: is_unreadable.then(probe),
            is_on_hold: false,
            is_reading: false,
            is_dead_lettering: false,
            is_recording_losses: false,
            is_recording_ack: false,
            stats: SenderStats::new(extent.added),
        }
    }

    /// Holds back entries that are further ahead of this clock than the peer accepts.
    #[must_use]
    pub fn with_peer_clock(self, clock: PeerClock) -> Self {
        Self { peer_clock: Some(clock), ..self }
    }

    /// Limits what is in flight to what this path is known to carry.
    #[must_use]
    pub fn with_path(mut self, path: &LinkPath) -> Self {
        self.in_flight.set_limit(path.limit());
        self
    }

    /// Sends no batch before this time.
    #[must_use]
    pub fn with_delay(self, delayed_until: Option<Instant>) -> Self {
        Self { delayed_until, ..self }
    }

    /// Sends no batch that begins after this entry.
    #[must_use]
    pub fn with_stop_after(self, stop_after: Option<Seq>) -> Self {
        Self { stop_after, ..self }
    }

    /// Takes note of the time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.delayed_until = self.delayed_until.filter(|until| now < *until);
    }

    /// Returns the time to call [`Self::handle_timeout`], if any.
    pub fn delayed_until(&self) -> Option<Instant> {
        self.delayed_until
    }

    /// Takes note that the origin may have more entries.
    pub fn handle_news(&mut self) {
        self.has_news = true;
    }

    /// Takes a HOLD: the copy accepts nothing more in this session, and has dropped the batches that it has
    /// not acknowledged.
    pub fn handle_hold(&mut self) {
        self.is_on_hold = true;
        self.ready.clear();
        self.in_flight.clear();
    }

    /// Takes an acknowledgement. An older one, or one of another epoch, changes nothing.
    ///
    /// # Errors
    /// [`BadAck`] if no batch in flight ends there; the connection must end.
    pub fn handle_ack(&mut self, ack: Ack, now: Instant) -> Result<(), BadAck> {
        if ack.epoch != self.epoch || ack.seq <= self.acked.seq {
            return Ok(());
        }
        let is_of_these = |(seq, _): &(Seq, RejectReason)| *seq > self.acked.seq && *seq <= ack.seq;
        if !self.in_flight.ends_at(ack.seq) || !ack.refused.iter().all(is_of_these) {
            return Err(BadAck { acked: ack.seq });
        }
        self.acked.seq = ack.seq;
        self.dead_letters.extend(ack.refused);
        while let Some(batch) = self.in_flight.acknowledge(ack.seq, now) {
            self.acked.tally = batch.tally;
            let is_covered = |losses: RecordedLosses| losses.base_added < batch.tally.added;
            if batch.has_losses && self.recorded_losses.is_some_and(is_covered) {
                (self.recorded_losses, self.losses_acked) = (None, true);
            }
            self.stats.handle_acked(&batch, now.duration_since(batch.sent_at));
            self.trim_queue.handle_acked(batch.trim_points);
        }
        Ok(())
    }

    /// Returns the next batch to send, if the window has room.
    pub fn poll_push(&mut self, now: Instant) -> Option<Push> {
        if !self.has_push() {
            return None;
        }
        let mut push = self.ready.pop_front()?;
        let (through, tally) = (push.through, push.account.tally);
        push.seal = self.seal_key.map(|key| key.seal(push.epoch, through, tally));
        let (entries, bytes, sent_at) = (push.entries.len(), push.bytes(), now);
        let trim_points = self.trim_queue.trim_points(&push);
        let has_losses = !push.account.losses.is_empty();
        self.stats.handle_sent(bytes);
        let first = stats::first_seq(&push);
        self.in_flight.push(InFlightBatch {
            first,
            through,
            tally,
            entries,
            bytes,
            sent_at,
            trim_points,
            has_losses,
        });
        Some(push)
    }

    /// Returns whether [`Self::poll_push`] has a batch. A batch waits until the dead letters and losses before
    /// it are written: once the cursor has passed them, they would never be read again.
    pub fn has_push(&self) -> bool {
        let Some(next) = self.ready.front() else { return false };
        let size = (next.entries.len(), next.bytes());
        let has_room = self.in_flight.has_room(self.granted.window_batches, size);
        let are_losses_recorded = self.pending_losses.is_none() && !self.is_recording_losses;
        self.delayed_until.is_none()
            && self.stop_after.is_none_or(|last| next.after < last)
            && !self.is_on_hold
            && self.blocked.is_none()
            && has_room
            && are_losses_recorded
            && self.dead_letters.is_empty()
            && !self.is_dead_lettering
    }

    /// Returns the number of entries in the next batch.
    pub fn next_entries(&self) -> usize {
        self.ready.front().map_or(0, |push| push.entries.len())
    }

    /// Returns the bytes that the next batch is charged.
    pub fn next_charged_bytes(&self) -> usize {
        self.ready.front().map_or(0, |push| push.entries.iter().map(Entry::charged_bytes).sum())
    }

    /// Returns when the link must be given up if nothing is acknowledged, while batches are in flight.
    /// `timeout` is how long an acknowledgement may take.
    pub fn progress_deadline(&self, timeout: Duration) -> Option<Instant> {
        Some(self.in_flight.progress_at()? + timeout + self.extra_timeout()?)
    }

    /// Returns how much longer than usual an answer may take, while batches are in flight.
    pub fn extra_timeout(&self) -> Option<Duration> {
        self.in_flight.extra_timeout()
    }

    /// Returns the first entry that is held back because it is too far ahead of the peer's clock.
    pub fn ahead_of_clock(&self) -> Option<Seq> {
        self.ahead_of_clock.map(|(seq, _)| seq)
    }

    /// Returns when to ask for the peer's clock again, while an entry is held back.
    pub fn peer_clock_due(&self) -> Option<Instant> {
        self.ahead_of_clock.map(|(_, since)| since + CLOCK_INTERVAL)
    }

    /// Returns the last acknowledged seq.
    pub fn acked(&self) -> Seq {
        self.acked.seq
    }

    /// Returns what [`LinkPath`] remembers of this session.
    pub fn summary(&self) -> SessionSummary {
        let start = (self.epoch, self.start);
        let (limit, unacked) = (self.in_flight.limit(), self.in_flight.unacked());
        SessionSummary { start, acked: self.acked.seq, limit, unacked }
    }

    /// Returns the seq up to which the origin was read.
    pub fn read_through(&self) -> Seq {
        self.read_through.seq
    }

    /// Returns the granted limits, with batches no larger than the window.
    fn effective_limits(&self) -> ReceiveLimits {
        let batch_bytes = self.granted.batch_bytes.min(self.in_flight.window());
        let batch_entries = self.granted.batch_entries.min(self.in_flight.window_entries());
        ReceiveLimits { batch_bytes, batch_entries, ..self.granted }
    }

    /// Returns the number of entries that were acknowledged in this session.
    pub fn acked_entries(&self) -> u64 {
        self.stats.acked_entries
    }

    /// Returns the number of entries that were found lost in this session.
    pub fn lost_entries(&self) -> u64 {
        self.stats.lost_entries
    }

    /// Returns the number of batches that were sent in this session, and the bytes of their entries.
    pub fn sent(&self) -> (u64, u64) {
        (self.stats.sent_batches, self.stats.sent_bytes)
    }

    /// Returns the last batch that was acknowledged in this session.
    pub fn last_acked_batch(&self) -> Option<AckedBatch> {
        self.stats.last_acked
    }

    /// Returns the number of entries that the origin held at the last read and the copy has not acknowledged,
    /// and the first of them. If an app has deleted some, the number may be too high until the end of the
    /// stream is read.
    pub fn backlog(&self) -> (u64, Option<Seq>) {
        let next = self.ready.front().map(stats::first_seq);
        let first = self.in_flight.first().or(next);
        if first.is_none() && !self.has_news && !self.is_reading {
            return (0, None);
        }
        let entries = match self.acked.tally.is_unknown() {
            true => {
                let ready = self.ready.iter().map(|push| push.entries.len() as u64);
                self.in_flight.entries() + ready.sum::<u64>()
            }
            false => self.stats.added.saturating_sub(self.acked.tally.added),
        };
        // Between a batch and the read of the next one, the last batch is the best guess.
        let last = self.stats.last_acked.filter(|_| entries > 0).map(|batch| batch.first);
        (entries, first.or(last))
    }
}
