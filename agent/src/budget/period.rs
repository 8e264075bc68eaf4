//! [`BudgetPeriod`]: the periods of the calendar in UTC.

use serde::{Deserialize, Serialize};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// A period of the calendar in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BudgetPeriod {
    Minute,
    Hour,
    Day,
    Month,
}

impl BudgetPeriod {
    const ALL: [Self; 4] = [Self::Minute, Self::Hour, Self::Day, Self::Month];

    /// Returns its word in a setting.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.word() == word)
    }

    /// Returns the start and the end of the period at `now_ms`, in milliseconds since 1970.
    pub(super) fn around(self, now_ms: u64) -> (u64, u64) {
        let length = match self {
            Self::Minute => MINUTE_MS,
            Self::Hour => HOUR_MS,
            Self::Day => DAY_MS,
            Self::Month => return month_around(now_ms),
        };
        let start = now_ms / length * length;
        (start, start + length)
    }
}

fn month_around(now_ms: u64) -> (u64, u64) {
    let (year, month) = year_and_month(now_ms / DAY_MS);
    let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    (first_day(year, month) * DAY_MS, first_day(next.0, next.1) * DAY_MS)
}

/// Returns the year and the month (1 to 12) of a day since 1970, by the Gregorian calendar ("days
/// from civil" of Howard Hinnant, with years that begin in March).
fn year_and_month(day: u64) -> (u64, u64) {
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (400 * era + year + u64::from(month <= 2), month)
}

/// Returns the first day of a month, in days since 1970.
fn first_day(year: u64, month: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let (era, year) = (year / 400, year % 400);
    era * 146_097 + 365 * year + year / 4 - year / 100 + (153 * from_march + 2) / 5 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29T12:34:56.789Z
    const LEAP_DAY: u64 = 1_709_210_096_789;

    #[test]
    fn periods_are_those_of_the_calendar_in_utc() {
        for (period, start, end) in [
            (BudgetPeriod::Minute, 1_709_210_040_000, 1_709_210_100_000),
            (BudgetPeriod::Hour, 1_709_208_000_000, 1_709_211_600_000),
            (BudgetPeriod::Day, 1_709_164_800_000, 1_709_251_200_000),
            (BudgetPeriod::Month, 1_706_745_600_000, 1_709_251_200_000),
        ] {
            assert_eq!(period.around(LEAP_DAY), (start, end), "{period:?}");
            assert_eq!(period.around(start), (start, end), "the start belongs to it");
            assert_eq!(period.around(end).0, end, "the end does not");
        }
    }

    #[test]
    fn months_follow_each_other_without_a_gap_for_two_centuries() {
        let (mut at, mut lengths) = (0, [0; 32]);
        for _ in 0..12 * 200 {
            let (start, end) = month_around(at);
            assert_eq!(start, at);
            lengths[((end - start) / DAY_MS) as usize] += 1;
            at = end;
        }
        assert_eq!((lengths[28], lengths[29], lengths[30], lengths[31]), (151, 49, 800, 1400));
        assert_eq!(at / DAY_MS, first_day(2170, 1));
    }
}
