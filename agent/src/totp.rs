//! The time-based proof of a registration, computed from the one-time secret.

use std::{fmt, str::FromStr};

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use spoke_protocol::{ClientId, registration_proof};
use totp_rs::Secret;

/// Seconds of one step.
pub(crate) const STEP_SECONDS: u64 = 30;
const SECRET_BYTES_MIN: usize = 10;

/// The one-time secret that `spoke-auth provision` printed.
#[derive(Clone)]
pub(crate) struct OneTimeSecret(SecretSlice<u8>);

/// The text is not a one-time secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid one-time secret: expected base32 text of at least 16 characters, as `spoke-auth \
     provision` prints it"
)]
pub(crate) struct BadOneTimeSecret;

impl OneTimeSecret {
    /// Returns the proof at this time, in milliseconds since 1970, that lets `client` register
    /// `secret`.
    pub(crate) fn proof_at(
        &self,
        now_ms: u64,
        client: &ClientId,
        secret: &SecretString,
    ) -> SecretString {
        registration_proof(self.0.expose_secret(), client, step_at(now_ms), secret)
    }
}

impl FromStr for OneTimeSecret {
    type Err = BadOneTimeSecret;

    /// Accepts either case, spaces and dashes between groups, and padding.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.trim().chars().filter(|c| !matches!(c, ' ' | '-' | '='));
        let plain = Secret::Encoded(plain.collect::<String>().to_ascii_uppercase());
        let bytes = plain.to_bytes().map_err(|_| BadOneTimeSecret)?;
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(BadOneTimeSecret);
        }
        Ok(Self(bytes.into()))
    }
}

impl fmt::Debug for OneTimeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneTimeSecret(…)")
    }
}

/// Returns the clock step of a time. Proofs are the same within a step.
pub(crate) fn step_at(now_ms: u64) -> u64 {
    now_ms / 1000 / STEP_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof_at(secret: &OneTimeSecret, now_ms: u64) -> String {
        let proof = secret.proof_at(now_ms, &"dev1".parse().unwrap(), &"the device's own".into());
        proof.expose_secret().to_owned()
    }

    #[test]
    fn a_proof_is_the_same_within_a_step_and_changes_in_the_next() {
        let secret: OneTimeSecret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ".parse().unwrap();
        assert_eq!(proof_at(&secret, 30_000), proof_at(&secret, 59_999));
        assert_ne!(proof_at(&secret, 59_999), proof_at(&secret, 60_000));
    }

    #[test]
    fn a_secret_may_have_spaces_hyphens_and_padding_and_a_weak_one_is_refused() {
        let plain: OneTimeSecret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ".parse().unwrap();
        for text in
            ["gezd gnbv gy3t qojq-gezdgnbvgy3tqojq====", " GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n"]
        {
            let same = text.parse::<OneTimeSecret>().unwrap();
            assert_eq!(proof_at(&same, 0), proof_at(&plain, 0));
        }
        for bad in ["", "GEZDGNBV", "1GEZDGNBVGY3TQOJ", "not base32!"] {
            assert_eq!(bad.parse::<OneTimeSecret>().unwrap_err(), BadOneTimeSecret, "{bad:?}");
        }
        assert_eq!(format!("{plain:?}"), "OneTimeSecret(…)");
    }
}
