//! Decisions of the rate limit as pure functions of time.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::limits::{RESERVE_BURST, RESERVE_DEBT_MAX, USAGE_INTERVAL};
use spoke_protocol::{ClientId, Entry};
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
    usage: MemoryUsage,
    looked_at: Option<Instant>,
    /// Bytes admitted since the last query.
    added: u64,
    is_short: bool,
    forgot_at: Instant,
}

struct ClientRate {
    /// Time when all admitted entries are paid back (generic cell rate algorithm).
    clear_at: Instant,
    held_since: Option<Instant>,
}

/// Decision about a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RateDecision {
    Go { was_held_for: Option<Duration> },
    Wait { wait: Duration, is_first: bool },
}

impl BatchLoad {
    /// Measures these entries.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let bytes = entries.iter().map(|entry| entry.bytes() as u64).sum();
        Self { entries: entries.len() as u64, bytes }
    }
}

impl MemoryReserve {
    /// Returns the time that a client takes for this load at its rate.
    fn time(&self, load: BatchLoad) -> Duration {
        let of = |amount: u64, rate: u64| Duration::from_secs_f64(amount as f64 / rate as f64);
        of(load.entries, self.entries).max(of(load.bytes, self.bytes))
    }
}

impl ClientRates {
    pub(super) fn new(reserve: MemoryReserve, now: Instant) -> Self {
        Self {
            reserve,
            clients: HashMap::new(),
            usage: MemoryUsage::default(),
            looked_at: None,
            added: 0,
            is_short: false,
            forgot_at: now,
        }
    }

    pub(super) fn is_short(&self) -> bool {
        self.is_short
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

    /// Decides about a client's batch.
    pub(super) fn handle_load(
        &mut self,
        client: &ClientId,
        load: BatchLoad,
        now: Instant,
    ) -> RateDecision {
        self.forget(now);
        let time = self.reserve.time(load);
        let is_short = self.is_short;
        let rate = self.clients.entry(client.clone());
        let rate = rate.or_insert(ClientRate { clear_at: now, held_since: None });
        let ahead = rate.clear_at.saturating_duration_since(now);
        if is_short && ahead > RESERVE_BURST {
            let is_first = rate.held_since.is_none();
            rate.held_since.get_or_insert(now);
            return RateDecision::Wait { wait: ahead - RESERVE_BURST, is_first };
        }
        let clear_at = rate.clear_at.max(now) + time;
        // Earlier entries count against the client, up to a limit.
        rate.clear_at = if is_short { clear_at } else { clear_at.min(now + RESERVE_DEBT_MAX) };
        let held_since = if is_short { None } else { rate.held_since.take() };
        self.added += load.bytes;
        RateDecision::Go { was_held_for: held_since.map(|since| now.duration_since(since)) }
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
            self.clients.retain(|_, rate| rate.clear_at > now || rate.held_since.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVE: MemoryReserve = MemoryReserve { percent: 10, entries: 100, bytes: 32 * 1024 };
    const MIB: u64 = 1024 * 1024;
    const MAX: u64 = 100 * MIB;

    fn client(name: &str) -> ClientId {
        name.parse().unwrap()
    }

    fn load(entries: u64, bytes: u64) -> BatchLoad {
        BatchLoad { entries, bytes }
    }

    fn rates(used: u64, now: Instant) -> ClientRates {
        let mut rates = ClientRates::new(RESERVE, now);
        rates.handle_usage(MemoryUsage { used, max: MAX }, now);
        rates
    }

    fn is_admitted(decision: &RateDecision) -> bool {
        matches!(decision, RateDecision::Go { .. })
    }

    #[test]
    fn below_the_reserve_no_client_waits_however_much_it_sends() {
        let now = Instant::now();
        for (used, max) in [(MAX / 2, MAX), (MAX / 100 * 89, MAX), (u64::MAX / 2, 0)] {
            let mut rates = ClientRates::new(RESERVE, now);
            assert_eq!(rates.handle_usage(MemoryUsage { used, max }, now), None);
            for _ in 0..1000 {
                assert!(is_admitted(&rates.handle_load(&client("dev1"), load(1000, MIB), now)));
            }
        }
    }

    #[test]
    fn in_the_reserve_a_greedy_client_waits_and_a_quiet_one_does_not() {
        let mut now = Instant::now();
        let mut rates = rates(MAX / 2, now);
        // For 60 s one client fills Redis, and another one adds 50 small entries per second.
        for _ in 0..60 {
            for _ in 0..50 {
                rates.handle_load(&client("greedy"), load(1000, MIB), now);
                rates.handle_load(&client("quiet"), load(1, 100), now);
                now += Duration::from_millis(20);
            }
        }
        let full = MemoryUsage { used: MAX / 100 * 91, max: MAX };
        assert_eq!(rates.handle_usage(full, now), Some(true));
        let (mut greedy, mut quiet) = (0, 0);
        for _ in 0..60 {
            for _ in 0..50 {
                greedy += u64::from(is_admitted(&rates.handle_load(
                    &client("greedy"),
                    load(100, 100),
                    now,
                )));
                quiet +=
                    u64::from(is_admitted(&rates.handle_load(&client("quiet"), load(1, 100), now)));
                now += Duration::from_millis(20);
            }
        }
        assert_eq!(quiet, 3000, "each of its entries is admitted at once");
        assert!((45..=48).contains(&greedy), "{greedy} batches in 60 s, each worth one second");
    }

    #[test]
    fn a_greedy_client_waits_for_a_bounded_time_and_then_sends_at_its_rate() {
        let now = Instant::now();
        let mut rates = rates(MAX / 2, now);
        for _ in 0..1000 {
            rates.handle_load(&client("dev1"), load(1000, MIB), now);
        }
        rates.handle_usage(MemoryUsage { used: MAX, max: MAX }, now);
        let first = rates.handle_load(&client("dev1"), load(1, 1), now);
        let wait = RESERVE_DEBT_MAX - RESERVE_BURST;
        assert_eq!(first, RateDecision::Wait { wait, is_first: true });
        let again = rates.handle_load(&client("dev1"), load(1, 1), now);
        assert_eq!(again, RateDecision::Wait { wait, is_first: false }, "only the first is marked");
        let later = now + wait;
        assert!(is_admitted(&rates.handle_load(&client("dev1"), load(1000, 512 * 1024), later)));
        let next = rates.handle_load(&client("dev1"), load(1, 1), later);
        let batch = Duration::from_secs(16);
        assert_eq!(next, RateDecision::Wait { wait: batch, is_first: false });
    }

    #[test]
    fn the_end_of_throttling_is_reported_once_per_client() {
        let now = Instant::now();
        let mut rates = rates(MAX, now);
        while is_admitted(&rates.handle_load(&client("dev1"), load(100, 1), now)) {}
        let later = now + Duration::from_secs(3);
        let below = MemoryUsage { used: MAX / 2, max: MAX };
        assert_eq!(rates.handle_usage(below, later), Some(false));
        let held_for = Some(Duration::from_secs(3));
        let over = rates.handle_load(&client("dev1"), load(1, 1), later);
        assert_eq!(over, RateDecision::Go { was_held_for: held_for });
        let next = rates.handle_load(&client("dev1"), load(1, 1), later);
        assert_eq!(next, RateDecision::Go { was_held_for: None });
    }

    #[test]
    fn memory_usage_around_the_edge_of_the_reserve_does_not_end_throttling() {
        let now = Instant::now();
        let mut rates = rates(MAX / 2, now);
        let mut handle_percent = |percent| {
            let used = MAX / 100 * percent;
            rates.handle_usage(MemoryUsage { used, max: MAX }, now)
        };
        assert_eq!(handle_percent(89), None);
        assert_eq!(handle_percent(90), Some(true));
        assert_eq!(
            [handle_percent(89), handle_percent(91), handle_percent(88), handle_percent(90)],
            [None; 4]
        );
        assert_eq!(handle_percent(87), Some(false));
        assert_eq!(handle_percent(89), None);
    }

    #[test]
    fn redis_memory_is_read_once_a_second_and_before_the_reserve_can_be_reached() {
        let now = Instant::now();
        let mut rates = ClientRates::new(RESERVE, now);
        let small = load(1, 100);
        assert!(rates.is_look_due(small, now), "memory was never read");
        rates.handle_usage(MemoryUsage { used: MAX / 2, max: MAX }, now);
        assert!(!rates.is_look_due(small, now));
        assert!(rates.is_look_due(small, now + USAGE_INTERVAL.0));
        for _ in 0..19 {
            assert!(!rates.is_look_due(load(1000, MIB), now));
            rates.handle_load(&client("dev1"), load(1000, MIB), now);
        }
        assert!(
            rates.is_look_due(load(1000, MIB), now),
            "twice the added bytes may reach the reserve"
        );
        rates.handle_usage(MemoryUsage { used: MAX / 100 * 80, max: MAX }, now);
        assert!(
            rates.is_look_due(small, now + USAGE_INTERVAL.1),
            "more often when more memory is used"
        );
    }

    #[test]
    fn clients_without_debt_are_forgotten() {
        let mut now = Instant::now();
        let mut rates = rates(MAX / 2, now);
        for n in 0..10 * REMEMBERED {
            rates.handle_load(&client(&format!("dev{n}")), load(1, 1), now);
            now += Duration::from_millis(2);
        }
        assert!(rates.clients.len() <= REMEMBERED + 500, "{}", rates.clients.len());
    }
}
