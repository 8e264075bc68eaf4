//! A device's own secret.

use secrecy::{ExposeSecret, SecretString};
use spoke_protocol::limits::SECRET_BYTES;
use spoke_store::session_tokens::digest;
use subtle::ConstantTimeEq;

/// A secret of a form that can be hashed: 24 to 72 bytes, none of them NUL.
#[derive(Clone, Debug)]
pub struct DeviceSecret(SecretString);

/// Why a text is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Too easily guessed, or longer than bcrypt reads.
    #[error("a secret has {} to {} bytes", SECRET_BYTES.0, SECRET_BYTES.1)]
    Length,
    /// bcrypt repeats its input with a NUL between, so secrets that hold one can be taken for others.
    #[error("a secret has no NUL byte")]
    Nul,
}

impl DeviceSecret {
    /// Hexadecimal digits of a tag.
    pub const TAG_DIGITS: usize = 4;

    /// Checks what a device sent.
    ///
    /// # Errors
    /// `BadSecret` says what is wrong, never with what.
    pub fn new(text: SecretString) -> Result<Self, BadSecret> {
        let bytes = text.expose_secret().as_bytes();
        if !(SECRET_BYTES.0..=SECRET_BYTES.1).contains(&bytes.len()) {
            return Err(BadSecret::Length);
        }
        if bytes.contains(&0) {
            return Err(BadSecret::Nul);
        }
        Ok(Self(text))
    }

    /// The secret as the device sent it.
    pub fn text(&self) -> &SecretString {
        &self.0
    }

    /// Tells most other secrets from this one without a bcrypt run: 16 bits of its digest, of at least
    /// 192 that nobody can guess.
    pub fn tag(&self) -> String {
        let mut tag = digest(self.0.expose_secret());
        tag.truncate(Self::TAG_DIGITS);
        tag
    }

    /// Whether both are the same, in a time that depends on their lengths only.
    pub fn is_same(&self, other: &Self) -> bool {
        let [one, other] = [self, other].map(|secret| secret.0.expose_secret().as_bytes());
        one.ct_eq(other).into()
    }

    /// What is hashed when nothing depends on it.
    pub(super) fn stand_in() -> Self {
        Self("a stand-in, as long as most are!".into())
    }

    pub(super) fn hash(&self, cost: u32) -> bcrypt::BcryptResult<String> {
        let text = self.0.expose_secret();
        if text.len() < SECRET_BYTES.1 {
            bcrypt::non_truncating_hash(text, cost)
        } else {
            // The non-truncating call wants a NUL behind the secret and so takes 71 bytes at most.
            // All 72 are read here, and a longer one never comes this far.
            bcrypt::hash(text, cost)
        }
    }

    pub(super) fn is_behind(&self, hash: &str) -> bcrypt::BcryptResult<bool> {
        let text = self.0.expose_secret();
        if text.len() < SECRET_BYTES.1 {
            bcrypt::non_truncating_verify(text, hash)
        } else {
            bcrypt::verify(text, hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_24_to_72_bytes_and_no_nul() {
        for (bytes, is_good) in [(23, false), (24, true), (72, true), (73, false)] {
            let made = DeviceSecret::new("s".repeat(bytes).into());
            assert_eq!(made.is_ok(), is_good, "{bytes} bytes");
        }
        let with_nul = DeviceSecret::new(format!("{}\0{}", "a".repeat(20), "b".repeat(20)).into());
        assert_eq!(with_nul.unwrap_err(), BadSecret::Nul);
        // Bytes count, not characters.
        assert!(DeviceSecret::new("é".repeat(12).into()).is_ok());
        assert!(DeviceSecret::new("é".repeat(37).into()).is_err());
    }
}
