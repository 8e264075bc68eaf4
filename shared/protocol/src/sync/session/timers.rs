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
        if now >= self.heard_at + self.patience() {
            self.finish(SessionEnd::IdleTimeout(self.patience()));
        } else if self.stalls_at().is_some_and(|deadline| now >= deadline) {
            self.finish(SessionEnd::AckTimeout);
        } else if self.sender.peer_clock_due().is_some_and(|due| now >= due) {
            self.leave(GoawayReason::Restart, "to ask for the hub's clock again");
        } else if let Heartbeat::Pings(interval) = self.heartbeat
            && now >= self.heard_at.max(self.pinged_at) + interval
        {
            self.ping_due = true;
            self.pinged_at = now;
        }
    }

    /// When to call `handle_timeout`, if nothing happens before.
    pub fn poll_timeout(&self) -> Instant {
        let silent = self.heard_at + self.patience();
        let ping = match self.heartbeat {
            Heartbeat::Pings(interval) => self.heard_at.max(self.pinged_at) + interval,
            Heartbeat::Answers => silent,
        };
        let record = self.sender.record_due().filter(|_| self.farewell.is_none());
        let clock = self.sender.peer_clock_due().filter(|_| self.farewell.is_none());
        let held = self.sender.delayed_until();
        let read_again = self.sender.retry_at().filter(|_| self.farewell.is_none());
        let probe = self.probe_at.filter(|_| self.farewell.is_none());
        [self.stalls_at(), record, clock, held, read_again, probe]
            .into_iter()
            .flatten()
            .fold(silent.min(ping), Instant::min)
    }

    fn stalls_at(&self) -> Option<Instant> {
        self.sender.progress_deadline(self.progress_timeout)
    }

    /// While something large is under way the answer to a ping waits behind it.
    fn patience(&self) -> Duration {
        IDLE_TIMEOUT + self.sender.extra_timeout().unwrap_or_default()
    }
}
