//! How long something is valid, as people write it: `7d`, `12h`, `1h 30m`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A second to ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidFor(Duration);

/// The text is no such time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a time between 1s and 10years, such as 12h or 7d")]
pub struct BadValidFor;

const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

impl ValidFor {
    /// A week: time for a parcel to arrive.
    pub const WEEK: Self = Self(Duration::from_secs(7 * 24 * 60 * 60));

    /// The moment it ends if it begins at `now_ms`; both in ms since 1970.
    pub fn deadline_ms(self, now_ms: u64) -> u64 {
        now_ms.saturating_add(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX))
    }
}

impl FromStr for ValidFor {
    type Err = BadValidFor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let duration = humantime::parse_duration(text).map_err(|_| BadValidFor)?;
        let is_sane = (Duration::from_secs(1)..=LONGEST).contains(&duration);
        is_sane.then_some(Self(duration)).ok_or(BadValidFor)
    }
}

impl fmt::Display for ValidFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&humantime::format_duration(self.0), f)
    }
}

impl Serialize for ValidFor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ValidFor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_taken_as_people_write_it_within_reason() {
        assert_eq!("7d".parse(), Ok(ValidFor::WEEK));
        assert_eq!("1h 30m".parse::<ValidFor>().unwrap().deadline_ms(1000), 5_401_000);
        for bad in ["", "0s", "999ms", "7", "-1d", "soon", "11years", "99999999999999999999y"] {
            assert_eq!(bad.parse::<ValidFor>(), Err(BadValidFor), "{bad:?}");
        }
    }

    #[test]
    fn a_time_survives_its_text() {
        for text in ["7d", "90s", "1y 2M 3d", "10years"] {
            let valid: ValidFor = text.parse().unwrap();
            assert_eq!(valid.to_string().parse(), Ok(valid));
        }
    }
}
