//! The peer with which the state of a stream was agreed.
//!
//! Cursors and epochs are valid only between the two sides that agreed on them. A device with a new name, or
//! with another hub, starts from the beginning there, and what it carried before is no loss. So a hub has an
//! identity, a random value in its Redis, which moves with its data.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest as _, Sha256};

use crate::client_id::ClientId;

/// The identity of a pair of client and hub: 128 bits of the SHA-256 over both names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartnerId(pub [u8; PartnerId::BYTES]);

/// The hub with which a device's state was agreed, under the device's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partner {
    /// The identity of the pair.
    pub id: PartnerId,
    /// The device's settings for it: its own name and the hub's URL.
    pub address: String,
}

/// Whether the peer is the one with which the state was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartnerMatch {
    /// It is the same peer, or the state does not say.
    Same,
    /// It has the same address, but has lost all its data.
    Wiped,
    /// It is another peer.
    Other,
    /// The peer's cursor was agreed with another hub, so it says nothing about this one's entries.
    OtherCursor,
}

impl PartnerId {
    /// Its length in bytes.
    pub const BYTES: usize = 16;
    /// The identity of a peer that sent none.
    pub const UNKNOWN: Self = Self([0; Self::BYTES]);

    /// Returns the identity of this client at the hub of this identity.
    pub fn new(hub: &str, client: &ClientId) -> Self {
        let digest = Sha256::digest(format!("{hub} {client}"));
        let mut id = [0; Self::BYTES];
        id.copy_from_slice(&digest[..Self::BYTES]);
        Self(id)
    }

    /// Returns whether the identity is known.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }

    /// Parses the text that `Display` writes; none for any other text.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut id = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut id).ok()?;
        Some(Self(id))
    }
}

impl Serialize for PartnerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PartnerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(text.as_bytes())
            .ok_or_else(|| D::Error::custom("invalid partner: expected 32 hex digits"))
    }
}

impl fmt::Display for PartnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl PartnerMatch {
    /// Compares, at a device, the recorded peer with the one that the hub sent. A hub that sent none counts as
    /// the same.
    pub fn at_device(recorded: Option<&Partner>, received: &Partner) -> Self {
        match recorded {
            Some(known) if known.id != received.id && received.id.is_known() => {
                if known.address == received.address { Self::Wiped } else { Self::Other }
            }
            _ => Self::Same,
        }
    }

    /// Compares, at a hub, its own identity with the one that the device's cursor was agreed with.
    pub fn at_hub(received: PartnerId, own: PartnerId) -> Self {
        if received.is_known() && received != own { Self::OtherCursor } else { Self::Same }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_or_hub_is_another_partner_and_a_wiped_hub_is_not() {
        let client = |name: &str| name.parse::<ClientId>().unwrap();
        let partner = |hub: &str, name: &str, url: &str| Partner {
            id: PartnerId::new(hub, &client(name)),
            address: format!("{name} {url}"),
        };
        let known = partner("a", "dev1", "https://a");
        let match_of = |peer: &Partner| PartnerMatch::at_device(Some(&known), peer);
        assert_eq!(match_of(&known), PartnerMatch::Same);
        assert_eq!(match_of(&partner("a", "dev1", "https://a.example")), PartnerMatch::Same);
        assert_eq!(match_of(&partner("b", "dev1", "https://a")), PartnerMatch::Wiped);
        assert_eq!(match_of(&partner("b", "dev1", "https://b")), PartnerMatch::Other);
        assert_eq!(match_of(&partner("a", "dev2", "https://a")), PartnerMatch::Other);
        assert_eq!(
            match_of(&Partner { id: PartnerId::UNKNOWN, address: String::new() }),
            PartnerMatch::Same
        );
        assert_eq!(PartnerMatch::at_device(None, &known), PartnerMatch::Same);
        assert_eq!(PartnerMatch::at_hub(known.id, known.id), PartnerMatch::Same);
        assert_eq!(PartnerMatch::at_hub(PartnerId::UNKNOWN, known.id), PartnerMatch::Same);
        assert_eq!(
            PartnerMatch::at_hub(partner("b", "dev1", "").id, known.id),
            PartnerMatch::OtherCursor
        );
        assert_eq!(PartnerId::from_hex(known.id.to_string().as_bytes()), Some(known.id));
    }
}
