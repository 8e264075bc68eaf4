//! The proof with which an agent registers: an HMAC keyed by the client's OTP secret, over its name, the
//! time step and the new secret.
//!
//! Unlike six digits it cannot be guessed, and it is useless for another client, step or secret. The message is
//! text, so that any language can make it in a line. Its first line keeps it apart from any other use of the
//! key. TOTP uses the same key with SHA-1, which is another function.

use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::client_id::ClientId;

/// The first line of the message.
const DOMAIN: &str = "spoke-register-1";

/// Returns the proof as 64 hexadecimal digits. `key` is the OTP secret, decoded from base32.
pub fn registration_proof(
    key: &[u8],
    client: &ClientId,
    step: u64,
    secret: &SecretString,
) -> SecretString {
    let secret_hash = hex::encode(Sha256::digest(secret.expose_secret().as_bytes()));
    let message = format!("{DOMAIN}\n{client}\n{step}\n{secret_hash}");
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message.as_bytes());
    hex::encode(mac.finalize().into_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(key: &[u8], client: &str, step: u64, secret: &str) -> String {
        let proof = registration_proof(key, &client.parse().unwrap(), step, &secret.into());
        proof.expose_secret().to_owned()
    }

    /// Computed with `openssl dgst -sha256 -mac HMAC`, as in docs/protocol.md.
    #[test]
    fn a_proof_matches_the_one_that_openssl_computes() {
        assert_eq!(
            proof(b"12345678901234567890", "dev1", 56_666_666, "a-secret-of-32-bytes-as-devices-"),
            "d845e90dedda2dd8ffc1ef0c7e9b91db354255d605bbda98d8e1f6f2f5d80e77"
        );
    }

    #[test]
    fn a_proof_is_valid_for_one_key_client_step_and_secret_only() {
        let own = proof(b"key", "dev1", 7, "secret");
        let others = [
            proof(b"kez", "dev1", 7, "secret"),
            proof(b"key", "dev2", 7, "secret"),
            proof(b"key", "dev1", 8, "secret"),
            proof(b"key", "dev1", 7, "secret2"),
        ];
        assert!(others.iter().all(|other| *other != own));
        assert_eq!(own, proof(b"key", "dev1", 7, "secret"));
    }
}
