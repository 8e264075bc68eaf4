//! [`EntryRate`]: how many entries and bytes a second a client may send.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    byte_size::ByteSize,
    limits::{
        BATCH_BYTES_MAX, BATCH_ENTRIES_GRANTED, BATCH_ENTRIES_GRANTED_BUSY, CONNECTIONS_FEW,
        RATE_BATCH_SPAN, RATE_BYTES_MIN,
    },
    message::ReceiveLimits,
};

/// A rate of entries and bytes, written as `200/s 1MB/s`, or `none` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryRate {
    /// Entries a second.
    pub entries: u64,
    /// Bytes of names and values a second, where a field counts as at least
    /// [`FIELD_BYTES_MIN`](crate::limits::FIELD_BYTES_MIN).
    pub bytes: u64,
}

/// A text that is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid rate {0:?}: expected entries and bytes a second such as \"200/s 1MB/s\", at least 1/s and \
     {least}, or none",
    least = ByteSize(RATE_BYTES_MIN)
)]
pub struct BadEntryRate(String);

impl EntryRate {
    /// No limit.
    pub const UNLIMITED: Self = Self { entries: u64::MAX, bytes: u64::MAX };

    /// Returns the time that these entries and bytes take at this rate.
    pub fn time(&self, entries: u64, bytes: u64) -> Duration {
        let of = |amount: u64, rate: u64| Duration::from_secs_f64(amount as f64 / rate as f64);
        of(entries, self.entries).max(of(bytes, self.bytes))
    }

    /// Returns the limits for the batches of a sender that has this rate, at a hub with this many connections. A batch
    /// takes at most [`RATE_BATCH_SPAN`], so that acknowledgements keep coming while the sender is slowed down.
    pub fn granted(&self, connections: usize) -> ReceiveLimits {
        let batch_entries = match connections <= CONNECTIONS_FEW {
            true => BATCH_ENTRIES_GRANTED,
            false => BATCH_ENTRIES_GRANTED_BUSY,
        };
        let span = RATE_BATCH_SPAN.as_secs();
        let part = |rate: u64, max: usize| rate.saturating_mul(span).min(max as u64) as usize;
        ReceiveLimits {
            batch_entries: part(self.entries, batch_entries),
            batch_bytes: part(self.bytes, BATCH_BYTES_MAX),
            ..ReceiveLimits::default()
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "none" {
            return Some(Self::UNLIMITED);
        }
        let parts = text.split([' ', ',']).filter(|part| !part.is_empty());
        let (mut entries, mut bytes) = (None, None);
        for part in parts {
            let amount = part.strip_suffix("/s")?;
            let is_repeated = match amount.parse() {
                Ok(count) => entries.replace(count).is_some(),
                Err(_) => bytes.replace(amount.parse::<ByteSize>().ok()?.0).is_some(),
            };
            if is_repeated {
                return None;
            }
        }
        let rate = Self { entries: entries?, bytes: bytes? };
        (rate.entries > 0 && rate.bytes >= RATE_BYTES_MIN).then_some(rate)
    }
}

impl FromStr for EntryRate {
    type Err = BadEntryRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.trim()).ok_or_else(|| BadEntryRate(text.to_owned()))
    }
}

impl fmt::Display for EntryRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UNLIMITED => f.write_str("none"),
            Self { entries, bytes } => write!(f, "{entries}/s {}/s", ByteSize(bytes)),
        }
    }
}

impl TryFrom<String> for EntryRate {
    type Error = BadEntryRate;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EntryRate> for String {
    fn from(rate: EntryRate) -> Self {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{
        ENTRY_FIELDS_MAX, ENTRY_VALUE_BYTES_MAX, FIELD_NAME_BYTES_MAX, PROGRESS_TIMEOUT,
    };

    #[test]
    fn a_rate_is_entries_and_bytes_a_second_in_either_order() {
        let rate = EntryRate { entries: 200, bytes: 1_000_000 };
        for text in ["200/s 1MB/s", "1MB/s, 200/s", " 200/s,1000kB/s "] {
            assert_eq!(text.parse(), Ok(rate), "{text}");
        }
        assert_eq!(rate.to_string(), "200/s 1MB/s");
        assert_eq!("none".parse(), Ok(EntryRate::UNLIMITED));
        assert_eq!(EntryRate::UNLIMITED.to_string(), "none");
        for text in ["", "200/s", "1MB/s", "200 1MB", "0/s 1MB/s", "200/s 1kB/s", "1/s 1MB/s 2/s"] {
            assert!(text.parse::<EntryRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_slower_of_entries_and_bytes_decides_how_long_a_batch_takes() {
        let rate = EntryRate { entries: 100, bytes: 1_000_000 };
        assert_eq!(rate.time(50, 1), Duration::from_millis(500));
        assert_eq!(rate.time(1, 2_000_000), Duration::from_secs(2));
        assert!(EntryRate::UNLIMITED.time(1000, 1 << 20) < Duration::from_nanos(2));
    }

    #[test]
    fn even_at_the_smallest_rate_acknowledgements_come_before_the_link_is_given_up() {
        let least = EntryRate { entries: 1, bytes: RATE_BYTES_MIN };
        let granted = least.granted(1);
        let of_batch = least.time(granted.batch_entries as u64, granted.batch_bytes as u64);
        assert_eq!(of_batch, RATE_BATCH_SPAN);
        assert!(of_batch * granted.window_batches as u32 <= PROGRESS_TIMEOUT);
        let largest = ENTRY_VALUE_BYTES_MAX + ENTRY_FIELDS_MAX * FIELD_NAME_BYTES_MAX;
        assert!(least.time(1, largest as u64) * 2 < PROGRESS_TIMEOUT);
    }

    #[test]
    fn a_hub_with_many_connections_grants_smaller_batches() {
        let granted = |connections| EntryRate::UNLIMITED.granted(connections);
        let most =
            ReceiveLimits { batch_entries: BATCH_ENTRIES_GRANTED, ..ReceiveLimits::default() };
        assert_eq!(granted(CONNECTIONS_FEW), most);
        let busy = ReceiveLimits { batch_entries: BATCH_ENTRIES_GRANTED_BUSY, ..most };
        assert_eq!(granted(CONNECTIONS_FEW + 1), busy);
    }
}
