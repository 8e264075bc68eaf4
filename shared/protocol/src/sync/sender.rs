//! The origin's end: what to read, what to send, what is acknowledged.
//!
//! The stream itself is the only buffer. A sender reads ahead by one read, keeps what does not fit
//! the window yet, and forgets a batch once it is handed out: after a broken connection the next
//! one begins at the receiver's cursor and reads again.
//!
//! Order of calls: `handle_*` what happened, then `poll_push` while there is room in the outbox
//! and `poll_task` until it yields nothing. One task of each kind is under way at a time.

mod batching;
mod stats;
mod in_flight;
pub mod path;
mod trim;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    entry::{Direction, Entry, RejectReason},
    limits::{CLOCK_INTERVAL, RECORD_INTERVAL},
    loss::{BatchAccount, Checkpoint, Loss, Tally},
    message::{Ack, Push, ReceiveLimits},
    seal::SealKey,
    seq::{Epoch, Seq},
    sync::{
        accounting::{self, Extent, RecordedLosses},
        resume::{Position, SenderStart},
    },
};

use self::{
    in_flight::{InFlight, InFlightBatch},
    path::{LinkPath, SessionSummary},
    stats::SenderStats,
    trim::TrimQueue,
};
pub use self::{stats::AckedBatch, trim::TrimMode};

/// A thing for the driver to do at the origin's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginTask {
    /// Mark how far the stream reaches and read entries after `after`, without waiting; then
    /// `handle_read`. No entry leaves before the mark covers it.
    Read {
        /// After which entry.
        after: Seq,
        /// As much as one batch holds.
        batch: ReadSize,
        /// The mark as it is known to be; one that lies behind it is of an older state.
        high_water_mark: Seq,
    },
    /// Write these losses to the ledger; then `handle_written`.
    RecordLosses(Vec<Loss>, RecordedLosses),
    /// Move these entries to the dead letters; then `handle_buried`.
    DeadLetter(Vec<(Seq, RejectReason)>),
    /// Write down that all up to `acked` is acknowledged, and trim the origin up to `trim`.
    RecordAck {
        /// The cursor that was acknowledged, and the tally there.
        acked: Checkpoint,
        /// The last entry to be taken out of the origin, where trimming is on.
        trim_through: Option<Seq>,
        /// The copy has heard of all losses that stand in this side's ledger.
        clears_recorded_losses: bool,
    },
}

/// An acknowledgement that no batch under way can have caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other side acknowledged {acked}, or refused what is not below, but no batch ends there"
)]
pub struct BadAck {
    /// What it acknowledged.
    pub acked: Seq,
}

/// The other side's clock, as it was once told.
#[derive(Debug, Clone, Copy)]
pub struct PeerClock {
    /// What it told, in milliseconds since 1970.
    pub unix_ms: u64,
    /// When.
    pub received_at: Instant,
}

impl PeerClock {
    /// The last seq that the other side surely takes: a minute is for the way there.
    fn ceiling(&self, now: Instant) -> Seq {
        let passed = now.saturating_duration_since(self.received_at).as_millis() as u64;
        Seq::ceiling((self.unix_ms + passed).saturating_sub(60_000))
    }
}

/// How much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadSize {
    /// Entries at the most.
    pub entries: usize,
    /// After so many bytes no more are read, as limits count them.
    pub bytes: usize,
}

/// What a read brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRead {
    /// The entries after the place that was named, in order. Redis keeps none without fields: one that
    /// comes without them is too large to be carried, and was not read.
    pub entries: Vec<Entry>,
    /// How far the stream reached at that moment.
    pub extent: Extent,
    /// Nothing came behind them then.
    pub is_end: bool,
}

/// A task that could not be done, since a key of the origin holds something else.
struct BlockedTask {
    task: OriginTask,
    /// None: at once.
    again_at: Option<Instant>,
    is_tried: bool,
}

impl BlockedTask {
    /// The least that shows whether the origin can be read.
    fn first(after: Seq, mark: Seq) -> Self {
        let task = OriginTask::Read {
            after,
            batch: ReadSize { entries: 1, bytes: 1 },
            high_water_mark: mark,
        };
        Self { task, again_at: None, is_tried: false }
    }

    fn poll(&mut self, now: Instant) -> Option<OriginTask> {
        let is_due = !self.is_tried && self.again_at.is_none_or(|at| at <= now);
        self.is_tried |= is_due;
        is_due.then(|| self.task.clone())
    }
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
    figures: SenderStats,
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
            figures: SenderStats::new(begun.standing.extent.added),
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

    /// What a read brought.
    pub fn handle_read(
        &mut self,
        OriginRead { mut entries, extent, is_end }: OriginRead,
        now: Instant,
    ) {
        self.is_reading = false;
        self.keep_back(&mut entries, now);
        self.mark = self.mark.max(extent.last);
        self.figures.added = extent.added;
        // News that came while the read was under way has set this again.
        self.has_news |= !is_end && self.ahead_of_clock.is_none();
        let is_end = is_end && self.ahead_of_clock.is_none();
        if self.ahead_of_clock.is_some() && entries.is_empty() {
            return;
        }
        let (after, place) = (self.read.seq, self.read);
        let (losses, tally) =
            accounting::find_missing(self.epoch, place, self.acked_before, &extent);
        if !losses.is_empty() && !self.flights.is_empty() {
            // Losses are counted from the copy's cursor, where the next session would count from: look
            // again once all before them is acknowledged.
            (self.awaits_acks, self.has_news) = (true, true);
            return;
        }
        let is_news = !losses.is_empty() || !self.untold.is_empty() || !entries.is_empty();
        let through = match entries.last() {
            Some(last) if !is_end => last.seq,
            // Deleted entries may stand behind the last one.
            _ => extent.last.max(after),
        };
        if !is_news || through == after {
            return;
        }
        let (epoch, acked) = (self.epoch, self.acked_before);
        if let Some(due) = accounting::find_unrecorded(epoch, place, acked, &extent, self.written) {
            self.figures.lost += due.0.iter().filter_map(|loss| loss.count).sum::<u64>();
            // It takes the place of the last one, of which the copy may have heard.
            (self.written, self.is_told) = (Some(due.1), false);
            self.losses = Some(due);
        }
        self.untold.extend(losses);
        let joint = std::mem::replace(&mut self.joint, through);
        let (mut batches, letters) =
            batching::split(self.direction, &self.fitting(), (epoch, joint, tally), entries);
        if batches.is_empty() {
            let account = BatchAccount { tally, ..BatchAccount::default() };
            batches.push_back(Push { epoch, after: joint, through, account, ..Push::default() });
        }
        self.finish(&mut batches, (after, through), is_end.then_some(extent.added));
        self.read =
            Checkpoint::new(through, batches.back().map_or(tally, |push| push.account.tally));
        self.ready.extend(batches);
        let buried = self.buried;
        self.letters.extend(letters.into_iter().filter(|(seq, _)| *seq > buried));
    }

    /// What is too far ahead stays where it is, and what comes behind it with it: nothing is lost, and
    /// it is carried once the clock has come near enough.
    fn keep_back(&mut self, entries: &mut Vec<Entry>, now: Instant) {
        let Some(ceiling) = self.clock.map(|clock| clock.ceiling(now)) else { return };
        let at = entries.iter().position(|entry| entry.seq > ceiling);
        let since = self.ahead_of_clock.map_or(now, |(_, since)| since);
        self.ahead_of_clock = at.map(|at| (entries[at].seq, since));
        entries.truncate(at.unwrap_or(entries.len()));
    }

    /// The losses go with the first batch; the last one knows how many entries there are.
    fn finish(
        &mut self,
        batches: &mut VecDeque<Push>,
        (mut after, through): (Seq, Seq),
        added: Option<u64>,
    ) {
        if let Some(first) = batches.front_mut() {
            first.account.losses = std::mem::take(&mut self.untold);
        }
        if let Some(last) = batches.back_mut() {
            last.through = through;
            let tally = last.account.tally;
            last.account.tally = added.map_or(tally, |added| tally.at_end(added));
        }
        for push in batches {
            push.account.is_inherited = after < self.inherited;
            after = push.through;
        }
    }

    /// The origin cannot be used as it is. The task is tried again at `again_at`; once it can be done the
    /// session has to end.
    pub fn handle_unreadable(&mut self, task: OriginTask, again_at: Instant) {
        self.undone =
            Some(Box::new(BlockedTask { task, again_at: Some(again_at), is_tried: false }));
    }

    /// Whether that is so.
    pub fn is_unreadable(&self) -> bool {
        self.undone.is_some()
    }

    /// Whether this is the answer to the task that is tried again.
    pub fn is_retried(&self, task: &OriginTask) -> bool {
        self.undone.as_ref().is_some_and(|undone| undone.is_tried && undone.task == *task)
    }

    /// The copy takes nothing more in this session, and has thrown away what it has not acknowledged.
    pub fn handle_hold(&mut self) {
        self.is_refused = true;
        self.ready.clear();
        self.flights.clear();
    }

    /// The dead letters that `OriginTask::DeadLetter` named are written.
    pub fn handle_dead_lettered(&mut self) {
        self.is_burying = false;
    }

    /// The losses that `OriginTask::RecordLosses` named are in the ledger.
    pub fn handle_losses_recorded(&mut self) {
        self.is_writing = false;
    }

    /// What `OriginTask::RecordAck` named is written down.
    pub fn handle_ack_recorded(&mut self) {
        self.is_recording = false;
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
            self.figures.handle_landed(&flight, now.duration_since(flight.sent_at));
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
        self.figures.handle_sent(bytes);
        let first = stats::first(&push);
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

    /// The next thing to do at the store.
    pub fn poll_task(&mut self, now: Instant) -> Option<OriginTask> {
        if let Some(undone) = &mut self.undone {
            return undone.poll(now);
        }
        if !self.letters.is_empty() && !self.is_burying {
            self.is_burying = true;
            let letters = std::mem::take(&mut self.letters);
            let last = letters.iter().map(|(seq, _)| *seq).max().unwrap_or_default();
            self.buried = self.buried.max(last);
            return Some(OriginTask::DeadLetter(letters));
        }
        if !self.is_writing
            && let Some((losses, written)) = self.losses.take()
        {
            self.is_writing = true;
            return Some(OriginTask::RecordLosses(losses, written));
        }
        self.awaits_acks &= !self.flights.is_empty();
        let may_read = !self.is_reading && !self.awaits_acks && !self.is_refused;
        if self.has_news && may_read && self.ready.is_empty() {
            self.has_news = false;
            self.is_reading = true;
            let ReceiveLimits { batch_entries: entries, batch_bytes: bytes, .. } = self.fitting();
            let (after, batch, mark) = (self.read.seq, ReadSize { entries, bytes }, self.mark);
            return Some(OriginTask::Read { after, batch, high_water_mark: mark });
        }
        self.poll_record(now)
    }

    fn poll_record(&mut self, now: Instant) -> Option<OriginTask> {
        let is_due = self.has_unrecorded() && self.record_from.is_none_or(|from| from <= now);
        if !is_due {
            return None;
        }
        self.is_recording = true;
        self.record_from = Some(now + RECORD_INTERVAL);
        Some(self.record())
    }

    /// When an origin that cannot be read is tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.undone.as_ref().filter(|undone| !undone.is_tried)?.again_at
    }

    /// When `poll_task` next has a `OriginTask::RecordAck`, if nothing happens before. The first is due at
    /// once; while entries flow one stands for many, since one that is late, or was never written,
    /// only makes the next handshake look at more.
    pub fn record_due(&self) -> Option<Instant> {
        self.record_from.filter(|_| self.has_unrecorded())
    }

    /// What a device writes down at the end of a session, so that the next hub, or the next name, begins
    /// just there. At a hub, where thousands end together, the next handshake looks at a little more.
    pub fn poll_final_record(&mut self) -> Option<OriginTask> {
        let is_due = self.direction == Direction::Up && self.recorded != self.acked;
        is_due.then(|| self.record())
    }

    fn record(&mut self) -> OriginTask {
        self.recorded = self.acked;
        let is_told = std::mem::take(&mut self.is_told);
        let acked = Checkpoint::new(self.acked, self.acked_tally);
        let trim = self.slack.poll_trim();
        OriginTask::RecordAck { acked, trim_through: trim, clears_recorded_losses: is_told }
    }

    fn has_unrecorded(&self) -> bool {
        self.recorded != self.acked && !self.is_recording
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
}
