//! The one-time code, or the proof, that lets a device register, and the time step that it belongs to.
//!
//! TOTP (RFC 6238) as every authenticator implements it: SHA-1, 6 digits, 30 s. One step before and after is
//! accepted, so a device's clock may be half a minute off. The store accepts each step once only, since only the
//! store can decide that for all processes.

use std::{fmt, str::FromStr};

use rand::{TryRngCore, rngs::OsRng};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use spoke_protocol::{ClientId, registration_proof};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use totp_rs::{Algorithm, Secret, TOTP};

/// Seconds of one step.
const STEP_SECONDS: u64 = 30;
/// Digits of a code.
const DIGITS: usize = 6;
/// Digits of a proof: 256 bits.
const PROOF_DIGITS: usize = 64;
/// Steps before and after the current one whose codes are accepted.
const STEPS_SKEW: u64 = 1;
/// Bytes of a generated secret, as RFC 4226 recommends.
const SECRET_BYTES: usize = 20;
/// Minimum of bytes of a secret: 80 bits, as common authenticators use.
const SECRET_BYTES_MIN: usize = 10;

/// A one-time code: six digits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Passcode(String);

/// The text is not a one-time code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid one-time code: expected 6 digits")]
pub(crate) struct BadPasscode;

impl FromStr for Passcode {
    type Err = BadPasscode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_code = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        is_code.then(|| Self(text.to_owned())).ok_or(BadPasscode)
    }
}

/// The proof that an agent sends: 64 hexadecimal digits ([`spoke_protocol::registration_proof`]).
#[derive(Clone)]
pub(crate) struct Proof(String);

/// The text is not a proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid proof: expected 64 hexadecimal digits, in lower case")]
pub(crate) struct BadProof;

impl FromStr for Proof {
    type Err = BadProof;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_proof = text.len() == PROOF_DIGITS && text.bytes().all(is_digit);
        is_proof.then(|| Self(text.to_owned())).ok_or(BadProof)
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(…)")
    }
}

impl fmt::Debug for Passcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passcode(…)")
    }
}

/// The secret that codes are made from.
#[derive(Clone)]
pub(crate) struct OtpSecret(SecretSlice<u8>);

/// The text is not an OTP secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid OTP secret: expected base32 text of at least 16 characters")]
pub(crate) struct BadOtpSecret;

impl OtpSecret {
    /// Generates a secret from the operating system's random source.
    ///
    /// # Errors
    /// [`OsError`](rand::rand_core::OsError) if that source fails.
    pub(crate) fn generate() -> Result<Self, rand::rand_core::OsError> {
        let mut bytes = vec![0; SECRET_BYTES];
        OsRng.try_fill_bytes(&mut bytes)?;
        Ok(Self(bytes.into()))
    }

    /// Returns the secret in base32, as operators type it and the store keeps it.
    pub(crate) fn to_base32(&self) -> SecretString {
        self.totp(String::new()).get_secret_base32().into()
    }

    /// Returns the `otpauth://` URL for an authenticator.
    pub(crate) fn to_url(&self, account: &str) -> SecretString {
        self.totp(account.to_owned()).get_url().into()
    }

    /// Returns the code of a step.
    pub(crate) fn code_of(&self, step: u64) -> Passcode {
        Passcode(self.totp(String::new()).generate(step.saturating_mul(STEP_SECONDS)))
    }

    fn totp(&self, account: String) -> TOTP {
        let secret = self.0.expose_secret().to_vec();
        let issuer = Some("Spoke".to_owned());
        TOTP::new_unchecked(
            Algorithm::SHA1,
            DIGITS,
            STEPS_SKEW as u8,
            STEP_SECONDS,
            secret,
            issuer,
            account,
        )
    }
}

impl FromStr for OtpSecret {
    type Err = BadOtpSecret;

    /// Accepts either case, spaces and dashes between groups, and padding.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.chars().filter(|c| !matches!(c, ' ' | '-' | '='));
        let plain = Secret::Encoded(plain.collect::<String>().to_ascii_uppercase());
        let bytes = plain.to_bytes().map_err(|_| BadOtpSecret)?;
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(BadOtpSecret);
        }
        Ok(Self(bytes.into()))
    }
}

impl fmt::Debug for OtpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OtpSecret(…)")
    }
}

/// Returns the step that `code` belongs to, if it is the current one or next to it. Of two steps with the same
/// code it is the later.
pub(crate) fn matching_step(secret: &OtpSecret, code: &Passcode, now_seconds: u64) -> Option<u64> {
    let is_of = |step| secret.code_of(step).0.as_bytes().ct_eq(code.0.as_bytes());
    step_where(is_of, now_seconds)
}

/// Returns the step that `proof` belongs to, if it is the current one or next to it.
pub(crate) fn proven_step(
    key: &OtpSecret,
    proof: &Proof,
    (client, secret): (&ClientId, &SecretString),
    now_seconds: u64,
) -> Option<u64> {
    let is_of = |step| {
        let own = registration_proof(key.0.expose_secret(), client, step, secret);
        own.expose_secret().as_bytes().ct_eq(proof.0.as_bytes())
    };
    step_where(is_of, now_seconds)
}

/// Compares all steps in full, so that the time taken reveals nothing.
fn step_where(is_of: impl Fn(u64) -> Choice, now_seconds: u64) -> Option<u64> {
    let current = now_seconds / STEP_SECONDS;
    let first = current.saturating_sub(STEPS_SKEW);
    let (mut found, mut step_found) = (Choice::from(0), 0u64);
    for step in first..=current + STEPS_SKEW {
        let is_equal = is_of(step);
        step_found.conditional_assign(&step, is_equal);
        found |= is_equal;
    }
    bool::from(found).then_some(step_found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The seed of RFC 6238, appendix B.
    const RFC_SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    fn rfc_secret() -> OtpSecret {
        RFC_SECRET.parse().unwrap()
    }

    #[test]
    fn codes_match_rfc_6238() {
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_234_567_890, "005924"),
            (20_000_000_000, "353130"),
        ] {
            let code: Passcode = code.parse().unwrap();
            assert_eq!(rfc_secret().code_of(seconds / STEP_SECONDS), code, "{seconds}");
            let step = matching_step(&rfc_secret(), &code, seconds);
            assert_eq!(step, Some(seconds / STEP_SECONDS), "{seconds}");
        }
    }

    #[test]
    fn a_code_is_accepted_one_step_early_or_late_and_no_more() {
        let step = 1_111_111_109 / STEP_SECONDS;
        let code = rfc_secret().code_of(step);
        let step_found_at = |now| matching_step(&rfc_secret(), &code, now);
        let (start, end) = (step * STEP_SECONDS, (step + 1) * STEP_SECONDS - 1);
        assert_eq!(step_found_at(start - STEP_SECONDS), Some(step));
        assert_eq!(step_found_at(end + STEP_SECONDS), Some(step));
        assert_eq!(step_found_at(start - STEP_SECONDS - 1), None);
        assert_eq!(step_found_at(end + STEP_SECONDS + 1), None);
    }

    #[test]
    fn a_proof_is_accepted_one_step_early_or_late_for_its_client_and_secret_only() {
        let (client, secret): (ClientId, _) = ("dev1".parse().unwrap(), SecretString::from("own"));
        let key = b"12345678901234567890";
        let step = 1_111_111_109 / STEP_SECONDS;
        let proof = registration_proof(key, &client, step, &secret);
        let proof: Proof = proof.expose_secret().parse().unwrap();
        let step_found = |client: &str, secret: &str, step: u64| {
            let of = (&client.parse().unwrap(), &SecretString::from(secret));
            proven_step(&rfc_secret(), &proof, of, step * STEP_SECONDS)
        };
        for near in [step - 1, step, step + 1] {
            assert_eq!(step_found("dev1", "own", near), Some(step));
        }
        assert_eq!(step_found("dev1", "own", step - 2), None);
        assert_eq!(step_found("dev1", "own", step + 2), None);
        assert_eq!(step_found("dev2", "own", step), None);
        assert_eq!(step_found("dev1", "own2", step), None);
    }

    #[test]
    fn only_64_lowercase_hex_digits_are_a_proof() {
        let digits = "0123456789abcdef".repeat(4);
        assert!(digits.parse::<Proof>().is_ok());
        for bad in
            [&digits[1..], &format!("{digits}0"), &digits.to_uppercase(), "", &" ".repeat(64)]
        {
            assert!(bad.parse::<Proof>().is_err(), "{bad:?}");
        }
        assert_eq!(format!("{:?}", digits.parse::<Proof>().unwrap()), "Proof(…)");
    }

    #[test]
    fn the_first_steps_of_1970_do_not_underflow() {
        assert_eq!(matching_step(&rfc_secret(), &rfc_secret().code_of(0), 0), Some(0));
    }

    #[test]
    fn only_six_digits_are_a_code() {
        assert!("000000".parse::<Passcode>().is_ok());
        for bad in ["", "12345", "1234567", "12345a", " 12345", "١٢٣", "+12345"] {
            assert_eq!(bad.parse::<Passcode>(), Err(BadPasscode), "{bad:?}");
        }
    }

    #[test]
    fn a_secret_may_have_spaces_hyphens_and_padding_and_a_weak_one_is_refused() {
        let code = rfc_secret().code_of(1);
        for text in ["gezdgnbvgy3tqojqgezdgnbvgy3tqojq", "GEZD GNBV GY3T QOJQ-GEZDGNBVGY3TQOJQ===="]
        {
            assert_eq!(text.parse::<OtpSecret>().unwrap().code_of(1), code);
        }
        for bad in ["", "GEZDGNBV", "GEZDGNBVGY3TQOJ1", "not base32!"] {
            assert_eq!(bad.parse::<OtpSecret>().unwrap_err(), BadOtpSecret, "{bad:?}");
        }
    }

    #[test]
    fn a_new_secret_has_160_bits_and_round_trips_through_its_text() {
        let secret = OtpSecret::generate().unwrap();
        let text = secret.to_base32();
        assert_eq!(text.expose_secret().len(), 32);
        let again: OtpSecret = text.expose_secret().parse().unwrap();
        assert_eq!(again.code_of(7), secret.code_of(7));
        assert_eq!(
            secret.to_url("dev1").expose_secret(),
            format!("otpauth://totp/Spoke:dev1?secret={}&issuer=Spoke", text.expose_secret())
        );
    }

    #[test]
    fn neither_code_nor_secret_is_ever_printed() {
        let text = format!("{:?} {:?}", rfc_secret(), rfc_secret().code_of(1));
        assert_eq!(text, "OtpSecret(…) Passcode(…)");
    }

    proptest! {
        #[test]
        fn a_code_is_valid_only_within_one_step_of_its_own(
            step in 2u64..100_000_000, late in -4i64..=4
        ) {
            let code = rfc_secret().code_of(step);
            let now = step.saturating_add_signed(late) * STEP_SECONDS + 7;
            let found = matching_step(&rfc_secret(), &code, now);
            // A neighbour may have the same code by chance, one time in a million.
            let is_near = late.abs() <= 1;
            prop_assert!(found.is_some() == is_near || found.is_some_and(|f| f != step));
        }
    }
}
