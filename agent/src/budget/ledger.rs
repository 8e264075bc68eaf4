//! Counts the bytes of a period, as a pure function of time.
//!
//! The count is written down ahead of what is used, in steps of a hundredth of the budget: an agent
//! that is killed counts up to a step too much afterwards, and never too little.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use spoke_store::traffic_record::TrafficRecord;

use super::traffic::TrafficBudget;
use crate::limits::{BUDGET_RECORD_STEPS, BUDGET_RESERVE_PERCENT};

/// What the budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BudgetPhase {
    /// All entries.
    Open,
    /// Urgent entries, and what is before them.
    Reserve,
    /// Nothing until the period ends.
    Spent,
}

/// What is used of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BudgetUse {
    /// The budget.
    pub budget: TrafficBudget,
    /// Bytes used in this period.
    pub used: u64,
    /// The end of the period, in milliseconds since 1970.
    pub until_ms: u64,
    /// What it allows.
    pub state: BudgetPhase,
}

/// The count of this period.
pub(super) struct BudgetLedger {
    budget: TrafficBudget,
    has_reserve: bool,
    start_ms: u64,
    end_ms: u64,
    used: u64,
    /// The count that is written down; 0 for none.
    recorded: u64,
    /// Since when the clock is before the period.
    behind_since: Option<Instant>,
}

impl BudgetLedger {
    /// Continues the period that was written down, or begins one.
    pub(super) fn new(
        budget: TrafficBudget,
        has_reserve: bool,
        record: Option<TrafficRecord>,
        now_ms: u64,
    ) -> Self {
        let TrafficRecord { start_ms, used } =
            record.unwrap_or(TrafficRecord { start_ms: now_ms, used: 0 });
        let (start_ms, end_ms) = budget.period.around(start_ms);
        let (recorded, behind_since) = (used, None);
        Self { budget, has_reserve, start_ms, end_ms, used, recorded, behind_since }
    }

    /// Takes note of the time, and begins the next period if it is due.
    ///
    /// A clock that goes back does not begin another period: a device without a clock of its own
    /// begins in 1970 after each restart. A clock that was once far ahead does not stop the device
    /// for years: a period ends after its length at the latest.
    pub(super) fn handle_time(&mut self, now_ms: u64, now: Instant) {
        if now_ms < self.start_ms {
            let since = *self.behind_since.get_or_insert(now);
            let lasted_ms = now.duration_since(since).as_millis();
            if lasted_ms < u128::from(self.end_ms - self.start_ms) {
                return;
            }
        }
        self.behind_since = None;
        let (start_ms, end_ms) = self.budget.period.around(now_ms);
        if start_ms != self.start_ms {
            (self.start_ms, self.end_ms, self.used, self.recorded) = (start_ms, end_ms, 0, 0);
        }
    }

    /// Counts bytes.
    pub(super) fn handle_bytes(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
    }

    /// Returns what is used and what is allowed.
    pub(super) fn usage(&self) -> BudgetUse {
        let state = if self.used >= self.budget.bytes {
            BudgetPhase::Spent
        } else if self.used >= self.open_bytes() {
            BudgetPhase::Reserve
        } else {
            BudgetPhase::Open
        };
        BudgetUse { budget: self.budget, used: self.used, until_ms: self.end_ms, state }
    }

    /// Returns after how many more bytes to look again.
    pub(super) fn next_look(&self) -> u64 {
        let bounds = [self.open_bytes(), self.budget.bytes, self.recorded];
        let next = bounds.into_iter().filter(|bound| *bound > self.used).min();
        next.map_or(u64::MAX, |next| next - self.used)
    }

    /// Returns what to write down, if that is due.
    pub(super) fn record_due(&self) -> Option<TrafficRecord> {
        let step = (self.budget.bytes / BUDGET_RECORD_STEPS).max(1);
        let is_due = self.used > 0 && self.used + step / 2 > self.recorded;
        is_due.then(|| TrafficRecord { start_ms: self.start_ms, used: self.used + step })
    }

    /// Takes note that this was written down.
    pub(super) fn handle_recorded(&mut self, record: TrafficRecord) {
        if record.start_ms == self.start_ms {
            self.recorded = record.used;
        }
    }

    /// Returns what to write down when the agent ends.
    pub(super) fn last_record(&self) -> TrafficRecord {
        TrafficRecord { start_ms: self.start_ms, used: self.used }
    }

    /// Returns the part of the budget for all entries.
    fn open_bytes(&self) -> u64 {
        let percent = if self.has_reserve { BUDGET_RESERVE_PERCENT } else { 0 };
        self.budget.bytes - self.budget.bytes / 100 * percent
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    const NOON: u64 = 20_000 * DAY_MS + DAY_MS / 2;

    fn ledger(has_reserve: bool, record: Option<TrafficRecord>, now_ms: u64) -> BudgetLedger {
        let mut ledger =
            BudgetLedger::new("50MB/day".parse().unwrap(), has_reserve, record, now_ms);
        ledger.handle_time(now_ms, Instant::now());
        ledger
    }

    #[test]
    fn the_budget_is_open_then_reserved_then_spent_and_open_again_in_the_next_period() {
        let mut ledger = ledger(true, None, NOON);
        for (bytes, state) in [
            (47_499_999, BudgetPhase::Open),
            (1, BudgetPhase::Reserve),
            (2_499_999, BudgetPhase::Reserve),
            (1, BudgetPhase::Spent),
            (5, BudgetPhase::Spent),
        ] {
            ledger.handle_bytes(bytes);
            assert_eq!(ledger.usage().state, state, "{}", ledger.usage().used);
        }
        assert_eq!(ledger.usage().until_ms, 20_001 * DAY_MS);
        ledger.handle_time(20_001 * DAY_MS - 1, Instant::now());
        assert_eq!(ledger.usage().used, 50_000_005);
        ledger.handle_time(20_001 * DAY_MS, Instant::now());
        assert_eq!((ledger.usage().used, ledger.usage().state), (0, BudgetPhase::Open));
    }

    #[test]
    fn without_urgent_entries_there_is_no_reserve() {
        let mut ledger = ledger(false, None, NOON);
        ledger.handle_bytes(49_999_999);
        assert_eq!((ledger.usage().state, ledger.next_look()), (BudgetPhase::Open, 1));
        ledger.handle_bytes(1);
        assert_eq!(ledger.usage().state, BudgetPhase::Spent);
    }

    #[test]
    fn after_a_kill_at_any_byte_the_count_is_at_most_a_hundredth_too_high_and_never_too_low() {
        let mut live = ledger(true, None, NOON);
        let mut stored = None;
        for _ in 0..5000 {
            let bytes = live.next_look().min(10_007);
            live.handle_bytes(bytes);
            let restarted = ledger(true, stored, NOON).usage().used;
            if stored.is_some() {
                assert!(restarted >= live.usage().used);
                assert!(restarted <= live.usage().used + 500_000);
            }
            if let Some(record) = live.record_due() {
                live.handle_recorded(record);
                stored = Some(record);
            }
        }
        assert_eq!(ledger(true, Some(live.last_record()), NOON).usage(), live.usage());
    }

    #[test]
    fn the_count_of_an_earlier_period_is_not_continued() {
        let old = TrafficRecord { start_ms: NOON - DAY_MS, used: 50_000_000 };
        assert_eq!(ledger(true, Some(old), NOON).usage().state, BudgetPhase::Open);
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_further_budget_until_a_period_has_passed() {
        let record = TrafficRecord { start_ms: NOON, used: 50_000_000 };
        let begun = Instant::now();
        for (now_ms, restarted_at) in [(0, 0), (NOON - DAY_MS, NOON - DAY_MS)] {
            let mut ledger = ledger(true, Some(record), restarted_at);
            assert_eq!(ledger.usage().state, BudgetPhase::Spent);
            let day = Duration::from_millis(DAY_MS);
            ledger.handle_time(now_ms + DAY_MS / 4, begun + day / 4);
            assert_eq!(ledger.usage().state, BudgetPhase::Spent);
            ledger.handle_time(now_ms, begun + day + Duration::from_secs(60));
            assert_eq!(ledger.usage().state, BudgetPhase::Open);
        }
    }
}
