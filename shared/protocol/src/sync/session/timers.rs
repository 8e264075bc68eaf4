//! The timers of a session.

use std::time::{Duration, Instant};

use super::{
    Session,
    types::{Heartbeat, SessionEnd},
};
use crate::{limits::IDLE_TIMEOUT, message::GoawayReason};

impl Session {
    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.sender.handle_timeout(now);
        if now >= self.last_received_at + self.idle_timeout() {
            self.set_end(SessionEnd::IdleTimeout(self.idle_timeout()));
        } else if self.ack_deadline().is_some_and(|deadline| now >= deadline) {
            self.set_end(SessionEnd::AckTimeout);
        } else if self.sender.peer_clock_due().is_some_and(|due| now >= due) {
            self.close(GoawayReason::Restart, "to ask for the hub's clock again");
        } else if let Heartbeat::Pings(interval) = self.heartbeat
            && now >= self.last_received_at.max(self.pinged_at) + interval
        {
            self.ping_due = true;
            self.pinged_at = now;
        }
    }

    /// When to call `handle_timeout`, if nothing happens before.
    pub fn poll_timeout(&self) -> Instant {
        let silent = self.last_received_at + self.idle_timeout();
        let ping = match self.heartbeat {
            Heartbeat::Pings(interval) => self.last_received_at.max(self.pinged_at) + interval,
            Heartbeat::Answers => silent,
        };
        let record = self.sender.record_due().filter(|_| self.goaway.is_none());
        let clock = self.sender.peer_clock_due().filter(|_| self.goaway.is_none());
        let held = self.sender.delayed_until();
        let read_again = self.sender.retry_at().filter(|_| self.goaway.is_none());
        let probe = self.probe_at.filter(|_| self.goaway.is_none());
        [self.ack_deadline(), record, clock, held, read_again, probe]
            .into_iter()
            .flatten()
            .fold(silent.min(ping), Instant::min)
    }

    fn ack_deadline(&self) -> Option<Instant> {
        self.sender.progress_deadline(self.progress_timeout)
    }

    /// While something large is under way the answer to a ping waits behind it.
    fn idle_timeout(&self) -> Duration {
        IDLE_TIMEOUT + self.sender.extra_timeout().unwrap_or_default()
    }
}
