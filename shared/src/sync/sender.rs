//! The origin's end: what to read, what to send, what is acknowledged.
//!
//! The stream itself is the only buffer. A sender reads ahead by one read, keeps what does not fit
//! the window yet, and forgets a batch once it is handed out: after a broken connection the next
//! one begins at the receiver's cursor and reads again.
//!
//! Order of calls: `handle_*` what happened, then `poll_push` while there is room in the outbox
//! and `poll_task` until it yields nothing. One task of each kind is under way at a time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    entry::{Direction, Entry, Unfit},
    limits::{
        SLOWEST_LINK, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, WINDOW_GROW_BELOW, WINDOW_SHRINK_ABOVE,
    },
    seq::{Epoch, Seq},
    sync::position::{Begun, Position},
    wire::frame::{Ack, Granted, Push},
};

/// A thing for the driver to do at the origin's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Read at most `count` entries after `after`, without waiting; then `handle_read`.
    Read {
        /// After which entry.
        after: Seq,
        /// How many entries at most.
        count: usize,
    },
    /// Move these entries to the dead letters; then `handle_buried`.
    Bury(Vec<(Seq, Unfit)>),
    /// Write down that all up to `acked` is acknowledged, and trim the origin up to `trim`.
    Record {
        /// The cursor that was acknowledged.
        acked: Seq,
        /// The last entry to be taken out of the origin, where trimming is on.
        trim: Option<Seq>,
    },
}

/// Whether acknowledged entries are taken out of the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trim {
    /// They stay; the app's own MAXLEN bounds the stream.
    Keep,
    /// They go, but for about this many of the newest: a hub that lost its tail asks for them again.
    Acked {
        /// How many acknowledged entries stay.
        slack_entries: usize,
    },
}

/// The other side acknowledged something that was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side acknowledged {acked}, but nothing past {sent} was sent")]
pub struct AckPastSent {
    /// What it acknowledged.
    pub acked: Seq,
    /// What was sent.
    pub sent: Seq,
}

struct Flight {
    through: Seq,
    entries: usize,
    bytes: usize,
    sent_at: Instant,
    marks: Vec<Mark>,
}

/// A place where the origin may be cut once it is acknowledged: so many entries up to this one.
struct Mark {
    through: Seq,
    entries: usize,
}

/// One origin's end of one connection.
pub struct Sender {
    direction: Direction,
    granted: Granted,
    trim: Trim,
    epoch: Epoch,
    /// Where the next batch joins on.
    joint: Seq,
    /// Entries up to here were read.
    read: Seq,
    /// Batches up to here were handed out.
    sent: Seq,
    acked: Seq,
    recorded: Seq,
    /// Letters up to here are among the dead already.
    buried: Seq,
    ready: VecDeque<Push>,
    flights: VecDeque<Flight>,
    /// Bytes in `flights`, and how many there may be: adapted so that what is under way takes
    /// the link seconds, not minutes.
    flight_bytes: usize,
    window_bytes: usize,
    /// When the last flight came home, or the first of them left.
    progress_at: Option<Instant>,
    letters: Vec<(Seq, Unfit)>,
    /// Acknowledged in this session and still in the origin, oldest first.
    kept: VecDeque<Mark>,
    kept_entries: usize,
    read_size: usize,
    has_news: bool,
    is_reading: bool,
    is_burying: bool,
    is_recording: bool,
    carried: u64,
}

/// Cutting finer than this would keep more marks than it frees entries.
const MARK_ENTRIES_MIN: usize = 16;
/// A read begins small, since a thousand of the largest entries would be a gigabyte.
const FIRST_READ: usize = 32;

impl Sender {
    /// A sender that begins there.
    pub fn new(direction: Direction, granted: Granted, trim: Trim, begun: &Begun) -> Self {
        let Position { epoch, after, joint, .. } = begun.position;
        Self {
            direction,
            granted,
            trim,
            epoch,
            joint,
            read: after,
            sent: after,
            acked: after,
            recorded: begun.origin.acked,
            buried: begun.buried,
            ready: VecDeque::new(),
            flights: VecDeque::new(),
            flight_bytes: 0,
            window_bytes: WINDOW_BYTES_MIN,
            progress_at: None,
            letters: Vec::new(),
            kept: VecDeque::new(),
            kept_entries: 0,
            read_size: FIRST_READ.min(granted.batch_entries),
            has_news: true,
            is_reading: false,
            is_burying: false,
            is_recording: false,
            carried: 0,
        }
    }

    /// The origin may have more.
    pub fn handle_news(&mut self) {
        self.has_news = true;
    }

    /// What a read brought: the entries after `self.read`, in order; fewer than asked means no more.
    pub fn handle_read(&mut self, entries: Vec<Entry>) {
        self.is_reading = false;
        // News that came while the read was under way has set this again.
        self.has_news |= entries.len() >= self.read_size;
        self.resize(&entries);
        let Some(last) = entries.last() else { return };
        self.read = last.seq;
        let joint = std::mem::replace(&mut self.joint, last.seq);
        let fitting = self.fitting();
        let (batches, letters) = split(self.direction, &fitting, self.epoch, joint, entries);
        self.ready.extend(batches);
        let buried = self.buried;
        self.letters.extend(letters.into_iter().filter(|(seq, _)| *seq > buried));
    }

    /// The dead letters that `Task::Bury` named are written.
    pub fn handle_buried(&mut self) {
        self.is_burying = false;
    }

    /// What `Task::Record` named is written down.
    pub fn handle_recorded(&mut self) {
        self.is_recording = false;
    }

    /// An acknowledgement. Older ones, and those of another epoch, change nothing.
    ///
    /// # Errors
    /// `AckPastSent`: the other side is confused, and the connection must end.
    pub fn handle_ack(&mut self, ack: Ack, now: Instant) -> Result<(), AckPastSent> {
        if ack.epoch != self.epoch || ack.seq <= self.acked {
            return Ok(());
        }
        if ack.seq > self.sent {
            return Err(AckPastSent { acked: ack.seq, sent: self.sent });
        }
        self.acked = ack.seq;
        self.letters.extend(ack.refused);
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.through <= ack.seq) {
            self.flight_bytes -= flight.bytes;
            self.window_bytes = adapt(self.window_bytes, now.duration_since(flight.sent_at));
            self.progress_at = (!self.flights.is_empty()).then_some(now);
            self.carried += flight.entries as u64;
            self.kept_entries += flight.marks.iter().map(|mark| mark.entries).sum::<usize>();
            self.kept.extend(flight.marks);
        }
        Ok(())
    }

    /// The next batch to send, if the window has room.
    pub fn poll_push(&mut self, now: Instant) -> Option<Push> {
        if !self.has_push() {
            return None;
        }
        let push = self.ready.pop_front()?;
        let (through, entries, bytes) = (push.through, push.entries.len(), push.bytes());
        let marks = self.marks(&push);
        self.sent = through;
        self.flight_bytes += bytes;
        self.progress_at.get_or_insert(now);
        self.flights.push_back(Flight { through, entries, bytes, sent_at: now, marks });
        Some(push)
    }

    /// Whether `poll_push` has something. A batch waits for the dead letters before it: once its
    /// cursor has moved past them, nobody would come by them again.
    pub fn has_push(&self) -> bool {
        let Some(next) = self.ready.front() else { return false };
        let has_room = self.flights.is_empty()
            || (self.flights.len() < self.granted.window_batches
                && self.flight_bytes + next.bytes() <= self.window_bytes);
        has_room && self.letters.is_empty() && !self.is_burying
    }

    /// The next thing to do at the store.
    pub fn poll_task(&mut self) -> Option<Task> {
        if !self.letters.is_empty() && !self.is_burying {
            self.is_burying = true;
            let letters = std::mem::take(&mut self.letters);
            let last = letters.iter().map(|(seq, _)| *seq).max().unwrap_or_default();
            self.buried = self.buried.max(last);
            return Some(Task::Bury(letters));
        }
        if self.has_news && !self.is_reading && self.ready.is_empty() {
            self.has_news = false;
            self.is_reading = true;
            return Some(Task::Read { after: self.read, count: self.read_size });
        }
        if self.recorded != self.acked && !self.is_recording {
            self.is_recording = true;
            self.recorded = self.acked;
            return Some(Task::Record { acked: self.acked, trim: self.poll_trim() });
        }
        None
    }

    /// When to give the link up if nothing is acknowledged until then, where `timeout` is what an
    /// acknowledgement may take. A single entry larger than what the link has shown it can carry is
    /// given time by its size.
    pub fn deadline(&self, timeout: Duration) -> Option<Instant> {
        Some(self.progress_at? + timeout + self.patience()?)
    }

    /// How much longer than usual an answer may take, while something is under way.
    pub fn patience(&self) -> Option<Duration> {
        let oversize = self.flights.front()?.bytes.saturating_sub(self.window_bytes);
        Some(Duration::from_secs((oversize / SLOWEST_LINK) as u64))
    }

    /// Up to where the other side has acknowledged.
    pub fn acked(&self) -> Seq {
        self.acked
    }

    /// How many entries were acknowledged in this session.
    pub fn carried(&self) -> u64 {
        self.carried
    }

    fn poll_trim(&mut self) -> Option<Seq> {
        let Trim::Acked { slack_entries } = self.trim else { return None };
        let mut trim = None;
        while let Some(mark) = self.kept.front()
            && self.kept_entries - mark.entries >= slack_entries
        {
            self.kept_entries -= mark.entries;
            trim = Some(mark.through);
            self.kept.pop_front();
        }
        trim
    }

    /// Cuts a quarter of the slack apart, so that what is kept comes near to it and the marks of a
    /// long slack stay few.
    fn marks(&self, push: &Push) -> Vec<Mark> {
        let Trim::Acked { slack_entries } = self.trim else { return Vec::new() };
        let mark = |part: &[Entry]| {
            let through = part.last().map_or(push.through, |entry| entry.seq);
            Mark { through, entries: part.len() }
        };
        push.entries.chunks((slack_entries / 4).max(MARK_ENTRIES_MIN)).map(mark).collect()
    }

    /// The limits with batches no larger than what may be under way.
    fn fitting(&self) -> Granted {
        let batch_bytes = self.granted.batch_bytes.min(self.window_bytes);
        Granted { batch_bytes, ..self.granted }
    }

    /// Aims the next read at one full batch: doubles while entries are small, falls at once when
    /// they are not.
    fn resize(&mut self, entries: &[Entry]) {
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        let aim = self.fitting().batch_bytes;
        if bytes > aim {
            self.read_size = (entries.len() * aim / bytes).max(1);
        } else if entries.len() >= self.read_size && bytes <= aim / 2 {
            self.read_size = (self.read_size * 2).min(self.granted.batch_entries);
        }
    }
}

fn adapt(window_bytes: usize, took: Duration) -> usize {
    if took < WINDOW_GROW_BELOW {
        (window_bytes * 2).min(WINDOW_BYTES_MAX)
    } else if took > WINDOW_SHRINK_ABOVE {
        (window_bytes / 2).max(WINDOW_BYTES_MIN)
    } else {
        window_bytes
    }
}

/// Cuts what was read after `after` into batches within the limits, and sets apart what can never
/// be carried. The batches cover those too: the cursor passes over them.
pub fn split(
    direction: Direction,
    granted: &Granted,
    epoch: Epoch,
    after: Seq,
    entries: Vec<Entry>,
) -> (VecDeque<Push>, Vec<(Seq, Unfit)>) {
    let mut batches = VecDeque::new();
    let mut letters = Vec::new();
    let mut push = Push { epoch, after, through: after, entries: Vec::new() };
    let mut bytes = 0;
    for entry in entries {
        let seq = entry.seq;
        match entry.check(direction, &granted.entry) {
            Err(reason) => letters.push((seq, reason)),
            Ok(()) => {
                let size = entry.bytes();
                let is_full = push.entries.len() == granted.batch_entries
                    || bytes + size > granted.batch_bytes;
                if is_full && !push.entries.is_empty() {
                    let after = push.through;
                    let next = Push { epoch, after, through: after, entries: Vec::new() };
                    batches.push_back(std::mem::replace(&mut push, next));
                    bytes = 0;
                }
                bytes += size;
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
