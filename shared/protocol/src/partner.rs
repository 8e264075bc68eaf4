//! Whom the state of a stream was agreed with.
//!
//! Cursors and epochs mean something only between the two that agreed on them: a device that has got
//! another name, or goes to another hub, begins anew there, and what it carried before is no loss. So a
//! hub has an identity, a random value in its Redis, which goes where its data goes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest as _, Sha256};

use crate::client_id::ClientId;

/// What one client is to one hub: 128 bits of the SHA-256 over both names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartnerId(pub [u8; PartnerId::BYTES]);

/// Whom a device's state was agreed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partner {
    /// By identity.
    pub id: PartnerId,
    /// By the device's settings: its own name and the hub's URL.
    pub address: String,
}

/// How the other side stands to what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartnerMatch {
    /// The state is of this one, or does not say of whom it is.
    Same,
    /// It is where the one was that the state is of, and has lost all that it had.
    Wiped,
    /// It is another one than what is remembered was agreed with.
    Other,
    /// What it remembers was agreed with another one: nobody knows what of this side's it has.
    OtherCursor,
}

impl PartnerId {
    /// Its length in bytes.
    pub const BYTES: usize = 16;
    /// A side that does not say.
    pub const UNKNOWN: Self = Self([0; Self::BYTES]);

    /// Of this client at the hub of this identity.
    pub fn new(hub: &str, client: &ClientId) -> Self {
        let digest = Sha256::digest(format!("{hub} {client}"));
        let mut id = [0; Self::BYTES];
        id.copy_from_slice(&digest[..Self::BYTES]);
        Self(id)
    }

    /// Whether it says.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }

    /// From the text that `Display` makes; none for anything else.
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
        Self::from_hex(text.as_bytes()).ok_or_else(|| D::Error::custom("32 hex digits"))
    }
}

impl fmt::Display for PartnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl PartnerMatch {
    /// At a device, which remembers the one and is told the other. A hub that does not say is taken for
    /// the same.
    pub fn at_device(remembered: Option<&Partner>, told: &Partner) -> Self {
        match remembered {
            Some(known) if known.id != told.id && told.id.is_known() => {
                if known.address == told.address { Self::Wiped } else { Self::Other }
            }
            _ => Self::Same,
        }
    }

    /// At a hub, which is told whom the device's cursor was agreed with.
    pub fn at_hub(told: PartnerId, own: PartnerId) -> Self {
        if told.is_known() && told != own { Self::OtherCursor } else { Self::Same }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_and_another_hub_are_another_partner_and_a_hub_that_lost_all_is_not() {
        let client = |name: &str| name.parse::<ClientId>().unwrap();
        let partner = |hub: &str, name: &str, url: &str| Partner {
            id: PartnerId::new(hub, &client(name)),
            address: format!("{name} {url}"),
        };
        let known = partner("a", "dev1", "https://a");
        let met = |told: &Partner| PartnerMatch::at_device(Some(&known), told);
        assert_eq!(met(&known), PartnerMatch::Same);
        assert_eq!(met(&partner("a", "dev1", "https://a.example")), PartnerMatch::Same);
        assert_eq!(met(&partner("b", "dev1", "https://a")), PartnerMatch::Wiped);
        assert_eq!(met(&partner("b", "dev1", "https://b")), PartnerMatch::Other);
        assert_eq!(met(&partner("a", "dev2", "https://a")), PartnerMatch::Other);
        assert_eq!(
            met(&Partner { id: PartnerId::UNKNOWN, address: String::new() }),
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
