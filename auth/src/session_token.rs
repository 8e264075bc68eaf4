//! [`SessionToken`]: 256 random bits, handed out once and stored nowhere.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRngCore, rngs::OsRng};
use secrecy::{ExposeSecret, SecretString};
use spoke_store::session_tokens;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// A session token. Its holder acts as the client.
#[derive(Clone, Debug)]
pub(crate) struct SessionToken(SecretString);

impl SessionToken {
    /// Generates a token from the operating system's random source.
    ///
    /// # Errors
    /// [`OsError`](rand::rand_core::OsError) if that source fails.
    pub(crate) fn generate() -> Result<Self, rand::rand_core::OsError> {
        let mut bytes = [0; TOKEN_BYTES];
        OsRng.try_fill_bytes(&mut bytes)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes).into()))
    }

    /// Parses the token that a device sent. Only the store knows whether it is live.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_token = URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == TOKEN_BYTES);
        is_token.then(|| Self(text.into()))
    }

    /// Returns the token in plain text, for the response that hands it out.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns the token as a secret.
    pub(crate) fn secret(&self) -> &SecretString {
        &self.0
    }

    /// Returns the digest that the store keeps.
    pub(crate) fn digest(&self) -> String {
        session_tokens::digest(self.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_unique_and_has_256_bits_in_header_safe_characters() {
        let (one, two) = (SessionToken::generate().unwrap(), SessionToken::generate().unwrap());
        assert_eq!(one.expose().len(), 43);
        assert!(one.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
        assert_ne!(one.expose(), two.expose());
        assert_ne!(one.digest(), two.digest());
        assert_eq!(SessionToken::parse(one.expose()).unwrap().digest(), one.digest());
    }

    #[test]
    fn a_malformed_token_is_refused() {
        let token = SessionToken::generate().unwrap();
        let (short, long) = (&token.expose()[1..], format!("{}A", token.expose()));
        for bad in
            ["", short, &long, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
        {
            assert!(SessionToken::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = SessionToken::generate().unwrap();
        assert!(!format!("{token:?}").contains(token.expose()));
    }
}
