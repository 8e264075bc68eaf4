//! One connection from its handshake to its end: a sender, a receiver, and the timers of both.

mod messages;
mod link_timeouts;
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
///
/// The calling order:
///
/// 1. Report each event: [`Self::handle_frame`] for a frame, [`Self::handle_received`] for bytes of an
///    unfinished frame, [`Self::handle_news`] when the origin may have more, [`Self::handle_timeout`], and
///    the result of each task (the method that [`SessionWork`] and [`OriginTask`] name).
/// 2. Call [`Self::poll_work`] until it returns nothing, and begin each task.
/// 3. Call [`Self::poll_frame`] while the outbox has room and [`Self::has_frame`] says so.
/// 4. Call [`Self::handle_timeout`] at [`Self::poll_timeout`].
/// 5. Once [`Self::end`] returns a reason, send the frames that are left and do
///    [`Self::poll_final_record`].
///
/// [`Self::handle_close`] ends the session from this side.
pub struct Session {
    sender: Sender,
    receiver: Receiver,
    heartbeat: Heartbeat,
    progress_timeout: Duration,
    last_received_at: Instant,
    pinged_at: Instant,
    /// The round trip of the last PING that was answered.
    round_trip: Option<Duration>,
    /// Batches that wait for the script; no more than the granted window.
    pushes: VecDeque<Push>,
    /// The next batch for the script, checked. It may have to wait for those that are running.
    append: Option<Box<Append>>,
    /// Whether the copy's keys cannot be used.
    is_unwritable: bool,
    /// When to probe the copy again; none while a probe is running.
    probe_at: Option<Instant>,
    /// The number of batches that were received since and dropped.
    dropped: usize,
    /// Whether HOLD is to be sent.
    is_hold_due: bool,
    /// The reason of the peer's HOLD.
    hold_reason: Option<String>,
    /// The number of batches that the script is working on.
    appending: usize,
    /// Whether the last of those must finish before the next one begins.
    is_append_exclusive: bool,
    has_appended: bool,
    /// The number of batches that `ack` acknowledges.
    acked_batches: usize,
    ack: Option<Ack>,
    pong_due: bool,
    ping_due: bool,
    /// The GOAWAY to send once the running batches are done.
    goaway: Option<Goaway>,
    end: Option<SessionEnd>,
}

impl Session {
    /// Creates a session whose handshake was done at `now`.
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

    /// Replaces [`PROGRESS_TIMEOUT`] as the time after which a link without acknowledgements is given up.
    pub fn with_progress_timeout(self, progress_timeout: Duration) -> Self {
        Self { progress_timeout, ..self }
    }

    /// Takes a frame.
    pub fn handle_frame(&mut self, frame: Frame, now: Instant) {
        self.handle_received(now);
        if let Frame::Pong(_) = frame {
            self.round_trip = Some(now.duration_since(self.pinged_at));
        }
        match frame {
            Frame::Push(_) if self.unanswered() >= WINDOW_BATCHES => {
                let message = "more batches without an acknowledgement than the window allows";
                self.close(GoawayReason::Protocol, message);
            }
            Frame::Push(_) if self.is_unwritable => self.dropped += 1,
            Frame::Push(push) if self.goaway.is_none() => self.pushes.push_back(push),
            // A batch that is not acknowledged is sent again.
            Frame::Push(_) => {}
            Frame::Ack(ack) | Frame::Pong(ack) => {
                if let Err(bad_ack) = self.sender.handle_ack(ack, now) {
                    self.close(GoawayReason::Protocol, &bad_ack.to_string());
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

    /// Returns the number of received batches for which no acknowledgement was sent. A sender that keeps to
    /// the protocol never exceeds the window.
    fn unanswered(&self) -> usize {
        self.pushes.len()
            + usize::from(self.append.is_some())
            + self.appending
            + self.acked_batches
            + self.dropped
    }

    /// Takes note that bytes of the peer were received at `at`, be it in the middle of a frame.
    pub fn handle_received(&mut self, at: Instant) {
        self.last_received_at = self.last_received_at.max(at);
    }

    /// Takes note that the origin may have more entries.
    pub fn handle_news(&mut self) {
        self.sender.handle_news();
    }

    /// Takes the result of [`OriginTask::Read`].
    pub fn handle_read(&mut self, read: OriginRead, now: Instant) {
        self.sender.handle_read(read, now);
    }

    /// Takes note that a task found the stream, or its high-water mark, behind what is known of it: the
    /// stream was replaced. A handshake has to find what it holds now.
    pub fn handle_origin_changed(&mut self) {
        self.close(
            GoawayReason::Gap,
            "the out stream of this side was replaced; a new handshake resolves this",
        );
    }

    /// Takes note that an [`OriginTask`] failed because the origin's keys cannot be used. The task is tried
    /// again at `retry_at`. The other direction continues.
    pub fn handle_origin_unreadable(&mut self, task: OriginTask, retry_at: Instant) {
        self.sender.handle_unreadable(task, retry_at);
    }

    /// Takes note that the task which failed has succeeded: the session ends, for a new handshake.
    pub fn handle_origin_readable(&mut self) {
        self.close(GoawayReason::Restart, "the out stream of this side can be read again");
    }

    /// Takes note that [`OriginTask::DeadLetter`] is done.
    pub fn handle_dead_lettered(&mut self) {
        self.sender.handle_dead_lettered();
    }

    /// Takes note that [`OriginTask::RecordLosses`] is done.
    pub fn handle_losses_recorded(&mut self) {
        self.sender.handle_losses_recorded();
    }

    /// Takes note that [`OriginTask::RecordAck`] is done.
    pub fn handle_ack_recorded(&mut self) {
        self.sender.handle_ack_recorded();
    }

    /// Takes note that [`SessionWork::Append`] failed because the copy's keys cannot be used. The copy is probed
    /// again at `retry_at`. The other direction continues.
    pub fn handle_copy_unwritable(&mut self, retry_at: Instant) {
        self.appending -= 1;
        self.pushes.clear();
        self.append = None;
        self.is_hold_due |= !self.is_unwritable;
        (self.is_unwritable, self.probe_at) = (true, Some(retry_at));
    }

    /// Takes the result of [`SessionWork::Probe`]: the copy can be used, or is to be probed again then.
    pub fn handle_copy_probed(&mut self, probed: Result<(), Instant>) {
        match probed {
            Ok(()) => {
                self.close(GoawayReason::Restart, "the in stream of this side can be written again")
            }
            Err(retry_at) => self.probe_at = Some(retry_at),
        }
    }

    /// Takes the result of [`SessionWork::Append`].
    pub fn handle_appended(&mut self, appended: &AppendResult) {
        self.appending -= 1;
        self.has_appended = true;
        match self.receiver.handle_appended(appended) {
            Ok(ack) => {
                self.acked_batches += 1;
                match &mut self.ack {
                    // Acknowledgements are cumulative: this one replaces one that waits, except for its refusals.
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

    /// Ends the session from this side: finishes the running batches, then sends GOAWAY.
    pub fn handle_close(&mut self, goaway: Goaway) {
        self.pushes.clear();
        self.append = None;
        self.goaway.get_or_insert(goaway);
    }

    /// Takes note that a store failed, so that the running batches get no result. Sends GOAWAY and ends.
    pub fn handle_store_failure(&mut self, goaway: Goaway) {
        self.appending = 0;
        self.handle_close(goaway);
    }

    /// Returns the next task for a store.
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

    /// Returns the next frame to send. Acknowledgements go before batches, so that the peer's window moves.
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

    /// Returns whether [`Self::poll_frame`] has a frame.
    pub fn has_frame(&self) -> bool {
        let is_leaving = self.goaway.is_some();
        self.ack.is_some()
            || self.is_hold_due
            || self.pong_due
            || self.ping_due
            || (is_leaving && self.appending == 0)
            || (!is_leaving && self.end.is_none() && self.sender.has_push())
    }

    /// Returns why the session ended, once it has.
    pub fn end(&self) -> Option<&SessionEnd> {
        self.end.as_ref()
    }

    /// Returns the round trip of the last PING that was answered.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Returns whether the copy's keys cannot be used.
    pub fn is_unwritable(&self) -> bool {
        self.is_unwritable
    }

    /// Returns the message of the peer's HOLD, if it sent one.
    pub fn hold_reason(&self) -> Option<&str> {
        self.hold_reason.as_deref()
    }

    /// Returns the last record for the origin, after the end.
    pub fn poll_final_record(&mut self) -> Option<OriginTask> {
        self.sender.poll_final_record()
    }

    /// Returns the origin's end, for its counters.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Returns the copy's end, for its counters.
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Returns the next batch that may go to the script, in order: a batch after one that failed is a gap. The
    /// first batch runs alone, since Redis may not have the script yet. So does a batch that waits for more
    /// than the script, which later ones would overtake.
    fn poll_append(&mut self) -> Option<Append> {
        if self.append.is_none() {
            match self.receiver.handle_push(self.pushes.pop_front()?) {
                Ok(append) => self.append = Some(Box::new(append)),
                Err(reason) => self.close(reason, goaway_message(reason)),
            }
        }
        let is_exclusive = !self.has_appended || self.append.as_ref()?.may_wait();
        let is_free = match self.appending {
            0 => true,
            running => !is_exclusive && !self.is_append_exclusive && running < APPENDS_MAX,
        };
        let mut append = self.append.take_if(|_| is_free)?;
        append.known = Some(self.receiver.position());
        self.appending += 1;
        self.is_append_exclusive = is_exclusive;
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
#[expect(clippy::disallowed_methods, reason = "tests use the real clock")]
mod tests;
