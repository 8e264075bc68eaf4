//! The protocol against a network that loses, repeats, delays and cuts, with stores that lose their
//! memory: every entry still arrives once and in order.
//!
//! One seed gives one run. The stores are models of what `append.lua` and `settle.lua` do; the real
//! ones are held to the same rules by the suites that run them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    position::{self, Begun, Finding},
    receiver::{Append, Appended, Receiver},
    sender::{Sender, Task, Trim},
    session::{Heartbeat, Session, Work},
};
use crate::{
    entry::{Direction, Entry, EntryLimits, Unfit},
    seq::{Epoch, Seq},
    wire::frame::{Cursor, Frame, Granted, Origin},
};

/// An out stream and what its side remembers.
#[derive(Default)]
struct OriginModel {
    entries: Vec<Entry>,
    epoch: Epoch,
    start: Seq,
    acked: Seq,
    last: Seq,
    buried: Seq,
    dead: Vec<(Epoch, Seq)>,
}

/// An in stream and its cursor; `held` is the copy itself.
#[derive(Default)]
struct CopyModel {
    cursor: Cursor,
    held: Vec<(Epoch, Entry)>,
}

impl OriginModel {
    fn add(&mut self, step: u64, name: &str, value: usize) {
        self.last = Seq::new(self.last.ms + step, if step == 0 { self.last.n + 1 } else { 0 });
        let fields = vec![(Bytes::from(name.to_owned()), Bytes::from(vec![b'x'; value]))];
        self.entries.push(Entry { seq: self.last, fields });
    }

    fn begin(&mut self, cursor: &Cursor) -> Begun {
        let at_cursor = self.entries.iter().find(|entry| entry.seq == cursor.seq);
        let mut origin = Origin {
            epoch: self.epoch,
            start: self.start,
            first: self.entries.first().map_or(Seq::ZERO, |entry| entry.seq),
            last: self.last,
            added: self.entries.len() as u64,
            acked: self.acked,
        };
        let position = position::begin(&origin, cursor, at_cursor.map(Entry::digest));
        if position.epoch > self.epoch {
            let is_replaced = position.finding == Finding::OriginReplaced;
            self.start = if is_replaced { position.after } else { Seq::ZERO };
            (self.epoch, self.acked, self.buried) = (position.epoch, self.start, Seq::ZERO);
            if is_replaced {
                self.last = self.last.max(cursor.seq);
            }
        }
        (origin.epoch, origin.start, origin.acked) = (self.epoch, self.start, self.acked);
        Begun { position, origin, buried: self.buried }
    }

    fn perform(&mut self, task: Task) -> Option<Vec<Entry>> {
        match task {
            Task::Read { after, count } => {
                let past = self.entries.iter().filter(|entry| entry.seq > after);
                return Some(past.take(count).cloned().collect());
            }
            Task::Bury(letters) => {
                self.dead.extend(letters.iter().map(|(seq, _)| (self.epoch, *seq)));
                self.buried = letters.iter().fold(self.buried, |last, (seq, _)| last.max(*seq));
            }
            Task::Record { acked, trim } => {
                self.acked = acked;
                self.entries.retain(|entry| trim.is_none_or(|trim| entry.seq > trim));
            }
        }
        None
    }

    fn wipe(&mut self) {
        let dead = std::mem::take(&mut self.dead);
        *self = Self { dead, ..Self::default() };
    }
}

impl CopyModel {
    fn append(&mut self, append: &Append) -> Appended {
        let mut cursor = self.cursor.seq;
        if append.epoch < self.cursor.epoch {
            return Appended::StaleEpoch(self.cursor.epoch);
        }
        if append.epoch > self.cursor.epoch {
            cursor = Seq::ZERO;
        }
        if append.after.is_some_and(|after| after > cursor) {
            return Appended::Gap(cursor);
        }
        let new: Vec<_> = append.entries.iter().filter(|entry| entry.seq > cursor).collect();
        let accepted = new.len() as u64;
        let duplicates = append.entries.len() as u64 - accepted;
        self.held.extend(new.into_iter().map(|entry| (append.epoch, entry.clone())));
        if append.through > cursor {
            cursor = append.through;
            self.cursor = Cursor { epoch: append.epoch, seq: cursor, digest: append.digest };
        }
        Appended::Done { cursor, accepted, duplicates, id: None }
    }
}

/// One end of the link.
struct Side {
    session: Session,
    outbox: VecDeque<Frame>,
    working: VecDeque<Work>,
}

impl Side {
    fn new(begun: &Begun, trim: Trim, cursor: &Cursor, now: Instant) -> Self {
        let granted = Granted { window_batches: 3, batch_entries: 4, ..Granted::default() };
        let sender = Sender::new(Direction::Up, granted, trim, begun);
        let limits = EntryLimits::default();
        let receiver = Receiver::new(Direction::Up, limits, (cursor.epoch, cursor.seq));
        let session = Session::new(sender, receiver, Heartbeat::Answers, now);
        Self { session, outbox: VecDeque::new(), working: VecDeque::new() }
    }

    fn step(&mut self, origin: &mut OriginModel, copy: &mut CopyModel, now: Instant) {
        while let Some(work) = self.session.poll_work() {
            self.working.push_back(work);
        }
        match self.working.pop_front() {
            Some(Work::Append(append)) => {
                let appended = copy.append(&append);
                self.session.handle_appended(&appended);
            }
            Some(Work::Origin(task)) => {
                let done = task.clone();
                match (done, origin.perform(task)) {
                    (Task::Read { .. }, Some(entries)) => self.session.handle_read(entries),
                    (Task::Bury(_), _) => self.session.handle_buried(),
                    _ => self.session.handle_recorded(),
                }
            }
            None => {}
        }
        while self.session.has_frame() {
            self.outbox.extend(self.session.poll_frame(now));
        }
    }
}

/// How unkind a run is.
#[derive(Clone, Copy, Debug)]
struct Weather {
    lose: f64,
    repeat: f64,
    swap: f64,
    cut: f64,
}

fn deliver(from: &mut Side, to: &mut Side, weather: Weather, rng: &mut StdRng, now: Instant) {
    if from.outbox.len() > 1 && rng.random_bool(weather.swap) {
        from.outbox.swap(0, 1);
    }
    if rng.random_bool(0.5)
        && let Some(frame) = from.outbox.pop_front()
    {
        if rng.random_bool(weather.repeat) {
            to.session.handle_frame(frame.clone(), now);
        }
        if !rng.random_bool(weather.lose) {
            to.session.handle_frame(frame, now);
        }
    }
}

struct World {
    rng: StdRng,
    now: Instant,
    trim: Trim,
    origin: OriginModel,
    copy: CopyModel,
    /// Nothing comes back this way; it keeps both ends of the same kind.
    back: (OriginModel, CopyModel),
}

impl World {
    fn new(seed: u64, trim: Trim) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: Instant::now(),

            trim,
            origin: OriginModel::default(),
            copy: CopyModel::default(),
            back: (OriginModel::default(), CopyModel::default()),
        }
    }

    /// One connection: until it is cut, ends, or has had `steps` turns.
    fn connect(&mut self, steps: usize, weather: Weather) {
        let begun = self.origin.begin(&self.copy.cursor);
        let now = self.now;
        let cursor = self.back.1.cursor;
        let mut near = Side::new(&begun, self.trim, &cursor, now);
        let back = self.back.0.begin(&cursor);
        let mut far = Side::new(&back, Trim::Keep, &self.copy.cursor, now);
        for _ in 0..steps {
            self.now += Duration::from_millis(self.rng.random_range(0..500));
            near.session.handle_news();
            near.step(&mut self.origin, &mut self.back.1, self.now);
            far.step(&mut self.back.0, &mut self.copy, self.now);
            deliver(&mut near, &mut far, weather, &mut self.rng, self.now);
            deliver(&mut far, &mut near, weather, &mut self.rng, self.now);
            let is_over = near.session.end().is_some() || far.session.end().is_some();
            if is_over || self.rng.random_bool(weather.cut) {
                return;
            }
        }
    }

    fn settle(&mut self) {
        let calm = Weather { lose: 0.0, repeat: 0.0, swap: 0.0, cut: 0.0 };
        for _ in 0..4 {
            self.connect(1000, calm);
        }
    }
}

fn weather() -> impl Strategy<Value = Weather> {
    (0.0..0.3, 0.0..0.3, 0.0..0.3, 0.0..0.05).prop_map(|(lose, repeat, swap, cut)| Weather {
        lose,
        repeat,
        swap,
        cut,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_entry_arrives_once_and_in_order_whatever_the_network_does(
        seed: u64, weather in weather(), slack in prop::option::of(0usize..10)
    ) {
        let trim = slack.map_or(Trim::Keep, |slack_entries| Trim::Acked { slack_entries });
        let mut world = World::new(seed, trim);
        let mut added = Vec::new();
        let mut unfit = Vec::new();
        for round in 0..8 {
            for _ in 0..world.rng.random_range(0..20) {
                let name = if world.rng.random_bool(0.1) { "epoch" } else { "topic" };
                let step = world.rng.random_range(0..3);
                world.origin.add(step.max(u64::from(round == 0)), name, 10);
                let entry = world.origin.entries.last().unwrap().clone();
                if name == "epoch" { unfit.push(entry.seq) } else { added.push(entry) }
            }
            world.connect(60, weather);
        }
        world.settle();
        let held: Vec<_> = world.copy.held.iter().map(|(_, entry)| entry.clone()).collect();
        prop_assert_eq!(held, added);
        let dead: Vec<_> = world.origin.dead.iter().map(|(_, seq)| *seq).collect();
        prop_assert_eq!(dead, unfit);
        prop_assert_eq!(world.origin.acked, world.copy.cursor.seq);
    }

    #[test]
    fn a_wiped_origin_begins_a_new_epoch_and_nothing_new_is_called_a_duplicate(
        seed: u64, weather in weather()
    ) {
        let mut world = World::new(seed, Trim::Keep);
        let mut lives = Vec::new();
        for life in 0..3u64 {
            // Each life gives out the same IDs again, with other content.
            for _ in 0..10 {
                world.origin.add(1, &format!("life-{life}"), 3);
            }
            world.connect(60, weather);
            world.settle();
            lives.extend(world.origin.entries.iter().map(|entry| entry.fields.clone()));
            world.origin.wipe();
        }
        let held: Vec<_> =
            world.copy.held.iter().map(|(_, entry)| entry.fields.clone()).collect();
        prop_assert_eq!(held, lives);
        let epochs: Vec<_> = world.copy.held.iter().map(|(epoch, _)| epoch.0).collect();
        prop_assert!(epochs.is_sorted() && epochs.last() == Some(&3));
    }

    #[test]
    fn a_wiped_copy_gets_all_that_the_origin_still_has_under_the_same_epoch(
        seed: u64, weather in weather()
    ) {
        let mut world = World::new(seed, Trim::Keep);
        for _ in 0..15 {
            world.origin.add(1, "topic", 3);
        }
        world.connect(60, weather);
        world.copy = CopyModel::default();
        world.connect(60, weather);
        world.settle();
        let held: Vec<_> = world.copy.held.iter().map(|(_, entry)| entry.clone()).collect();
        prop_assert_eq!(&held, &world.origin.entries);
        prop_assert!(world.copy.held.iter().all(|(epoch, _)| *epoch == Epoch::FIRST));
    }
}

#[test]
fn an_entry_that_the_receiver_alone_refuses_is_buried_and_the_stream_goes_on() {
    let now = Instant::now();
    let granted = Granted::default();
    let mut origin = OriginModel::default();
    let begun = origin.begin(&Cursor::default());
    let mut sender = Sender::new(Direction::Up, granted, Trim::Keep, &begun);
    origin.add(1, "a", 1);
    origin.add(1, "b", 100);
    let Some(Task::Read { .. }) = sender.poll_task() else { panic!("no read") };
    sender.handle_read(origin.entries.clone());
    let push = sender.poll_push(now).unwrap();

    let limits = EntryLimits { value_bytes: 50, ..EntryLimits::default() };
    let mut receiver = Receiver::new(Direction::Up, limits, (Epoch::UNKNOWN, Seq::ZERO));
    let append = receiver.handle_push(push).unwrap();
    let mut copy = CopyModel::default();
    let ack = receiver.handle_appended(&copy.append(&append)).unwrap();

    assert_eq!(ack.seq, origin.last);
    assert_eq!(ack.refused, [(origin.last, Unfit::TooLarge)]);
    sender.handle_ack(ack, now).unwrap();
    assert_eq!(sender.poll_task(), Some(Task::Bury(vec![(origin.last, Unfit::TooLarge)])));
    assert_eq!(copy.held.len(), 1);
}
