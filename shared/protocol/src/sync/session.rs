//! One connection between its handshake and its end: a sender, a receiver, and the watch over both.
//!
//! Order of calls: `handle_*` what happened; then `poll_task` until it yields nothing, `poll_frame`
//! while the outbox has room, and `poll_timeout` for when to call `handle_timeout`. Once `end` says
//! why it is over, nothing but what is in hand is finished.

mod messages;
mod timers;
mod types;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use self::messages::{UNWRITABLE, goaway_message};
pub use self::types::{Heartbeat, SessionEnd, SessionWork};
use super::{
    receiver::{Append, AppendResult, Receiver},
    sender::{OriginRead, OriginTask, Sender},
};
use crate::{
    limits::{APPENDS_MAX, PROGRESS_TIMEOUT, WINDOW_BATCHES},
    message::{Ack, Frame, Goaway, GoawayReason, Push},
};

/// One established connection.
pub struct Session {
    sender: Sender,
    receiver: Receiver,
    heartbeat: Heartbeat,
    progress_timeout: Duration,
    last_received_at: Instant,
    pinged_at: Instant,
    /// Of the last ping that was answered.
    round_trip: Option<Duration>,
    /// Received and not yet in the script's hands; no more than the window that was granted.
    pushes: VecDeque<Push>,
    /// The next for the script; it has to wait for those in hand there.
    append: Option<Box<Append>>,
    /// The copy cannot be used as it is.
    is_unwritable: bool,
    /// When it is looked at again, unless that is under way.
    probe_at: Option<Instant>,
    /// Batches that came since and were thrown away.
    dropped: usize,
    /// That the copy takes nothing is to be told.
    is_hold_due: bool,
    /// Why the other side's copy takes nothing.
    hold_reason: Option<String>,
    /// How many batches the script has in hand.
    appending: usize,
    /// The last of those must be answered before the next.
    is_append_exclusive: bool,
    has_appended: bool,
    /// Batches that `ack` answers.
    acked_batches: usize,
    ack: Option<Ack>,
    pong_due: bool,
    ping_due: bool,
    /// To be said once what is in hand is done.
    goaway: Option<Goaway>,
    end: Option<SessionEnd>,
}

impl Session {
    /// A session whose handshake was done at `now`.
    pub fn new(sender: Sender, receiver: Receiver, heartbeat: Heartbeat, now: Instant) -> Self {
        Self {
            sender,
            receiver,
            heartbeat,
            progress_timeout: PROGRESS_TIMEOUT,
            last_received_at: now,
            pinged_at: now,
            round_trip: None,
            pushes: VecDeque::new(),
            append: None,
            is_unwritable: false,
            probe_at: None,
            dropped: 0,
            is_hold_due: false,
            hold_reason: None,
            appending: 0,
            is_append_exclusive: false,
            has_appended: false,
            acked_batches: 0,
            ack: None,
            pong_due: false,
            ping_due: false,
            goaway: None,
            end: None,
        }
    }

    /// With another time than `limits::PROGRESS_TIMEOUT` until a link that acknowledges nothing is
    /// given up.
    pub fn with_progress_timeout(self, progress_timeout: Duration) -> Self {
        Self { progress_timeout, ..self }
    }

    /// A frame came.
    pub fn handle_frame(&mut self, frame: Frame, now: Instant) {
        self.handle_received(now);
        if let Frame::Pong(_) = frame {
            self.round_trip = Some(now.duration_since(self.pinged_at));
        }
        match frame {
            Frame::Push(_) if self.unanswered() >= WINDOW_BATCHES => {
                let message = "more batches came than the window allows without an acknowledgement";
                self.close(GoawayReason::Protocol, message);
            }
            Frame::Push(_) if self.is_unwritable => self.dropped += 1,
            Frame::Push(push) if self.goaway.is_none() => self.pushes.push_back(push),
            // What is not acknowledged comes again.
            Frame::Push(_) => {}
            Frame::Ack(ack) | Frame::Pong(ack) => {
                if let Err(confused) = self.sender.handle_ack(ack, now) {
                    self.close(GoawayReason::Protocol, &confused.to_string());
                }
            }
            Frame::Ping => self.pong_due = true,
            Frame::Goaway(goaway) => self.set_end(SessionEnd::ClosedByPeer(goaway)),
            Frame::Hold(message) => {
                self.sender.handle_hold();
                self.hold_reason = Some(message);
            }
            Frame::Hello(_) | Frame::Welcome(_) => {
                self.close(GoawayReason::Protocol, "a second handshake in one connection");
            }
        }
    }

    /// Batches that came and that no acknowledgement has left for. A sender keeps to the window, so
    /// more than that are no honest ones.
    fn unanswered(&self) -> usize {
        self.pushes.len()
            + usize::from(self.append.is_some())
            + self.appending
            + self.acked_batches
            + self.dropped
    }

    /// Bytes of the other side came at `at`, be it the middle of a frame.
    pub fn handle_received(&mut self, at: Instant) {
        self.last_received_at = self.last_received_at.max(at);
    }

    /// The origin may have more.
    pub fn handle_news(&mut self) {
        self.sender.handle_news();
    }

    /// The answer to `OriginTask::OriginRead`.
    pub fn handle_read(&mut self, read: OriginRead, now: Instant) {
        self.sender.handle_read(read, now);
    }

    /// The other answer to `OriginTask::OriginRead`: the stream or its mark is behind what is known of it, so it
    /// is not the same any more. What it holds now would be passed over; only a handshake can tell.
    pub fn handle_origin_changed(&mut self) {
        self.close(GoawayReason::Gap, "the stream here was replaced; a new handshake sorts it out");
    }

    /// The other answer to a `OriginTask`: the origin cannot be used as it is. The task is tried again at
    /// `again_at`. What comes from the other side goes on.
    pub fn handle_origin_unreadable(&mut self, task: OriginTask, again_at: Instant) {
        self.sender.handle_unreadable(task, again_at);
    }

    /// The task that could not be done could be done now.
    pub fn handle_origin_readable(&mut self) {
        self.close(GoawayReason::Restart, "the out stream here can be used again");
    }

    /// The answer to `OriginTask::DeadLetter`.
    pub fn handle_dead_lettered(&mut self) {
        self.sender.handle_dead_lettered();
    }

    /// The answer to `OriginTask::RecordLosses`.
    pub fn handle_losses_recorded(&mut self) {
        self.sender.handle_losses_recorded();
    }

    /// The answer to `OriginTask::RecordAck`.
    pub fn handle_ack_recorded(&mut self) {
        self.sender.handle_ack_recorded();
    }

    /// The other answer to `SessionWork::Append`: the copy cannot be used as it is. It is looked at again at
    /// `again_at`. What goes to the other side goes on.
    pub fn handle_copy_unwritable(&mut self, again_at: Instant) {
        self.appending -= 1;
        self.pushes.clear();
        self.append = None;
        self.is_hold_due |= !self.is_unwritable;
        (self.is_unwritable, self.probe_at) = (true, Some(again_at));
    }

    /// The answer to `SessionWork::Probe`: the copy can be used, or is to be looked at again then.
    pub fn handle_copy_probed(&mut self, probed: Result<(), Instant>) {
        match probed {
            Ok(()) => self.close(GoawayReason::Restart, "the in stream here takes entries again"),
            Err(again_at) => self.probe_at = Some(again_at),
        }
    }

    /// The answer to `SessionWork::Append`.
    pub fn handle_appended(&mut self, appended: &AppendResult) {
        self.appending -= 1;
        self.has_appended = true;
        match self.receiver.handle_appended(appended) {
            Ok(ack) => {
                self.acked_batches += 1;
                match &mut self.ack {
                    // Cumulative: one that has not left yet is overtaken, but for its refusals.
                    Some(waiting) => {
                        (waiting.epoch, waiting.seq) = (ack.epoch, ack.seq);
                        waiting.refused.extend(ack.refused);
                    }
                    None => self.ack = Some(ack),
                }
            }
            Err(reason) => {
                let wait_ms = match appended {
                    AppendResult::RateLimited(wait) => wait.as_millis() as u64,
                    _ => 0,
                };
                self.handle_close(Goaway {
                    reason,
                    message: goaway_message(reason).to_owned(),
                    wait_ms,
                });
            }
        }
    }

    /// Finish what is in hand, say goodbye and end.
    pub fn handle_close(&mut self, goaway: Goaway) {
        self.pushes.clear();
        self.append = None;
        self.goaway.get_or_insert(goaway);
    }

    /// A store failed: what was in hand there will not be answered. Say goodbye and end.
    pub fn handle_store_failure(&mut self, goaway: Goaway) {
        self.appending = 0;
        self.handle_close(goaway);
    }

    /// The next thing to do at a store.
    pub fn poll_work(&mut self, now: Instant) -> Option<SessionWork> {
        if self.end.is_some() {
            return None;
        }
        if let Some(append) = self.poll_append() {
            return Some(SessionWork::Append(append));
        }
        if self.goaway.is_some() {
            return None;
        }
        if self.probe_at.take_if(|probe_at| *probe_at <= now).is_some() {
            return Some(SessionWork::Probe);
        }
        self.sender.poll_task(now).map(SessionWork::Origin)
    }

    /// The next frame to send. Answers go before batches, so that the other side's window moves.
    pub fn poll_frame(&mut self, now: Instant) -> Option<Frame> {
        if let Some(ack) = self.ack.take() {
            self.acked_batches = 0;
            return Some(Frame::Ack(ack));
        }
        if std::mem::take(&mut self.is_hold_due) {
            return Some(Frame::Hold(UNWRITABLE.to_owned()));
        }
        if std::mem::take(&mut self.pong_due) {
            return Some(Frame::Pong(self.receiver.ack()));
        }
        if self.goaway.is_some() && self.appending == 0 {
            let goaway = self.goaway.take()?;
            self.set_end(SessionEnd::Closed(goaway.clone()));
            return Some(Frame::Goaway(goaway));
        }
        if std::mem::take(&mut self.ping_due) {
            return Some(Frame::Ping);
        }
        if self.goaway.is_some() || self.end.is_some() {
            return None;
        }
        self.sender.poll_push(now).map(Frame::Push)
    }

    /// Whether `poll_frame` has something.
    pub fn has_frame(&self) -> bool {
        let is_leaving = self.goaway.is_some();
        self.ack.is_some()
            || self.is_hold_due
            || self.pong_due
            || self.ping_due
            || (is_leaving && self.appending == 0)
            || (!is_leaving && self.end.is_none() && self.sender.has_push())
    }

    /// Why the session is over, once it is.
    pub fn end(&self) -> Option<&SessionEnd> {
        self.end.as_ref()
    }

    /// From the last ping that was answered to its answer.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Whether the copy cannot be used as it is.
    pub fn is_unwritable(&self) -> bool {
        self.is_unwritable
    }

    /// Why the other side's copy takes nothing, where it said so.
    pub fn hold_reason(&self) -> Option<&str> {
        self.hold_reason.as_deref()
    }

    /// What is to be written down at the origin when all else is over.
    pub fn poll_final_record(&mut self) -> Option<OriginTask> {
        self.sender.poll_final_record()
    }

    /// The origin's end, for its figures.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The copy's end, for its figures.
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// The next batch that may go to the script. It takes them in their order, so that one which follows a
    /// failed one is a gap. The first may find the script missing, and some wait for more than the script:
    /// what follows would overtake those.
    fn poll_append(&mut self) -> Option<Append> {
        if self.append.is_none() {
            match self.receiver.handle_push(self.pushes.pop_front()?) {
                Ok(append) => self.append = Some(Box::new(append)),
                Err(reason) => self.close(reason, goaway_message(reason)),
            }
        }
        let is_alone = !self.has_appended || self.append.as_ref()?.may_wait();
        let is_free = match self.appending {
            0 => true,
            under_way => !is_alone && !self.is_append_exclusive && under_way < APPENDS_MAX,
        };
        let mut append = self.append.take_if(|_| is_free)?;
        append.known = Some(self.receiver.position());
        self.appending += 1;
        self.is_append_exclusive = is_alone;
        Some(*append)
    }

    fn close(&mut self, reason: GoawayReason, message: &str) {
        self.handle_close(Goaway { reason, message: message.to_owned(), wait_ms: 0 });
    }

    fn set_end(&mut self, end: SessionEnd) {
        self.end.get_or_insert(end);
    }
}

#[cfg(test)]
mod tests;
