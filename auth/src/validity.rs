//! [`Validity`]: how long a registration is open, such as `7d`, `12h` or `1h 30m`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A duration of 1 s to 10 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity(Duration);

/// The text is not a valid duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration: expected 1s to 10years, such as 12h or 7d")]
pub struct BadValidity;

const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

impl Validity {
    /// A week: time for a device to be shipped.
    pub const WEEK: Self = Self(Duration::from_secs(7 * 24 * 60 * 60));

    /// Returns the deadline of a registration that opens at `now_ms`; both in milliseconds since 1970.
    pub fn deadline_ms(self, now_ms: u64) -> u64 {
        now_ms.saturating_add(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX))
    }
}

impl FromStr for Validity {
    type Err = BadValidity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let duration = humantime::parse_duration(text).map_err(|_| BadValidity)?;
        let is_sane = (Duration::from_secs(1)..=LONGEST).contains(&duration);
        is_sane.then_some(Self(duration)).ok_or(BadValidity)
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&humantime::format_duration(self.0), f)
    }
}

impl Serialize for Validity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Validity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_parsed_with_its_units_and_within_bounds() {
        assert_eq!("7d".parse(), Ok(Validity::WEEK));
        assert_eq!("1h 30m".parse::<Validity>().unwrap().deadline_ms(1000), 5_401_000);
        for bad in ["", "0s", "999ms", "7", "-1d", "soon", "11years", "99999999999999999999y"] {
            assert_eq!(bad.parse::<Validity>(), Err(BadValidity), "{bad:?}");
        }
    }

    #[test]
    fn a_duration_round_trips_through_its_text() {
        for text in ["7d", "90s", "1y 2M 3d", "10years"] {
            let valid: Validity = text.parse().unwrap();
            assert_eq!(valid.to_string().parse(), Ok(valid));
        }
    }
}
