//! Session tokens: 256 random bits, handed out once and kept nowhere.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRngCore, rngs::OsRng};
use secrecy::{ExposeSecret, SecretString};
use spoke_store::session_tokens;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// A session token. Whoever holds it is the client.
#[derive(Clone, Debug)]
pub struct SessionToken(SecretString);

impl SessionToken {
    /// A new one, from the operating system's random source.
    ///
    /// # Errors
    /// What that source says when it has nothing to give.
    pub fn generate() -> Result<Self, rand::rand_core::OsError> {
        let mut bytes = [0; TOKEN_BYTES];
        OsRng.try_fill_bytes(&mut bytes)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes).into()))
    }

    /// What a device sent, if it has the form of a token; whether it is a live one, the store knows.
    pub fn parse(text: &str) -> Option<Self> {
        let is_token = URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == TOKEN_BYTES);
        is_token.then(|| Self(text.into()))
    }

    /// The token itself, for the answer that hands it out.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The token, guarded.
    pub fn secret(&self) -> &SecretString {
        &self.0
    }

    /// What the store knows it by.
    pub fn digest(&self) -> String {
        session_tokens::digest(self.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_256_bits_fit_for_a_header_and_never_the_same_twice() {
        let (one, two) = (SessionToken::generate().unwrap(), SessionToken::generate().unwrap());
        assert_eq!(one.expose().len(), 43);
        assert!(one.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
        assert_ne!(one.expose(), two.expose());
        assert_ne!(one.digest(), two.digest());
        assert_eq!(SessionToken::parse(one.expose()).unwrap().digest(), one.digest());
    }

    #[test]
    fn what_has_not_the_form_of_a_token_is_none() {
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
