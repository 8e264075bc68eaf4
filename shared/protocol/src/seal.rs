//! The seal on a cursor: it shows an origin that a cursor is one that it caused itself.
//!
//! A copy tells where its cursor stands, and an origin takes all up to there for kept. But whoever has a
//! client's token can move that cursor. So each batch bears a seal over where it ends, made with a key
//! that never leaves the origin's own Redis; the copy keeps it beside the cursor and tells it in the
//! handshake. A cursor that bears no such seal was moved by somebody else, and acknowledges nothing.
//! Each life of a stream has a key of its own.

use std::fmt;

use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::Sha256;

use super::loss::Tally;
use crate::seq::{Epoch, Seq};

/// What an origin seals the cursors of one life of its stream with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealKey([u8; SealKey::BYTES]);

/// The first 128 bits of the HMAC-SHA-256 over epoch, seq and tally.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seal(pub [u8; Seal::BYTES]);

impl SealKey {
    const BYTES: usize = 16;

    /// A key of these random bytes.
    pub fn new(random: [u8; Self::BYTES]) -> Self {
        Self(random)
    }

    /// From the text that `to_hex` makes; none for anything else.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut key = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut key).ok()?;
        Some(Self(key))
    }

    /// As it stands in the state hash.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// The seal on a cursor that stands there.
    pub fn seal(&self, epoch: Epoch, seq: Seq, tally: Tally) -> Seal {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length will do");
        mac.update(format!("{epoch}:{seq}:{tally}").as_bytes());
        let mut seal = [0; Seal::BYTES];
        seal.copy_from_slice(&mac.finalize().into_bytes()[..Seal::BYTES]);
        Seal(seal)
    }
}

/// A key is shown to nobody.
impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

impl Seal {
    /// Its length in bytes.
    pub const BYTES: usize = 16;

    /// From the text that `Display` makes; none for anything else.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut seal = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut seal).ok()?;
        Some(Self(seal))
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Seal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(text.as_bytes()).ok_or_else(|| D::Error::custom("a seal is 32 hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_one_key_and_one_cursor_only() {
        let key = SealKey::new([7; 16]);
        let tally = Tally { added: 5, ..Tally::ZERO };
        let seal = key.seal(Epoch(1), Seq::new(5, 0), tally);
        assert_eq!(key.seal(Epoch(1), Seq::new(5, 0), tally), seal);
        assert_eq!(Seal::from_hex(seal.to_string().as_bytes()), Some(seal));
        for other in [
            SealKey::new([8; 16]).seal(Epoch(1), Seq::new(5, 0), tally),
            key.seal(Epoch(2), Seq::new(5, 0), tally),
            key.seal(Epoch(1), Seq::new(5, 1), tally),
            key.seal(Epoch(1), Seq::new(5, 0), Tally { added: 6, ..tally }),
        ] {
            assert_ne!(other, seal);
        }
        assert_eq!(SealKey::from_hex(key.to_hex().as_bytes()), Some(key));
        assert_eq!((SealKey::from_hex(b"07"), Seal::from_hex(b"zz")), (None, None));
        assert_eq!(format!("{key:?}"), "SealKey");
    }
}
