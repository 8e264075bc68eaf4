//! The one-time code that a device registers with, made from its one-time secret and a clock.

use std::{fmt, str::FromStr};

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use totp_rs::{Algorithm, Secret, TOTP};

/// Seconds of one step.
pub const STEP_SECONDS: u64 = 30;
const DIGITS: usize = 6;
const SECRET_BYTES_MIN: usize = 10;

/// The one-time secret that an operator gave out, as `spoke-auth provision` prints it.
#[derive(Clone)]
pub struct OneTimeSecret(SecretSlice<u8>);

/// The text is no one-time secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a one-time secret is base32 text of at least 16 characters, as `spoke-auth provision` prints it"
)]
pub struct BadOneTimeSecret;

impl OneTimeSecret {
    /// The code at this time, in milliseconds since 1970.
    pub fn code_at(&self, now_ms: u64) -> SecretString {
        let secret = self.0.expose_secret().to_vec();
        let totp = TOTP::new_unchecked(
            Algorithm::SHA1,
            DIGITS,
            0,
            STEP_SECONDS,
            secret,
            None,
            String::new(),
        );
        totp.generate(now_ms / 1000).into()
    }
}

impl FromStr for OneTimeSecret {
    type Err = BadOneTimeSecret;

    /// Takes what people paste: either case, spaces and dashes between groups, padding.
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

/// Which step of the clock a time belongs to: within one, codes are the same.
pub fn step_at(now_ms: u64) -> u64 {
    now_ms / 1000 / STEP_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_rfc_6238() {
        let secret: OneTimeSecret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ".parse().unwrap();
        for (seconds, code) in
            [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")]
        {
            assert_eq!(secret.code_at(seconds * 1000).expose_secret(), code);
        }
    }

    #[test]
    fn a_secret_is_taken_as_people_paste_it_and_never_weak() {
        let plain: OneTimeSecret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ".parse().unwrap();
        for text in
            ["gezd gnbv gy3t qojq-gezdgnbvgy3tqojq====", " GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\n"]
        {
            let same = text.parse::<OneTimeSecret>().unwrap();
            assert_eq!(same.code_at(0).expose_secret(), plain.code_at(0).expose_secret());
        }
        for bad in ["", "GEZDGNBV", "1GEZDGNBVGY3TQOJ", "not base32!"] {
            assert_eq!(bad.parse::<OneTimeSecret>().unwrap_err(), BadOneTimeSecret, "{bad:?}");
        }
        assert_eq!(format!("{plain:?}"), "OneTimeSecret(…)");
    }
}
