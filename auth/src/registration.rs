//! Who may register: pure. What is stored, what was sent and the time go in; what to do comes out.
//!
//! Whatever the reason for a refusal, one bcrypt run comes before it and one answer after it.

use secrecy::{ExposeSecret, SecretString};
use spoke_protocol::client_id::ClientId;

use crate::{
    device_secret::DeviceSecret,
    store::{Attempt, Counted},
    totp::{OtpSecret, Passcode, Proof, matching_step, proven_step},
};

/// What a device registers with.
#[derive(Debug)]
pub enum Evidence {
    /// Six digits, for people and other programs.
    Code(Passcode),
    /// What an agent sends.
    Proof(Proof),
}

/// A device's wish to register.
#[derive(Debug)]
pub struct Offer {
    /// Who it says to be.
    pub client: ClientId,
    /// The secret it wants to be known by.
    pub secret: DeviceSecret,
    /// What shows that it may.
    pub evidence: Evidence,
}

/// What to do about a registration.
#[derive(Debug)]
pub enum Plan {
    /// Hash the secret and register it; the store has the last word.
    Register {
        /// What the code was checked with.
        otp_secret: SecretString,
        /// The step the code belongs to.
        step: u64,
    },
    /// The client is registered, and until its window closes the same registration may be repeated:
    /// succeed if this is the secret behind the hash, else refuse.
    Compare {
        /// The stored hash.
        secret_hash: SecretString,
        /// How the code counts if the secret differs.
        guess: Guess,
    },
    /// Hash something, then refuse.
    Refuse {
        /// How the code counts.
        guess: Guess,
    },
}

/// Whether a refused code counts as a guess. Devices that all hold the right code, and of which all
/// but one come too late, are not guessing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    /// The code is wrong.
    Wrong,
    /// The code is right, and refused for another reason.
    Right,
}

impl Plan {
    /// Whether the code or proof is right, which a stranger's never is.
    pub fn guess(&self) -> Guess {
        match self {
            Self::Register { .. } => Guess::Right,
            Self::Compare { guess, .. } | Self::Refuse { guess } => *guess,
        }
    }
}

/// Decides what to do with this offer to a client of whom `attempt` tells.
pub fn plan(attempt: &Attempt, offer: &Offer, now_ms: u64) -> Plan {
    let Some(record) = &attempt.record else { return Plan::Refuse { guess: Guess::Wrong } };
    let step = matching_step_of(attempt, offer, now_ms);
    let guess = if step.is_some() { Guess::Right } else { Guess::Wrong };
    if record.is_disabled {
        return Plan::Refuse { guess };
    }
    if let Some(secret_hash) = &record.secret_hash {
        let is_open = record.reg_window_ms.is_some_and(|until| now_ms < until);
        return if is_open {
            Plan::Compare { secret_hash: secret_hash.clone(), guess }
        } else {
            Plan::Refuse { guess }
        };
    }
    let is_in_time = record.reg_deadline_ms.is_some_and(|until| now_ms < until);
    let is_new = |step: u64| record.otp_step.is_none_or(|last| step > last);
    match (step, &record.otp_secret) {
        (Some(step), Some(otp_secret)) if is_in_time && is_new(step) => {
            Plan::Register { otp_secret: otp_secret.clone(), step }
        }
        _ => Plan::Refuse { guess },
    }
}

/// A code is not looked at while codes are locked: so many were looked at before.
fn matching_step_of(attempt: &Attempt, offer: &Offer, now_ms: u64) -> Option<u64> {
    let otp_secret = attempt.record.as_ref()?.otp_secret.as_ref()?;
    let otp_secret: OtpSecret = otp_secret.expose_secret().parse().ok()?;
    let now_seconds = now_ms / 1000;
    match &offer.evidence {
        Evidence::Code(_) if attempt.counted == Counted::Locked => None,
        Evidence::Code(code) => matching_step(&otp_secret, code, now_seconds),
        Evidence::Proof(proof) => {
            let of = (&offer.client, offer.secret.text());
            proven_step(&otp_secret, proof, of, now_seconds)
        }
    }
}

#[cfg(test)]
mod tests {
    use spoke_protocol::registration_proof::registration_proof;

    use super::*;
    use crate::store::ClientRecord;

    const SECRET: &str = "a-secret-of-32-bytes-as-devices-";
    const OTP_SECRET: &str = "GRZWE3CLNBBTK2LMIRFEM6CCI5WEQR3P";
    const NOW_MS: u64 = 1_700_000_000_000;
    const STEP: u64 = NOW_MS / 30_000;

    fn waiting() -> ClientRecord {
        ClientRecord {
            otp_secret: Some(OTP_SECRET.into()),
            reg_deadline_ms: Some(NOW_MS + 1),
            ..ClientRecord::default()
        }
    }

    fn registered() -> ClientRecord {
        ClientRecord {
            reg_deadline_ms: None,
            secret_hash: Some("$2b$…".into()),
            registered_at_ms: Some(NOW_MS - 1),
            otp_step: Some(STEP),
            reg_window_ms: Some(NOW_MS + 1),
            ..waiting()
        }
    }

    fn code_of(step: u64) -> Passcode {
        OTP_SECRET.parse::<OtpSecret>().unwrap().code_of(step)
    }

    fn offer(evidence: Evidence) -> Offer {
        let secret = DeviceSecret::new(SECRET.into()).unwrap();
        Offer { client: "dev1".parse().unwrap(), secret, evidence }
    }

    fn plan_for(record: ClientRecord, code: &Passcode) -> String {
        let attempt = Attempt { record: Some(record), counted: Counted::Not };
        match plan(&attempt, &offer(Evidence::Code(code.clone())), NOW_MS) {
            Plan::Register { step, .. } => format!("register {}", step.abs_diff(STEP)),
            Plan::Compare { guess, .. } => format!("compare {guess:?}"),
            Plan::Refuse { guess } => format!("refuse {guess:?}"),
        }
    }

    #[test]
    fn each_state_of_a_client_has_its_plan() {
        let right = code_of(STEP);
        let wrong = code_of(STEP + 1000);
        let table = [
            ("in time", waiting(), &right, "register 0"),
            ("in time, wrong code", waiting(), &wrong, "refuse Wrong"),
            (
                "at the deadline",
                ClientRecord { reg_deadline_ms: Some(NOW_MS), ..waiting() },
                &right,
                "refuse Right",
            ),
            (
                "no deadline",
                ClientRecord { reg_deadline_ms: None, ..waiting() },
                &right,
                "refuse Right",
            ),
            (
                "code used before",
                ClientRecord { otp_step: Some(STEP), ..waiting() },
                &right,
                "refuse Right",
            ),
            (
                "an older code used before",
                ClientRecord { otp_step: Some(STEP - 1), ..waiting() },
                &right,
                "register 0",
            ),
            ("revoked", ClientRecord { is_disabled: true, ..waiting() }, &right, "refuse Right"),
            (
                "no OTP secret",
                ClientRecord { otp_secret: None, ..waiting() },
                &right,
                "refuse Wrong",
            ),
            (
                "OTP secret is not base32",
                ClientRecord { otp_secret: Some("0189".into()), ..waiting() },
                &right,
                "refuse Wrong",
            ),
            ("repeated", registered(), &right, "compare Right"),
            ("repeated with an old code", registered(), &wrong, "compare Wrong"),
            (
                "repeated when the window is closed",
                ClientRecord { reg_window_ms: Some(NOW_MS), ..registered() },
                &right,
                "refuse Right",
            ),
            (
                "registered by hand",
                ClientRecord { reg_window_ms: None, ..registered() },
                &right,
                "refuse Right",
            ),
            (
                "registered and revoked",
                ClientRecord { is_disabled: true, ..registered() },
                &right,
                "refuse Right",
            ),
        ];
        for (name, record, code, expected) in table {
            assert_eq!(plan_for(record, code), expected, "{name}");
        }
    }

    #[test]
    fn an_unknown_client_counts_as_a_wrong_guess() {
        let unknown = Attempt { record: None, counted: Counted::Not };
        let plan = plan(&unknown, &offer(Evidence::Code(code_of(STEP))), NOW_MS);
        assert!(matches!(plan, Plan::Refuse { guess: Guess::Wrong }));
    }

    #[test]
    fn a_proof_registers_while_codes_are_locked_and_a_code_is_not_even_looked_at() {
        let key = totp_rs::Secret::Encoded(OTP_SECRET.into()).to_bytes().unwrap();
        let proof = |client: &str, secret: &str| {
            let proof = registration_proof(&key, &client.parse().unwrap(), STEP, &secret.into());
            Evidence::Proof(proof.expose_secret().parse().unwrap())
        };
        let locked = Attempt { record: Some(waiting()), counted: Counted::Locked };
        let guess = |evidence| plan(&locked, &offer(evidence), NOW_MS).guess();
        assert_eq!(guess(Evidence::Code(code_of(STEP))), Guess::Wrong);
        assert_eq!(guess(proof("dev1", SECRET)), Guess::Right);
        assert_eq!(guess(proof("dev2", SECRET)), Guess::Wrong);
        assert_eq!(guess(proof("dev1", "another-secret-of-some-length")), Guess::Wrong);
    }
}
