//! [`Seq`] and [`Epoch`]: the place of an entry in its origin stream, and the epoch of that stream.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::SEQ_AHEAD_MAX;

/// A Redis stream ID, `ms-n`, with two halves of 64 bits. Ordered as in Redis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Seq {
    /// Milliseconds since 1970, by the clock of the origin's Redis.
    pub ms: u64,
    /// The number within that millisecond.
    pub n: u64,
}

/// A text that is not a seq.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid seq: expected two whole numbers of at most 64 bits joined by a dash, such as \
     1700000000000-0"
)]
pub struct BadSeq;

impl Seq {
    /// Before every entry: `0-0`, which Redis never generates.
    pub const ZERO: Self = Self { ms: 0, n: 0 };
    /// The greatest ID.
    pub const MAX: Self = Self { ms: u64::MAX, n: u64::MAX };

    /// Creates a seq of its two halves.
    pub const fn new(ms: u64, n: u64) -> Self {
        Self { ms, n }
    }

    /// Parses the bytes of a Redis reply.
    ///
    /// # Errors
    /// [`BadSeq`] if it is not the canonical form: both halves, without sign or leading zero, of 64 bits.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSeq> {
        let dash = bytes.iter().position(|&b| b == b'-').ok_or(BadSeq)?;
        let n = bytes.get(dash + 1..).ok_or(BadSeq)?;
        Ok(Self { ms: half(&bytes[..dash])?, n: half(n)? })
    }

    /// Returns the greatest seq that a hub accepts at this time.
    pub fn ceiling(now_ms: u64) -> Self {
        Self { ms: now_ms.saturating_add(SEQ_AHEAD_MAX.as_millis() as u64), n: u64::MAX }
    }

    /// Returns whether this is `0-0`.
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Returns the next seq; saturates at [`Self::MAX`].
    #[must_use]
    pub fn after(self) -> Self {
        match self.n.checked_add(1) {
            Some(n) => Self { ms: self.ms, n },
            None => self.ms.checked_add(1).map_or(Self::MAX, |ms| Self { ms, n: 0 }),
        }
    }

    /// Returns the seq before; saturates at [`Self::ZERO`].
    #[must_use]
    pub fn before(self) -> Self {
        match self.n.checked_sub(1) {
            Some(n) => Self { ms: self.ms, n },
            None => self.ms.checked_sub(1).map_or(Self::ZERO, |ms| Self { ms, n: u64::MAX }),
        }
    }
}

fn half(digits: &[u8]) -> Result<u64, BadSeq> {
    if digits.is_empty() || digits.len() > 20 || (digits.len() > 1 && digits[0] == b'0') {
        return Err(BadSeq);
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0')).ok_or(BadSeq)?;
        value.checked_mul(10).and_then(|tens| tens.checked_add(digit)).ok_or(BadSeq)
    })
}

impl FromStr for Seq {
    type Err = BadSeq;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.n)
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Seq {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seq {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The epoch of an origin stream: a small number, which grows when the stream is replaced or its Redis goes
/// back to an older state. At most [`Self::MAX`], which a number of Lua and of JSON holds exactly.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug, Serialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The stream has no epoch yet, or it is not known.
    pub const UNKNOWN: Self = Self(0);
    /// The first epoch of a stream.
    pub const FIRST: Self = Self(1);
    /// The greatest epoch. A hub accepts one epoch after the other, so it is unreachable in practice.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// Returns the next epoch; saturates at [`Self::MAX`].
    pub fn next(self) -> Self {
        Self(self.0 + 1).min(Self::MAX)
    }

    /// Returns whether the epoch is known.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let epoch = Self(u64::deserialize(deserializer)?);
        let message = "invalid epoch: expected a number of at most 9007199254740991";
        if epoch > Self::MAX { Err(serde::de::Error::custom(message)) } else { Ok(epoch) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_canonical_form_is_a_seq() {
        let most = "18446744073709551615-18446744073709551615";
        for good in ["0-0", "1-0", "0-1", "1700000000000000001-0", most] {
            assert_eq!(good.parse::<Seq>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "01-0",
            "1-00",
            "+1-0",
            "1-0-0",
            " 1-0",
            "1-0 ",
            "1.0-0",
            "*",
            "1-*",
            "$",
            "18446744073709551616-0",
            "0-18446744073709551616",
            "99999999999999999999999-0",
        ] {
            assert_eq!(bad.parse::<Seq>(), Err(BadSeq), "{bad:?}");
        }
    }

    #[test]
    fn the_neighbours_of_a_seq_cross_the_millisecond() {
        let (end, next) = (Seq::new(5, u64::MAX), Seq::new(6, 0));
        assert_eq!((end.after(), next.before()), (next, end));
        assert_eq!(
            (Seq::new(5, 1).after(), Seq::new(5, 1).before()),
            (Seq::new(5, 2), Seq::new(5, 0))
        );
        assert_eq!((Seq::MAX.after(), Seq::ZERO.before()), (Seq::MAX, Seq::ZERO));
    }

    #[test]
    fn seqs_beyond_53_bits_stay_distinct() {
        let a: Seq = "1700000000000000001-0".parse().unwrap();
        let b: Seq = "1700000000000000000-0".parse().unwrap();
        assert!(a > b);
    }

    proptest! {
        #[test]
        fn a_seq_round_trips_through_its_text_and_keeps_its_order(
            a in any::<(u64, u64)>(), b in any::<(u64, u64)>()
        ) {
            let (a, b) = (Seq::new(a.0, a.1), Seq::new(b.0, b.1));
            prop_assert_eq!(a.to_string().parse::<Seq>().unwrap(), a);
            prop_assert_eq!(a.cmp(&b), (a.ms, a.n).cmp(&(b.ms, b.n)));
        }
    }
}
