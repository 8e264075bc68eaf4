//! [`DeviceSecret`]: the secret that a device logs in with.

use secrecy::{ExposeSecret, SecretString};
use spoke_protocol::limits::SECRET_BYTES;
use spoke_store::session_tokens::digest;
use subtle::ConstantTimeEq;

/// A secret that bcrypt can hash: 24 to 72 bytes, none of them NUL.
#[derive(Clone, Debug)]
pub(crate) struct DeviceSecret(SecretString);

/// The text is not a valid secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSecret {
    /// Too short to be safe, or longer than bcrypt reads.
    #[error("invalid secret: expected {} to {} bytes", SECRET_BYTES.0, SECRET_BYTES.1)]
    Length,
    /// bcrypt repeats its input with a NUL between, so a secret with a NUL can match another one.
    #[error("invalid secret: expected no NUL byte")]
    Nul,
}

impl DeviceSecret {
    /// Hexadecimal digits of a tag.
    pub(crate) const TAG_DIGITS: usize = 4;

    /// Checks the text that a device sent.
    ///
    /// # Errors
    /// [`BadSecret`], which never holds the text.
    pub(crate) fn new(text: SecretString) -> Result<Self, BadSecret> {
        let bytes = text.expose_secret().as_bytes();
        if !(SECRET_BYTES.0..=SECRET_BYTES.1).contains(&bytes.len()) {
            return Err(BadSecret::Length);
        }
        if bytes.contains(&0) {
            return Err(BadSecret::Nul);
        }
        Ok(Self(text))
    }

    /// Returns the text that the device sent.
    pub(crate) fn text(&self) -> &SecretString {
        &self.0
    }

    /// Returns 16 bits of the secret's digest, which tell it from most others without a bcrypt run. The secret has at
    /// least 192 bits that cannot be guessed.
    pub(crate) fn tag(&self) -> String {
        let mut tag = digest(self.0.expose_secret());
        tag.truncate(Self::TAG_DIGITS);
        tag
    }

    /// Compares two secrets in a time that depends on their lengths only.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let [one, other] = [self, other].map(|secret| secret.0.expose_secret().as_bytes());
        one.ct_eq(other).into()
    }

    /// Returns the secret that is hashed where the result does not matter.
    pub(super) fn stand_in() -> Self {
        Self("a stand-in, as long as most are!".into())
    }

    pub(super) fn hash(&self, cost: u32) -> bcrypt::BcryptResult<String> {
        let text = self.0.expose_secret();
        if text.len() < SECRET_BYTES.1 {
            bcrypt::non_truncating_hash(text, cost)
        } else {
            // The non-truncating call appends a NUL and so takes 71 bytes at most. `bcrypt::hash` reads all 72,
            // and `new` refuses longer ones.
            bcrypt::hash(text, cost)
        }
    }

    pub(super) fn verify(&self, hash: &str) -> bcrypt::BcryptResult<bool> {
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
        for (bytes, is_valid) in [(23, false), (24, true), (72, true), (73, false)] {
            let secret = DeviceSecret::new("s".repeat(bytes).into());
            assert_eq!(secret.is_ok(), is_valid, "{bytes} bytes");
        }
        let with_nul = DeviceSecret::new(format!("{}\0{}", "a".repeat(20), "b".repeat(20)).into());
        assert_eq!(with_nul.unwrap_err(), BadSecret::Nul);
        // Bytes count, not characters.
        assert!(DeviceSecret::new("é".repeat(12).into()).is_ok());
        assert!(DeviceSecret::new("é".repeat(37).into()).is_err());
    }
}
