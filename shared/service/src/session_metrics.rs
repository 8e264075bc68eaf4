//! What sessions carry, as figures, the same at both ends.
//!
//! They move with the sessions: an idle client costs neither time nor a command of Redis, and how much
//! waits is known of those only who have something waiting. What waits for clients that are not
//! connected is not among it; Redis is asked for that, client by client, by whoever wants to know
//! (`store/fleet`).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use spoke_diagnostics::metrics::{
    AGE_SCALE, Counter, CounterVec, Histogram, LINK_SCALE, MetricsPage, Seconds,
};
use spoke_protocol::{
    entry::{Direction, RejectReason},
    loss::{Loss, LossCause},
    message::{Cursor, OriginState},
    seq::Seq,
    sync::{
        receiver::Append,
        sender::OriginTask,
        session::{Session, SessionWork},
    },
};
use spoke_store::driver::SessionEvent;

/// All that one process carries.
#[derive(Debug)]
pub struct SessionMetrics {
    /// Out of the origins on this side.
    pub sent: DirectionMetrics,
    /// Into the copies on this side.
    pub received: DirectionMetrics,
    duplicates: Counter,
    refused: CounterVec,
    dead: CounterVec,
    acknowledgement: Histogram,
    behind: Mutex<BacklogIndex>,
}

/// One direction.
#[derive(Debug)]
pub struct DirectionMetrics {
    direction: Direction,
    /// Entries that are in their copy.
    pub entries: Counter,
    /// Bytes of the entries in batches.
    pub bytes: Counter,
    /// Batches.
    pub batches: Counter,
    lost_entries: CounterVec,
    losses: CounterVec,
    age: Histogram,
}

/// The sessions that have something waiting.
#[derive(Debug, Default)]
struct BacklogIndex {
    next: u64,
    sessions: HashMap<u64, [Backlog; 2]>,
}

/// What waits in one direction of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Backlog {
    entries: u64,
    oldest: Option<Seq>,
}

/// What waits in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BacklogSummary {
    /// How many entries.
    pub entries: u64,
    /// For how many sessions.
    pub sessions: u64,
    /// When the oldest was added, in milliseconds since 1970 by the clock of its origin.
    pub oldest_ms: Option<u64>,
}

impl SessionMetrics {
    /// Of a side whose origins send in this direction.
    pub fn new(sends: Direction) -> Self {
        let receives = match sends {
            Direction::Up => Direction::Down,
            Direction::Down => Direction::Up,
        };
        Self {
            sent: DirectionMetrics::new(sends),
            received: DirectionMetrics::new(receives),
            duplicates: Counter::default(),
            refused: CounterVec::new(RejectReason::words()),
            dead: CounterVec::new(RejectReason::words()),
            acknowledgement: Histogram::new(LINK_SCALE),
            behind: Mutex::default(),
        }
    }

    /// Watches one session whose handshake told of this origin there and this copy here.
    pub fn observe(&self, origin: &OriginState, cursor: &Cursor) -> SessionObserver<'_> {
        let has_more = origin.last > cursor.seq && !origin.first.is_zero();
        let told = if has_more { origin.added } else { 0 };
        let placed = cursor.tally.added.min(told);
        let mut behind = self.behind();
        behind.next += 1;
        let number = behind.next;
        SessionObserver {
            traffic: self,
            number,
            told,
            placed,
            arrived: None,
            counted: CountedSoFar::default(),
            backlogs: Default::default(),
        }
    }

    /// A batch goes into the copy.
    pub fn handle_append(&self, append: &Append, now_ms: u64) {
        self.received.batches.add(1);
        self.received.bytes.add(append.entries.iter().map(|entry| entry.bytes() as u64).sum());
        for (_, reason) in &append.refused {
            self.refused.add(reason.word(), 1);
        }
        if let Some(first) = append.entries.first() {
            self.received.handle_age(first.seq, now_ms);
        }
    }

    /// A batch is in the copy.
    pub fn handle_appended(&self, accepted: u64, duplicates: u64) {
        self.received.entries.add(accepted);
        self.duplicates.add(duplicates);
    }

    /// The origin is asked for something.
    pub fn handle_task(&self, task: &OriginTask) {
        match task {
            OriginTask::RecordLosses(losses, _) => {
                losses.iter().for_each(|loss| self.sent.handle_loss(loss))
            }
            OriginTask::DeadLetter(letters) => {
                letters.iter().for_each(|(_, reason)| self.dead.add(reason.word(), 1));
            }
            OriginTask::Read { .. } | OriginTask::RecordAck { .. } => {}
        }
    }

    /// What waits on its way out of this side, and into it.
    pub fn waiting(&self) -> [BacklogSummary; 2] {
        let mut waiting = [BacklogSummary::default(); 2];
        for backlogs in self.behind().sessions.values() {
            for (waiting, backlog) in waiting.iter_mut().zip(backlogs) {
                waiting.entries += backlog.entries;
                waiting.sessions += u64::from(backlog.entries > 0);
                let oldest_ms = backlog.oldest.map(|seq| seq.ms);
                waiting.oldest_ms = waiting.oldest_ms.into_iter().chain(oldest_ms).min();
            }
        }
        waiting
    }

    /// Writes all but what waits.
    pub fn write(&self, page: &mut MetricsPage, service: &str) {
        let lanes = [&self.sent, &self.received];
        for (name, help, of) in [
            (
                "entries",
                "Entries that are in their copy.",
                (|it| &it.entries) as fn(&DirectionMetrics) -> &Counter,
            ),
            (
                "entry_bytes",
                "Bytes of the entries in batches; what goes again counts again.",
                |it| &it.bytes,
            ),
            ("batches", "Batches; what goes again counts again.", |it| &it.batches),
        ] {
            let name = format!("{service}_{name}_total");
            page.head("counter", &name, help);
            for lane in lanes {
                page.sample(&name, &[lane.label()], &of(lane).get());
            }
        }
        let name = format!("{service}_duplicate_entries_total");
        page.head("counter", &name, "Entries that came again and were passed over.");
        page.sample(&name, &[self.received.label()], &self.duplicates.get());
        for (name, help, lane, label, counters) in [
            (
                "refused_entries",
                "Entries that came and can never be taken.",
                &self.received,
                "reason",
                &self.refused,
            ),
            ("dead_entries", "Entries that went to dead:x.", &self.sent, "reason", &self.dead),
        ] {
            write(page, &format!("{service}_{name}_total"), help, label, &[(lane, counters)]);
        }
        let name = format!("{service}_lost_entries_total");
        let help = "Entries found lost, where they can be counted; lost:x has their ranges.";
        let each = lanes.map(|lane| (lane, &lane.lost_entries));
        write(page, &name, help, "cause", &each);
        let name = format!("{service}_losses_total");
        let help = "Ranges of entries found lost; uncertain ones may be repeats instead.";
        let each = lanes.map(|lane| (lane, &lane.losses));
        write(page, &name, help, "cause", &each);
        let help = "Age of the first entry of a batch: going into the copy here, and acknowledged by \
                    the copy there.";
        let each = lanes.map(|lane| (Some(lane.label()), &lane.age));
        page.histograms(&format!("{service}_entry_age_seconds"), help, &each);
        let help = "From a batch that leaves to its acknowledgement.";
        let each = [(None, &self.acknowledgement)];
        page.histograms(&format!("{service}_acknowledgement_seconds"), help, &each);
    }

    /// Writes what waits in each direction that is known.
    pub fn write_waiting(
        page: &mut MetricsPage,
        service: &str,
        each: &[(Direction, BacklogSummary)],
        now_ms: u64,
    ) {
        let name = format!("{service}_waiting_entries");
        page.head("gauge", &name, "Entries known to wait for their copy.");
        for (direction, waiting) in each {
            page.sample(&name, &[("direction", direction.word())], &waiting.entries);
        }
        let name = format!("{service}_oldest_waiting_age_seconds");
        page.head("gauge", &name, "How long ago the oldest of them was added; 0 if none waits.");
        for (direction, waiting) in each {
            let age_ms = waiting.oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms));
            let age = Seconds(Duration::from_millis(age_ms));
            page.sample(&name, &[("direction", direction.word())], &age);
        }
    }

    fn behind(&self) -> MutexGuard<'_, BacklogIndex> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirectionMetrics {
    fn new(direction: Direction) -> Self {
        Self {
            direction,
            entries: Counter::default(),
            bytes: Counter::default(),
            batches: Counter::default(),
            lost_entries: CounterVec::new(LossCause::words()),
            losses: CounterVec::new(LossCause::words()),
            age: Histogram::new(AGE_SCALE),
        }
    }

    /// A range was found lost.
    pub fn handle_loss(&self, loss: &Loss) {
        self.losses.add(loss.cause.word(), 1);
        self.lost_entries.add(loss.cause.word(), loss.count.unwrap_or(0));
    }

    fn handle_age(&self, first: Seq, now_ms: u64) {
        self.age.observe(Duration::from_millis(now_ms.saturating_sub(first.ms)));
    }

    fn label(&self) -> (&'static str, &'static str) {
        ("direction", self.direction.word())
    }
}

fn write(
    page: &mut MetricsPage,
    name: &str,
    help: &str,
    label: &str,
    each: &[(&DirectionMetrics, &CounterVec)],
) {
    page.head("counter", name, help);
    for (lane, counters) in each {
        for (word, count) in counters.get() {
            page.sample(name, &[lane.label(), (label, word)], &count);
        }
    }
}

/// Counts what one session does, and forgets what waits for it when it is dropped.
#[derive(Debug)]
pub struct SessionObserver<'a> {
    traffic: &'a SessionMetrics,
    number: u64,
    told: u64,
    placed: u64,
    /// The first entry of the last batch that came.
    arrived: Option<Seq>,
    counted: CountedSoFar,
    backlogs: [Backlog; 2],
}

/// What of a session is in the figures already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct CountedSoFar {
    received: u64,
    duplicates: u64,
    carried: u64,
    sent_batches: u64,
    sent_bytes: u64,
}

impl SessionObserver<'_> {
    /// What the driver shows.
    pub fn handle(&mut self, shown: SessionEvent<'_>, now_ms: impl Fn() -> u64) {
        match shown {
            SessionEvent::Work(SessionWork::Origin(task)) => self.traffic.handle_task(task),
            SessionEvent::Work(SessionWork::Append(append)) => {
                self.traffic.handle_append(append, now_ms());
                let losses = &append.account.losses;
                losses.iter().for_each(|loss| self.traffic.received.handle_loss(loss));
                let tally = append.account.tally;
                self.placed = if tally.is_unknown() { self.told } else { tally.added };
                self.arrived = append.entries.first().map(|entry| entry.seq);
            }
            SessionEvent::Session(session) => self.handle_session(session, now_ms),
            SessionEvent::Work(SessionWork::Probe)
            | SessionEvent::Unusable(..)
            | SessionEvent::Usable(_) => {}
        }
    }

    fn handle_session(&mut self, session: &Session, now_ms: impl Fn() -> u64) {
        let sender = session.sender();
        let (received, duplicates) =
            (session.receiver().received(), session.receiver().duplicates());
        let (sent_batches, sent_bytes) = sender.sent();
        let carried = sender.acked_entries();
        let now = CountedSoFar { received, duplicates, carried, sent_batches, sent_bytes };
        let before = std::mem::replace(&mut self.counted, now);
        if now != before {
            let (traffic, sent) = (self.traffic, &self.traffic.sent);
            traffic.handle_appended(received - before.received, duplicates - before.duplicates);
            sent.entries.add(carried - before.carried);
            sent.batches.add(sent_batches - before.sent_batches);
            sent.bytes.add(sent_bytes - before.sent_bytes);
            if let Some(landed) = sender.last_acked_batch().filter(|_| carried > before.carried) {
                traffic.acknowledgement.observe(landed.round_trip);
                sent.handle_age(landed.first, now_ms());
            }
        }
        let (entries, oldest) = sender.backlog();
        let coming = self.told.saturating_sub(self.placed);
        let arrived = self.arrived.filter(|_| coming > 0);
        self.keep([Backlog { entries, oldest }, Backlog { entries: coming, oldest: arrived }]);
    }

    fn keep(&mut self, backlogs: [Backlog; 2]) {
        if backlogs == self.backlogs {
            return;
        }
        self.backlogs = backlogs;
        let mut behind = self.traffic.behind();
        if backlogs == <[Backlog; 2]>::default() {
            behind.sessions.remove(&self.number);
        } else {
            behind.sessions.insert(self.number, backlogs);
        }
    }
}

impl Drop for SessionObserver<'_> {
    fn drop(&mut self) {
        self.keep(Default::default());
    }
}
