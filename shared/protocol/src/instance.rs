//! [`InstanceId`]: the process of a client, by which two devices with one identity are told apart.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// 64 random bits that a process draws when it starts, and keeps in memory only. A process that reconnects has
/// the same; a restarted process and another device have another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InstanceId(pub u64);

/// A text that is not an instance ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid instance: expected 16 hex digits in lower case")]
pub struct BadInstanceId;

impl InstanceId {
    /// The instance ID of a peer that sent none.
    pub const UNKNOWN: Self = Self(0);

    /// Returns whether the instance is known.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }
}

impl FromStr for InstanceId {
    type Err = BadInstanceId;

    fn from_str(text: &str) -> Result<Self, BadInstanceId> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return Err(BadInstanceId);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| BadInstanceId)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Serialised as text, since not every reader of JSON keeps numbers of 64 bits.
impl Serialize for InstanceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_id_round_trips_through_its_text_and_other_text_is_refused() {
        for instance in [InstanceId(1), InstanceId(u64::MAX), InstanceId::UNKNOWN] {
            assert_eq!(instance.to_string().parse(), Ok(instance));
        }
        for bad in ["", "1", "+000000000000001", "000000000000000G", "00000000000000001"] {
            assert_eq!(bad.parse::<InstanceId>(), Err(BadInstanceId), "{bad:?}");
        }
    }
}
