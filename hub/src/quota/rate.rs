//! Decisions of the rate limits as pure functions of time.
//!
//! Both limits are generic cell rate algorithms: the state of one is the time when all admitted
//! entries are paid back at its rate. A batch is admitted while that time is no further ahead than
//! the burst, whatever the batch's size; the next one then waits.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::throttle::{ThrottleCause, ThrottleReport, ThrottledClients};
use crate::limits::{
    CLIENT_RATE_BURST, RESERVE_BATCH_MAX, RESERVE_BURST, RESERVE_DEBT_MAX, USAGE_INTERVAL,
};
use spoke_protocol::{ClientId, Entry, EntryRate};
use spoke_store::MemoryUsage;

/// Number of clients above which idle ones are removed.
const REMEMBERED: usize = 1024;

/// Percent of `maxmemory` that must be free beside the reserve before the rate limit is lifted.
const ROOM_PERCENT: u64 = 2;

/// What a batch adds to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLoad {
    /// Entries.
    pub entries: u64,
    /// Bytes of the entries; each field counts at least `FIELD_BYTES_MIN`.
    pub bytes: u64,
}

/// Reserved part of Redis's memory, and the rate of each client while only that is left.
#[derive(Debug, Clone, Copy)]
pub struct MemoryReserve {
    /// Percent of `maxmemory`.
    pub percent: u64,
    /// Entries a second.
    pub entries: u64,
    /// Bytes a second.
    pub bytes: u64,
}

/// Rates of all clients, and the fill level of Redis.
pub(super) struct ClientRates {
    reserve: MemoryReserve,
    clients: HashMap<ClientId, ClientRate>,
    throttled: ThrottledClients,
    usage: MemoryUsage,
    looked_at: Option<Instant>,
    /// Bytes admitted since the last query.
    added: u64,
    is_short: bool,
    forgot_at: Instant,
}

struct ClientRate {
    /// Time when all admitted entries are paid back at the client's own rate.
    clear_at: Instant,
    /// The same at the rate of the reserve.
    reserve_clear_at: Instant,
}

/// Decision about a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RateDecision {
    /// It is admitted and counted; the client was throttled until now for this long.
    Go { was_held_for: Option<Duration> },
    /// It has to wait.
    Wait { wait: Duration, cause: ThrottleCause, is_first: bool },
}

impl BatchLoad {
    /// Measures these entries.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let bytes = entries.iter().map(|entry| entry.charged_bytes() as u64).sum();
        Self { entries: entries.len() as u64, bytes }
    }
}

impl MemoryReserve {
    /// Returns the time that a client takes for this load in the reserve.
    fn time(&self, load: BatchLoad) -> Duration {
        let rate = EntryRate { entries: self.entries, bytes: self.bytes };
        rate.time(load.entries, load.bytes).min(RESERVE_BATCH_MAX)
    }
}

impl ClientRates {
    pub(super) fn new(reserve: MemoryReserve, now: Instant) -> Self {
        Self {
            reserve,
            clients: HashMap::new(),
            throttled: ThrottledClients::default(),
            usage: MemoryUsage::default(),
            looked_at: None,
            added: 0,
            is_short: false,
            forgot_at: now,
        }
    }

    /// Returns whether to query the memory usage: the interval has passed, or this batch may reach
    /// the reserve.
    pub(super) fn is_look_due(&self, load: BatchLoad, now: Instant) -> bool {
        if self.reserve.percent == 0 {
            return false;
        }
        let Some(looked_at) = self.looked_at else { return true };
        let MemoryUsage { used, max } = self.usage;
        let (calm, tense) = USAGE_INTERVAL;
        let is_tense = max > 0 && used >= max / 4 * 3;
        let may_reach = max > 0 && !self.is_short && self.reckoned(load.bytes) >= self.full_at();
        let interval = if is_tense || may_reach { tense } else { calm };
        // The estimate may be far off: query at once, but not twice for the same bytes.
        now >= looked_at + interval || (may_reach && self.added > 0)
    }

    /// Handles a memory query. Returns whether only the reserve is left, if that changed.
    pub(super) fn handle_usage(&mut self, usage: MemoryUsage, now: Instant) -> Option<bool> {
        (self.usage, self.looked_at, self.added) = (usage, Some(now), 0);
        // Pending writes count as used and fluctuate.
        let less = if self.is_short { usage.max / 100 * ROOM_PERCENT } else { 0 };
        let full_at = self.full_at().saturating_sub(less);
        let is_short = usage.max > 0 && self.reserve.percent > 0 && usage.used >= full_at;
        let is_new = is_short != self.is_short;
        self.is_short = is_short;
        is_new.then_some(is_short)
    }

    /// Decides about a client's batch, where `own` is the client's own rate.
    pub(super) fn handle_load(
        &mut self,
        client: &ClientId,
        own: EntryRate,
        load: BatchLoad,
        now: Instant,
    ) -> RateDecision {
        self.forget(now);
        let is_short = self.is_short;
        let rate = self.clients.entry(client.clone());
        let rate = rate.or_insert(ClientRate { clear_at: now, reserve_clear_at: now });
        let wait = |clear_at: Instant, burst: Duration| {
            clear_at.saturating_duration_since(now).saturating_sub(burst)
        };
        let of_rate = wait(rate.clear_at, CLIENT_RATE_BURST);
        let of_reserve = match is_short {
            true => wait(rate.reserve_clear_at, RESERVE_BURST),
            false => Duration::ZERO,
        };
        let (wait, cause) = match of_reserve >= of_rate {
            true => (of_reserve, ThrottleCause::Memory),
            false => (of_rate, ThrottleCause::Rate),
        };
        if !wait.is_zero() {
            let is_first = self.throttled.handle_wait(client, cause, wait, now);
            return RateDecision::Wait { wait, cause, is_first };
        }
        rate.clear_at = rate.clear_at.max(now) + own.time(load.entries, load.bytes);
        let reserve_clear_at = rate.reserve_clear_at.max(now) + self.reserve.time(load);
        // Earlier entries count against the client, up to a limit.
        rate.reserve_clear_at = match is_short {
            true => reserve_clear_at,
            false => reserve_clear_at.min(now + RESERVE_DEBT_MAX),
        };
        self.added += load.bytes;
        RateDecision::Go { was_held_for: self.throttled.handle_go(client, is_short, now) }
    }

    /// Returns the number of clients that are throttled for this cause.
    pub(super) fn throttled(&self, cause: ThrottleCause) -> usize {
        self.throttled.count(cause)
    }

    /// Returns what to record about throttled clients, and forgets those that no longer are.
    pub(super) fn poll_reports(&mut self, now: Instant) -> Vec<(ClientId, ThrottleReport)> {
        self.throttled.poll_reports(now)
    }

    /// Returns the bytes at which the reserve begins.
    fn full_at(&self) -> u64 {
        self.usage.max - self.usage.max / 100 * self.reserve.percent
    }

    /// Returns an upper estimate of the used bytes: a small entry takes twice its bytes in Redis.
    fn reckoned(&self, more: u64) -> u64 {
        self.usage.used + 2 * (self.added + more)
    }

    /// Removes clients without debt.
    fn forget(&mut self, now: Instant) {
        if self.clients.len() >= REMEMBERED && now >= self.forgot_at + Duration::from_secs(1) {
            self.forgot_at = now;
            self.clients.retain(|_, rate| rate.clear_at.max(rate.reserve_clear_at) > now);
        }
    }
}

#[cfg(test)]
mod tests;
