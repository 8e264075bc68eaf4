//! The timers of a session.

use std::time::{Duration, Instant};

use super::{
    Session,
    types::{Heartbeat, SessionEnd},
};
use crate::{limits::IDLE_TIMEOUT, message::GoawayReason};

impl Session {
    /// Takes note of the time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.sender.handle_timeout(now);
        if now >= self.last_received_at + self.idle_timeout() {
            self.set_end(SessionEnd::IdleTimeout(self.idle_timeout()));
        } else if self.ack_deadline().is_some_and(|deadline| now >= deadline) {
            self.set_end(SessionEnd::AckTimeout);
        } else if self.sender.peer_clock_due().is_some_and(|due| now >= due) {
            self.close(
                GoawayReason::Restart,
                "a new session is needed to read the hub's clock again",
            );
        } else if let Heartbeat::Pings(interval) = self.heartbeat
            && now >= self.last_received_at.max(self.pinged_at) + interval
        {
            self.ping_due = true;
            self.pinged_at = now;
        }
    }

    /// Returns when to call [`Self::handle_timeout`], if nothing happens before.
    pub fn poll_timeout(&self) -> Instant {
        let idle = self.last_received_at + self.idle_timeout();
        let ping = match self.heartbeat {
            Heartbeat::Pings(interval) => self.last_received_at.max(self.pinged_at) + interval,
            Heartbeat::Answers => idle,
        };
        let record = self.sender.record_due().filter(|_| self.goaway.is_none());
        let clock = self.sender.peer_clock_due().filter(|_| self.goaway.is_none());
        let delay = self.sender.delayed_until();
        let retry = self.sender.retry_at().filter(|_| self.goaway.is_none());
        let probe = self.probe_at.filter(|_| self.goaway.is_none());
        [self.ack_deadline(), record, clock, delay, retry, probe]
            .into_iter()
            .flatten()
            .fold(idle.min(ping), Instant::min)
    }

    fn ack_deadline(&self) -> Option<Instant> {
        self.sender.progress_deadline(self.progress_timeout)
    }

    /// The answer to a PING waits behind a large batch in flight.
    fn idle_timeout(&self) -> Duration {
        IDLE_TIMEOUT + self.sender.extra_timeout().unwrap_or_default()
    }
}
