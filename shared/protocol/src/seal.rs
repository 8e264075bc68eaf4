//! The seal on a cursor, which proves to an origin that one of its own batches moved the cursor.
//!
//! A copy sends its cursor in the handshake, and the origin takes everything up to it for stored. But any
//! party with the client's token can move that cursor. So each batch has a seal over its end, made with a key
//! that never leaves the origin's own Redis. The copy keeps the seal beside the cursor and returns it in the
//! handshake. A cursor without a valid seal was moved by another party, and acknowledges nothing. Each epoch of
//! a stream has its own key.

use std::fmt;

use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::Sha256;

use crate::{
    hex_text::write_hex,
    loss::Tally,
    seq::{Epoch, Seq},
};

/// The key that seals the cursors of one epoch. `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealKey([u8; SealKey::BYTES]);

/// A seal: the first 128 bits of the HMAC-SHA-256 over epoch, seq and tally.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seal(pub [u8; Seal::BYTES]);

impl SealKey {
    const BYTES: usize = 16;

    /// Creates a key of random bytes.
    pub fn new(random: [u8; Self::BYTES]) -> Self {
        Self(random)
    }

    /// Parses the text of [`Self::to_hex`]; none for any other text.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut key = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut key).ok()?;
        Some(Self(key))
    }

    /// Returns the text for the state hash.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Returns the seal on this cursor.
    pub fn seal(&self, epoch: Epoch, seq: Seq, tally: Tally) -> Seal {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(format!("{epoch}:{seq}:{tally}").as_bytes());
        let mut seal = [0; Seal::BYTES];
        seal.copy_from_slice(&mac.finalize().into_bytes()[..Seal::BYTES]);
        Seal(seal)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

impl Seal {
    /// Its length in bytes.
    pub const BYTES: usize = 16;

    /// Parses the text that `Display` writes; none for any other text.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut seal = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut seal).ok()?;
        Some(Self(seal))
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
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
        Self::from_hex(text.as_bytes())
            .ok_or_else(|| D::Error::custom("invalid seal: expected 32 hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_valid_for_one_key_and_one_cursor_only() {
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
