//! [`ByteSize`]: a number of bytes as people write it, such as `50MB` or `256KiB`.

use std::{fmt, str::FromStr};

/// The units, the largest first. A unit without `i` is decimal, as network plans and disks count.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1024 * 1024 * 1024),
    ("GB", 1_000_000_000),
    ("MiB", 1024 * 1024),
    ("MB", 1_000_000),
    ("KiB", 1024),
    ("kB", 1000),
    ("B", 1),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A text that is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid size {0:?}: expected a whole number and a unit, such as 50MB or 256KiB")]
pub struct BadByteSize(String);

impl FromStr for ByteSize {
    type Err = BadByteSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()));
        let bytes = number.parse().ok().zip(unit);
        let bytes = bytes.and_then(|(number, (_, unit)): (u64, _)| number.checked_mul(*unit));
        bytes.map(Self).ok_or_else(|| BadByteSize(text.to_owned()))
    }
}

/// Writes the largest unit that divides it, so that it parses to the same number.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |unit: u64| self.0 > 0 && self.0.is_multiple_of(unit);
        let unit = UNITS.iter().find(|(_, unit)| divides(*unit));
        let (name, unit) = unit.unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_whole_number_with_a_decimal_or_binary_unit() {
        for (text, bytes) in [
            ("50MB", 50_000_000),
            ("0B", 0),
            ("1 GiB", 1 << 30),
            ("256KiB", 1 << 18),
            ("7kb", 7000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "5", "MB", "5.5MB", "-1B", "5 M", "5MB/s", "99999999999999GB", "5MBé"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_written_size_parses_to_the_same_number() {
        for (bytes, text) in
            [(0, "0B"), (1_000_000, "1MB"), (1024, "1KiB"), (1001, "1001B"), (3 << 20, "3MiB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        }
    }
}
