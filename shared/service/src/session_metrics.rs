//! [`SessionMetrics`]: the metrics of all sessions, the same at both ends.
//!
//! Sessions update them as they run: an idle client costs neither time nor a Redis command, and a backlog is kept only
//! for sessions that have one. The backlogs of clients that are not connected are not included; they are read from
//! Redis, client by client (`spoke_store::fleet`).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use spoke_diagnostics::metrics::{
    AGE_SCALE, Counter, CounterVec, Histogram, LINK_SCALE, MetricsPage, Seconds,
};
use spoke_protocol::{
    Direction, Loss, LossCause, RejectReason, Seq,
    message::{Cursor, OriginState},
    sync::{Append, OriginTask, Session, SessionWork},
};
use spoke_store::driver::SessionEvent;

/// The metrics of all sessions of a process.
#[derive(Debug)]
pub struct SessionMetrics {
    /// From the origins of this process.
    pub sent: DirectionMetrics,
    /// Into the copies of this process.
    pub received: DirectionMetrics,
    duplicates: Counter,
    refused: CounterVec,
    dead: CounterVec,
    acknowledgement: Histogram,
    backlogs: Mutex<BacklogIndex>,
}

/// The metrics of one direction.
#[derive(Debug)]
pub struct DirectionMetrics {
    direction: Direction,
    /// Entries added to their copy.
    pub entries: Counter,
    /// Bytes of the entries in batches.
    pub bytes: Counter,
    /// Batches.
    pub batches: Counter,
    lost_entries: CounterVec,
    losses: CounterVec,
    age: Histogram,
}

/// The sessions with a backlog.
#[derive(Debug, Default)]
struct BacklogIndex {
    next: u64,
    sessions: HashMap<u64, [Backlog; 2]>,
}

/// The backlog of one session in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Backlog {
    entries: u64,
    oldest: Option<Seq>,
}

/// The backlog of all sessions in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BacklogSummary {
    /// Entries that wait.
    pub entries: u64,
    /// Sessions with a backlog.
    pub sessions: u64,
    /// The time of the oldest entry, in milliseconds since 1970 by the clock of its origin.
    pub oldest_ms: Option<u64>,
}

impl SessionMetrics {
    /// Returns the metrics of a process whose origins send in this direction.
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
            backlogs: Mutex::default(),
        }
    }

    /// Observes one session, whose handshake showed this origin of the peer and this cursor of our copy.
    pub fn observe(&self, origin: &OriginState, cursor: &Cursor) -> SessionObserver<'_> {
        let has_more = origin.last > cursor.seq && !origin.first.is_zero();
        let announced = if has_more { origin.added } else { 0 };
        let added = cursor.tally.added.min(announced);
        let mut index = self.backlogs();
        index.next += 1;
        let number = index.next;
        SessionObserver {
            metrics: self,
            number,
            announced,
            added,
            arrived: None,
            counted: CountedSoFar::default(),
            backlogs: Default::default(),
        }
    }

    /// Counts a batch that is being added to the copy.
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

    /// Counts a batch that was added to the copy.
    pub fn handle_appended(&self, accepted: u64, duplicates: u64) {
        self.received.entries.add(accepted);
        self.duplicates.add(duplicates);
    }

    /// Counts a task of the origin.
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

    /// Returns the backlogs: sent, then received.
    pub fn waiting(&self) -> [BacklogSummary; 2] {
        let mut waiting = [BacklogSummary::default(); 2];
        for backlogs in self.backlogs().sessions.values() {
            for (waiting, backlog) in waiting.iter_mut().zip(backlogs) {
                waiting.entries += backlog.entries;
                waiting.sessions += u64::from(backlog.entries > 0);
                let oldest_ms = backlog.oldest.map(|seq| seq.ms);
                waiting.oldest_ms = waiting.oldest_ms.into_iter().chain(oldest_ms).min();
            }
        }
        waiting
    }

    /// Writes all metrics except the backlogs.
    pub fn write(&self, page: &mut MetricsPage, service: &str) {
        let lanes = [&self.sent, &self.received];
        for (name, help, of) in [
            (
                "entries",
                "Entries added to their copy.",
                (|it| &it.entries) as fn(&DirectionMetrics) -> &Counter,
            ),
            (
                "entry_bytes",
                "Bytes of the entries in batches; a repeated batch counts again.",
                |it| &it.bytes,
            ),
            ("batches", "Batches; a repeated batch counts again.", |it| &it.batches),
        ] {
            let name = format!("{service}_{name}_total");
            page.head("counter", &name, help);
            for lane in lanes {
                page.sample(&name, &[lane.label()], &of(lane).get());
            }
        }
        let name = format!("{service}_duplicate_entries_total");
        page.head("counter", &name, "Entries received again and ignored.");
        page.sample(&name, &[self.received.label()], &self.duplicates.get());
        for (name, help, lane, label, counters) in [
            (
                "refused_entries",
                "Received entries that can never be added.",
                &self.received,
                "reason",
                &self.refused,
            ),
            (
                "dead_entries",
                "Entries moved to the dead letters (dead:x).",
                &self.sent,
                "reason",
                &self.dead,
            ),
        ] {
            write(page, &format!("{service}_{name}_total"), help, label, &[(lane, counters)]);
        }
        let name = format!("{service}_lost_entries_total");
        let help = "Lost entries, where they can be counted; lost:x has their ranges.";
        let each = lanes.map(|lane| (lane, &lane.lost_entries));
        write(page, &name, help, "cause", &each);
        let name = format!("{service}_losses_total");
        let help = "Ranges of lost entries; uncertain ones may be duplicates instead.";
        let each = lanes.map(|lane| (lane, &lane.losses));
        write(page, &name, help, "cause", &each);
        let help = "Age of the first entry of a batch, when it is added here or acknowledged by the \
                    peer.";
        let each = lanes.map(|lane| (Some(lane.label()), &lane.age));
        page.histograms(&format!("{service}_entry_age_seconds"), help, &each);
        let help = "From sending a batch to its acknowledgement.";
        let each = [(None, &self.acknowledgement)];
        page.histograms(&format!("{service}_acknowledgement_seconds"), help, &each);
    }

    /// Writes the backlog of each direction that is known.
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
        page.head("gauge", &name, "Age of the oldest waiting entry; 0 without one.");
        for (direction, waiting) in each {
            let age_ms = waiting.oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms));
            let age = Seconds(Duration::from_millis(age_ms));
            page.sample(&name, &[("direction", direction.word())], &age);
        }
    }

    fn backlogs(&self) -> MutexGuard<'_, BacklogIndex> {
        self.backlogs.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Counts a lost range.
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

/// Counts the work of one session. Its backlog is removed when it is dropped.
#[derive(Debug)]
pub struct SessionObserver<'a> {
    metrics: &'a SessionMetrics,
    number: u64,
    announced: u64,
    added: u64,
    /// The first entry of the last received batch.
    arrived: Option<Seq>,
    counted: CountedSoFar,
    backlogs: [Backlog; 2],
}

/// The part of a session that is counted already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct CountedSoFar {
    received: u64,
    duplicates: u64,
    carried: u64,
    sent_batches: u64,
    sent_bytes: u64,
}

impl SessionObserver<'_> {
    /// Handles an event of the driver.
    pub fn handle(&mut self, shown: SessionEvent<'_>, now_ms: impl Fn() -> u64) {
        match shown {
            SessionEvent::Work(SessionWork::Origin(task)) => self.metrics.handle_task(task),
            SessionEvent::Work(SessionWork::Append(append)) => {
                self.metrics.handle_append(append, now_ms());
                let losses = &append.account.losses;
                losses.iter().for_each(|loss| self.metrics.received.handle_loss(loss));
                let tally = append.account.tally;
                self.added = if tally.is_unknown() { self.announced } else { tally.added };
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
            let (metrics, sent) = (self.metrics, &self.metrics.sent);
            metrics.handle_appended(received - before.received, duplicates - before.duplicates);
            sent.entries.add(carried - before.carried);
            sent.batches.add(sent_batches - before.sent_batches);
            sent.bytes.add(sent_bytes - before.sent_bytes);
            if let Some(landed) = sender.last_acked_batch().filter(|_| carried > before.carried) {
                metrics.acknowledgement.observe(landed.round_trip);
                sent.handle_age(landed.first, now_ms());
            }
        }
        let (entries, oldest) = sender.backlog();
        let coming = self.announced.saturating_sub(self.added);
        let arrived = self.arrived.filter(|_| coming > 0);
        self.keep([Backlog { entries, oldest }, Backlog { entries: coming, oldest: arrived }]);
    }

    fn keep(&mut self, backlogs: [Backlog; 2]) {
        if backlogs == self.backlogs {
            return;
        }
        self.backlogs = backlogs;
        let mut index = self.metrics.backlogs();
        if backlogs == <[Backlog; 2]>::default() {
            index.sessions.remove(&self.number);
        } else {
            index.sessions.insert(self.number, backlogs);
        }
    }
}

impl Drop for SessionObserver<'_> {
    fn drop(&mut self) {
        self.keep(Default::default());
    }
}
