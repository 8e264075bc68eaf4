//! [`TrafficBudget`] and [`UrgentField`]: the settings of the budget.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use spoke_protocol::{ByteSize, message::ReceiveLimits};

use super::period::BudgetPeriod;
use crate::limits::{BUDGET_BATCH_BYTES_MIN, BUDGET_BYTES_MIN, BUDGET_WINDOW_BATCHES};

/// A number of bytes for each period, written as `50MB/day`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrafficBudget {
    pub(crate) bytes: u64,
    pub(crate) period: BudgetPeriod,
}

/// A text that is not a budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid budget {0:?}: expected bytes for each minute, hour, day or month, such as 50MB/day, and \
     at least {least}",
    least = ByteSize(BUDGET_BYTES_MIN)
)]
pub struct BadTrafficBudget(String);

/// The field and value that make an entry urgent, written as `level=alarm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UrgentField {
    pub(crate) field: String,
    pub(crate) value: String,
}

/// A text that is not a field with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid field {0:?}: expected the name and the value of a field, such as level=alarm")]
pub struct BadUrgentField(String);

impl TrafficBudget {
    /// Limits what is in flight to a small part of the budget: it is lost to the budget if the link
    /// is closed before its acknowledgement.
    pub(crate) fn limited(&self, granted: ReceiveLimits) -> ReceiveLimits {
        let batch_bytes = usize::try_from(self.bytes / 200).unwrap_or(usize::MAX);
        ReceiveLimits {
            batch_bytes: granted.batch_bytes.min(batch_bytes.max(BUDGET_BATCH_BYTES_MIN)),
            window_batches: granted.window_batches.min(BUDGET_WINDOW_BATCHES),
            ..granted
        }
    }
}

impl FromStr for TrafficBudget {
    type Err = BadTrafficBudget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let budget = text.split_once('/').and_then(|(bytes, period)| {
            let ByteSize(bytes) = bytes.trim().parse().ok()?;
            Some(Self { bytes, period: BudgetPeriod::from_word(period.trim())? })
        });
        budget
            .filter(|budget| budget.bytes >= BUDGET_BYTES_MIN)
            .ok_or_else(|| BadTrafficBudget(text.to_owned()))
    }
}

impl fmt::Display for TrafficBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", ByteSize(self.bytes), self.period.word())
    }
}

impl TryFrom<String> for TrafficBudget {
    type Error = BadTrafficBudget;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TrafficBudget> for String {
    fn from(budget: TrafficBudget) -> Self {
        budget.to_string()
    }
}

impl FromStr for UrgentField {
    type Err = BadUrgentField;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((field, value)) if !field.is_empty() => {
                Ok(Self { field: field.to_owned(), value: value.to_owned() })
            }
            _ => Err(BadUrgentField(text.to_owned())),
        }
    }
}

impl fmt::Display for UrgentField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.field, self.value)
    }
}

impl TryFrom<String> for UrgentField {
    type Error = BadUrgentField;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<UrgentField> for String {
    fn from(urgent: UrgentField) -> Self {
        urgent.to_string()
    }
}

/// Reads a setting that is unset if it is empty.
pub(crate) fn empty_is_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_bytes_for_each_calendar_period() {
        let budget: TrafficBudget = "50MB/day".parse().unwrap();
        assert_eq!(budget, TrafficBudget { bytes: 50_000_000, period: BudgetPeriod::Day });
        assert_eq!(budget.to_string(), "50MB/day");
        assert_eq!(
            " 2 GB / month ".trim().parse::<TrafficBudget>().unwrap().to_string(),
            "2GB/month"
        );
        for text in ["", "50MB", "50MB/week", "50/day", "1kB/day", "0MB/day", "50MB/day/day"] {
            assert!(text.parse::<TrafficBudget>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_urgent_field_has_a_name_and_any_value() {
        let urgent: UrgentField = "level=a=b".parse().unwrap();
        assert_eq!((urgent.field.as_str(), urgent.value.as_str()), ("level", "a=b"));
        assert_eq!("level=".parse::<UrgentField>().unwrap().value, "");
        for text in ["", "level", "=alarm"] {
            assert!(text.parse::<UrgentField>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_small_part_of_the_budget_is_in_flight() {
        let in_flight = |budget: &str| {
            let limits = budget.parse::<TrafficBudget>().unwrap().limited(ReceiveLimits::default());
            limits.window_batches * limits.batch_bytes
        };
        assert_eq!(in_flight("50MB/day"), 1_000_000);
        assert_eq!(in_flight("200kB/minute"), 4 * BUDGET_BATCH_BYTES_MIN);
        let default = ReceiveLimits::default();
        assert_eq!(in_flight("10GB/month"), BUDGET_WINDOW_BATCHES * default.batch_bytes);
    }
}
