//! One end of a simulated connection.

use std::{collections::VecDeque, time::Instant};

use super::model_redis::ModelRedis;
use crate::{
    entry::{Direction, EntryLimits},
    limits::HEARTBEAT,
    message::{Cursor, Frame, Goaway, GoawayReason, ReceiveLimits},
    seq::Epoch,
    sync::{
        receiver::Receiver,
        resume::SenderStart,
        sender::{LinkPath, OriginTask, Sender, SessionEnding, TrimMode},
        session::{Heartbeat, Session, SessionEnd, SessionWork},
    },
};

/// One end of a connection, with its outbox and its running tasks.
pub(super) struct LinkEnd {
    pub(super) session: Session,
    epoch: Epoch,
    generation: Option<u64>,
    pub(super) outbox: VecDeque<Frame>,
    tasks: VecDeque<SessionWork>,
}

impl LinkEnd {
    pub(super) fn new(
        (direction, back): (Direction, Direction),
        begun: &SenderStart,
        trim: TrimMode,
        (cursor, generation): (&Cursor, Option<u64>),
        (path, now, random): (&mut LinkPath, Instant, f64),
    ) -> Self {
        let granted =
            ReceiveLimits { window_batches: 3, batch_entries: 4, ..ReceiveLimits::default() };
        path.handle_start((begun.position.epoch, begun.position.after));
        let sender = Sender::new(direction, granted, trim, begun).with_path(path);
        let sender = sender.with_delay(path.delay_until(now, random));
        let receiver = Receiver::new(back, EntryLimits::default(), cursor.confirmed());
        let heartbeat = match direction {
            Direction::Up => Heartbeat::Pings(HEARTBEAT),
            Direction::Down => Heartbeat::Answers,
        };
        let mut session = Session::new(sender, receiver, heartbeat, now);
        session.handle_news();
        let epoch = begun.position.epoch;
        Self { session, epoch, generation, outbox: VecDeque::new(), tasks: VecDeque::new() }
    }

    pub(super) fn step(
        &mut self,
        redis: &mut ModelRedis,
        client: usize,
        is_full: bool,
        now: Instant,
    ) {
        if now >= self.session.poll_timeout() {
            self.session.handle_timeout(now);
        }
        while let Some(work) = self.session.poll_work(now) {
            self.tasks.push_back(work);
        }
        let is_write =
            |work: &SessionWork| !matches!(work, SessionWork::Origin(OriginTask::Read { .. }));
        if is_full && self.tasks.front().is_some_and(is_write) {
            self.tasks.clear();
            let (reason, message) = (GoawayReason::Unavailable, "full".to_owned());
            self.session.handle_store_failure(Goaway { reason, message, wait_ms: 0 });
        }
        match self.tasks.pop_front() {
            Some(SessionWork::Append(append)) => {
                let appended = redis.append(client, self.generation, &append);
                self.session.handle_appended(&appended);
            }
            Some(SessionWork::Origin(task)) => {
                match (redis.perform(client, self.epoch, &task), task) {
                    (Some(read), OriginTask::Read { .. }) => self.session.handle_read(read, now),
                    (None, _) => self.session.handle_origin_changed(),
                    (_, OriginTask::RecordLosses(..)) => self.session.handle_losses_recorded(),
                    (_, OriginTask::DeadLetter(_)) => self.session.handle_dead_lettered(),
                    (_, OriginTask::RecordAck { .. }) => self.session.handle_ack_recorded(),
                }
            }
            Some(SessionWork::Probe) => unreachable!("the simulation overwrites no key"),
            None => {}
        }
        while self.session.has_frame() {
            self.outbox.extend(self.session.poll_frame(now));
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.session.end().is_some() && self.outbox.is_empty()
    }

    pub(super) fn disconnect(&self, path: &mut LinkPath) {
        let ending = match self.session.end() {
            Some(SessionEnd::ClosedByPeer(_) | SessionEnd::Closed(_)) => SessionEnding::Closed,
            Some(SessionEnd::IdleTimeout(_) | SessionEnd::AckTimeout) | None => {
                SessionEnding::Broken
            }
        };
        path.handle_end(&self.session.sender().summary(), ending);
    }
}
