//! The origin's end: what to read, what to send, what is acknowledged.
//!
//! The stream itself is the only buffer. A sender reads ahead by one read, keeps what does not fit
//! the window yet, and forgets a batch once it is handed out: after a broken connection the next
//! one begins at the receiver's cursor and reads again.
//!
//! Order of calls: `handle_*` what happened, then `poll_push` while there is room in the outbox
//! and `poll_task` until it yields nothing. One task of each kind is under way at a time.

mod batching;
mod in_flight;
mod peer_clock;
pub mod path;
mod stats;
mod task;
mod trim;
mod origin_side;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    entry::{Direction, Entry, RejectReason},
    limits::CLOCK_INTERVAL,
    loss::{Checkpoint, Loss, Tally},
    message::{Ack, Push, ReceiveLimits},
    seal::SealKey,
    seq::{Epoch, Seq},
    sync::{
        accounting::RecordedLosses,
        resume::{Position, SenderStart},
    },
};

use self::{
    in_flight::{InFlight, InFlightBatch},
    path::{LinkPath, SessionSummary},
    stats::SenderStats,
    task::BlockedTask,
    trim::TrimQueue,
};
pub use self::{
    peer_clock::PeerClock,
    stats::AckedBatch,
    task::{OriginRead, OriginTask, ReadSize},
    trim::TrimMode,
};

/// An acknowledgement that no batch under way can have caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other side acknowledged {acked}, or refused what is not below, but no batch ends there"
)]
pub struct BadAck {
    /// What it acknowledged.
    pub acked: Seq,
}

/// One origin's end of one connection.
pub struct Sender {
    direction: Direction,
    granted: ReceiveLimits,
    slack: TrimQueue,
    epoch: Epoch,
    /// Where this session began.
    begun: Seq,
    /// Where the next batch joins on.
    joint: Seq,
    /// Entries up to here were read, and the tally there.
    read: Checkpoint,
    mark: Seq,
    key: Option<SealKey>,
    /// Batches up to here were handed out.
    sent: Seq,
    acked: Seq,
    /// The tally of the last acknowledged batch.
    acked_tally: Tally,
    /// What the copy ever acknowledged before this session.
    acked_before: Checkpoint,
    recorded: Seq,
    /// Not before then what was acknowledged since is recorded.
    record_from: Option<Instant>,
    /// Letters up to here are among the dead already.
    buried: Seq,
    /// Entries up to here may be in the copy under an older epoch.
    inherited: Seq,
    /// Losses for this side's ledger.
    losses: Option<(Vec<Loss>, RecordedLosses)>,
    written: Option<RecordedLosses>,
    /// Losses for the copy's ledger, told with the next batch.
    untold: Vec<Loss>,
    is_told: bool,
    ready: VecDeque<Push>,
    flights: InFlight,
    letters: Vec<(Seq, RejectReason)>,
    has_news: bool,
    clock: Option<PeerClock>,
    /// No batch leaves before, so that the other direction has the connection for itself.
    delayed_until: Option<Instant>,
    /// The first entry that is too far ahead of the other side's clock to be taken.
    ahead_of_clock: Option<(Seq, Instant)>,
    /// A read found losses while batches were under way.
    awaits_acks: bool,
    /// What could not be done at the origin as it is.
    undone: Option<Box<BlockedTask>>,
    /// The copy takes nothing in this session.
    is_refused: bool,
    is_reading: bool,
    is_burying: bool,
    is_writing: bool,
    is_recording: bool,
    stats: SenderStats,
}

impl Sender {
    /// A sender that begins there. It reads once it is told of news, be it what was there before.
    pub fn new(
        direction: Direction,
        granted: ReceiveLimits,
        trim: TrimMode,
        begun: &SenderStart,
    ) -> Self {
        let Position { epoch, after, tally, joins_after: joint, inherited, loss, .. } =
            begun.position;
        let memory = &begun.standing.memory;
        Self {
            direction,
            granted,
            slack: TrimQueue::new(trim),
            epoch,
            begun: after,
            joint,
            read: Checkpoint::new(after, tally),
            mark: memory.high_water_mark.seq,
            key: memory.seal_key,
            sent: after,
            acked: after,
            acked_tally: tally,
            acked_before: memory.acked,
            recorded: memory.acked.seq,
            record_from: None,
            buried: memory.dead_lettered,
            inherited,
            losses: None,
            written: memory.recorded_losses,
            untold: loss.into_iter().collect(),
            is_told: false,
            ready: VecDeque::new(),
            flights: InFlight::new(),
            letters: Vec::new(),
            has_news: false,
            clock: None,
            delayed_until: None,
            ahead_of_clock: None,
            awaits_acks: false,
            undone: begun
                .standing
                .is_unreadable
                .then(|| Box::new(BlockedTask::first(after, memory.high_water_mark.seq))),
            is_refused: false,
            is_reading: false,
            is_burying: false,
            is_writing: false,
            is_recording: false,
            stats: SenderStats::new(begun.standing.extent.added),
        }
    }

    /// Keeps back what is further ahead of that clock than the other side takes.
    #[must_use]
    pub fn with_peer_clock(self, clock: PeerClock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// Sends no more at a time than this path is known to carry.
    #[must_use]
    pub fn with_path(mut self, path: &LinkPath) -> Self {
        self.flights.set_limit(path.limit());
        self
    }

    /// Sends nothing before.
    #[must_use]
    pub fn with_delay(self, held_until: Option<Instant>) -> Self {
        Self { delayed_until: held_until, ..self }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.delayed_until = self.delayed_until.filter(|until| now < *until);
    }

    /// When to call `handle_timeout`, if ever.
    pub fn delayed_until(&self) -> Option<Instant> {
        self.delayed_until
    }

    /// The origin may have more.
    pub fn handle_news(&mut self) {
        self.has_news = true;
    }

    /// The copy takes nothing more in this session, and has thrown away what it has not acknowledged.
    pub fn handle_hold(&mut self) {
        self.is_refused = true;
        self.ready.clear();
        self.flights.clear();
    }

    /// An acknowledgement. Older ones, and those of another epoch, change nothing.
    ///
    /// # Errors
    /// `BadAck`: the other side is confused, or is not alone, and the connection must end.
    pub fn handle_ack(&mut self, ack: Ack, now: Instant) -> Result<(), BadAck> {
        if ack.epoch != self.epoch || ack.seq <= self.acked {
            return Ok(());
        }
        let is_of_these = |(seq, _): &(Seq, RejectReason)| *seq > self.acked && *seq <= ack.seq;
        if !self.flights.end_at(ack.seq) || !ack.refused.iter().all(is_of_these) {
            return Err(BadAck { acked: ack.seq });
        }
        self.acked = ack.seq;
        self.letters.extend(ack.refused);
        while let Some(flight) = self.flights.acknowledge(ack.seq, now) {
            self.acked_tally = flight.tally;
            if flight.tells && self.written.is_some_and(|run| run.base_added < flight.tally.added) {
                (self.written, self.is_told) = (None, true);
            }
            self.stats.handle_landed(&flight, now.duration_since(flight.sent_at));
            self.slack.handle_acked(flight.marks);
        }
        Ok(())
    }

    /// The next batch to send, if the window has room.
    pub fn poll_push(&mut self, now: Instant) -> Option<Push> {
        if !self.has_push() {
            return None;
        }
        let mut push = self.ready.pop_front()?;
        let (through, tally) = (push.through, push.account.tally);
        push.seal = self.key.map(|key| key.seal(push.epoch, through, tally));
        let (entries, bytes, sent_at) = (push.entries.len(), push.bytes(), now);
        let (marks, tells) = (self.slack.marks(&push), !push.account.losses.is_empty());
        self.sent = through;
        self.stats.handle_sent(bytes);
        let first = stats::first_seq(&push);
        self.flights.push(InFlightBatch {
            first,
            through,
            tally,
            entries,
            bytes,
            sent_at,
            marks,
            tells,
        });
        Some(push)
    }

    /// Whether `poll_push` has something. A batch waits for the dead letters and losses before it:
    /// once its cursor has moved past them, nobody would come by them again.
    pub fn has_push(&self) -> bool {
        let Some(next) = self.ready.front() else { return false };
        let size = (next.entries.len(), next.bytes());
        let has_room = self.flights.has_room(self.granted.window_batches, size);
        let is_written = self.losses.is_none() && !self.is_writing;
        self.delayed_until.is_none()
            && !self.is_refused
            && self.undone.is_none()
            && has_room
            && is_written
            && self.letters.is_empty()
            && !self.is_burying
    }

    /// How many entries the next batch has.
    pub fn next_entries(&self) -> usize {
        self.ready.front().map_or(0, |push| push.entries.len())
    }

    /// What limits count the next batch as.
    pub fn next_charged_bytes(&self) -> usize {
        self.ready.front().map_or(0, |push| push.entries.iter().map(Entry::charged_bytes).sum())
    }

    /// When to give the link up if nothing is acknowledged until then, where `timeout` is what an
    /// acknowledgement may take.
    pub fn progress_deadline(&self, timeout: Duration) -> Option<Instant> {
        Some(self.flights.progress_at()? + timeout + self.extra_timeout()?)
    }

    /// How much longer than usual an answer may take, while something is under way.
    pub fn extra_timeout(&self) -> Option<Duration> {
        self.flights.extra_timeout()
    }

    /// The first entry that waits since it is too far ahead of the other side's clock.
    pub fn ahead_of_clock(&self) -> Option<Seq> {
        self.ahead_of_clock.map(|(seq, _)| seq)
    }

    /// When the other side's clock is to be asked for again, while something waits for it.
    pub fn peer_clock_due(&self) -> Option<Instant> {
        self.ahead_of_clock.map(|(_, since)| since + CLOCK_INTERVAL)
    }

    /// Up to where the other side has acknowledged.
    pub fn acked(&self) -> Seq {
        self.acked
    }

    /// This session, for what is remembered of its path.
    pub fn summary(&self) -> SessionSummary {
        let begun = (self.epoch, self.begun);
        let (limit, under_way) = (self.flights.limit(), self.flights.unacked());
        SessionSummary { start: begun, acked: self.acked, limit, unacked: under_way }
    }

    /// Up to where the origin was read.
    pub fn read_through(&self) -> Seq {
        self.read.seq
    }

    /// The limits with batches no larger than what may be under way.
    fn fitting(&self) -> ReceiveLimits {
        let batch_bytes = self.granted.batch_bytes.min(self.flights.window());
        let batch_entries = self.granted.batch_entries.min(self.flights.window_entries());
        ReceiveLimits { batch_bytes, batch_entries, ..self.granted }
    }

    /// How many entries were acknowledged in this session.
    pub fn acked_entries(&self) -> u64 {
        self.stats.acked_entries
    }

    /// How many entries were found lost in this session.
    pub fn lost_entries(&self) -> u64 {
        self.stats.lost_entries
    }

    /// How many batches were sent in this session, and the bytes of their entries.
    pub fn sent(&self) -> (u64, u64) {
        (self.stats.sent_batches, self.stats.sent_bytes)
    }

    /// The last batch that was acknowledged in this session.
    pub fn last_acked_batch(&self) -> Option<AckedBatch> {
        self.stats.last_acked
    }

    /// What the origin held by the last read and the copy has not acknowledged: how many entries, and
    /// the first of them. Where an app deleted some it may be too many until the end is reached.
    pub fn backlog(&self) -> (u64, Option<Seq>) {
        let next = self.ready.front().map(stats::first_seq);
        let in_hand = self.flights.first().or(next);
        if in_hand.is_none() && !self.has_news && !self.is_reading {
            return (0, None);
        }
        let entries = match self.acked_tally.is_unknown() {
            true => {
                let ready = self.ready.iter().map(|push| push.entries.len() as u64);
                self.flights.entries() + ready.sum::<u64>()
            }
            false => self.stats.added.saturating_sub(self.acked_tally.added),
        };
        // Between a batch and the read of the next the last one is the best guess.
        let before = self.stats.last_acked.filter(|_| entries > 0).map(|landed| landed.first);
        (entries, in_hand.or(before))
    }
}
