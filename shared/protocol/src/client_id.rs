//! [`ClientId`]: the name of a device, validated where it enters a process.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::CLIENT_NAME_BYTES_MAX;

/// A client's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`. Cheap to clone, safe as a part of a Redis key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Arc<str>);

/// A text that is not a client name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid client name: expected 1 to 64 characters of A-Z a-z 0-9 . _ -, beginning with a letter \
     or digit"
)]
pub struct BadClientId;

impl ClientId {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientId {
    type Err = BadClientId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let starts_well = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        if starts_well && bytes.len() <= CLIENT_NAME_BYTES_MAX && bytes.iter().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(BadClientId)
        }
    }
}

impl TryFrom<&str> for ClientId {
    type Error = BadClientId;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({})", self.0)
    }
}

impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_form_is_a_client_id() {
        let longest = format!("a{}", "b".repeat(63));
        for good in ["a", "dev1", "0", "A.b_c-d", longest.as_str()] {
            assert_eq!(good.parse::<ClientId>().unwrap().as_str(), good);
        }
        let too_long = format!("a{}", "b".repeat(64));
        for bad in ["", ".a", "-a", "_a", "a b", "a:x", "a{b}", "a/b", "é", "a\0", "a\n", &too_long]
        {
            assert_eq!(bad.parse::<ClientId>(), Err(BadClientId), "{bad:?}");
        }
    }
}
