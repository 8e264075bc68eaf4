//! Decides whether a device may register. Pure: the stored client, the request and the time go in, a
//! [`RegistrationPlan`] comes out.
//!
//! Whatever the reason for a refusal, one bcrypt run comes before it and the response is the same.

use secrecy::{ExposeSecret, SecretString};
use spoke_protocol::ClientId;

use crate::{
    device_secret::DeviceSecret,
    store::{AttemptCount, RegistrationLookup},
    totp::{OtpSecret, Passcode, Proof, matching_step, proven_step},
};

/// The evidence that a device may register.
#[derive(Debug)]
pub(crate) enum RegistrationEvidence {
    /// A one-time code, typed by an operator or sent by another program.
    Code(Passcode),
    /// The proof that an agent sends.
    Proof(Proof),
}

/// A request to register.
#[derive(Debug)]
pub(crate) struct RegistrationRequest {
    /// The claimed client.
    pub(crate) client: ClientId,
    /// The secret to register.
    pub(crate) secret: DeviceSecret,
    /// The code or the proof.
    pub(crate) evidence: RegistrationEvidence,
}

/// The next step of a registration.
#[derive(Debug)]
pub(crate) enum RegistrationPlan {
    /// Hash the secret and register it; the store decides.
    Register {
        /// The OTP secret that the code was checked with.
        otp_secret: SecretString,
        /// The time step that the code belongs to.
        step: u64,
    },
    /// The client is registered, and the same registration may be repeated until its deadline: succeed if the secret
    /// matches the hash, else refuse.
    Compare {
        /// The stored hash.
        secret_hash: SecretString,
        /// How the code counts if the secret differs.
        code: CodeCheck,
    },
    /// Run bcrypt, then refuse.
    Refuse {
        /// How the code counts.
        code: CodeCheck,
    },
}

/// Whether a refused code counts as a guess. A right code does not: several devices may have the same one, and all
/// but one come too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeCheck {
    /// The code is wrong.
    Wrong,
    /// The code is right, and the registration is refused for another reason.
    Right,
}

impl RegistrationPlan {
    /// Returns whether the code or proof is right.
    pub(crate) fn code_check(&self) -> CodeCheck {
        match self {
            Self::Register { .. } => CodeCheck::Right,
            Self::Compare { code, .. } | Self::Refuse { code } => *code,
        }
    }
}

/// Decides the next step for this request to register the client of `lookup`.
pub(crate) fn plan(
    lookup: &RegistrationLookup,
    request: &RegistrationRequest,
    now_ms: u64,
) -> RegistrationPlan {
    let Some(record) = &lookup.record else {
        return RegistrationPlan::Refuse { code: CodeCheck::Wrong };
    };
    let step = find_step(lookup, request, now_ms);
    let code = if step.is_some() { CodeCheck::Right } else { CodeCheck::Wrong };
    if record.is_disabled {
        return RegistrationPlan::Refuse { code };
    }
    if let Some(secret_hash) = &record.secret_hash {
        let is_open = record.reg_window_ms.is_some_and(|until| now_ms < until);
        return if is_open {
            RegistrationPlan::Compare { secret_hash: secret_hash.clone(), code }
        } else {
            RegistrationPlan::Refuse { code }
        };
    }
    let is_in_time = record.reg_deadline_ms.is_some_and(|until| now_ms < until);
    let is_new = |step: u64| record.otp_step.is_none_or(|last| step > last);
    match (step, &record.otp_secret) {
        (Some(step), Some(otp_secret)) if is_in_time && is_new(step) => {
            RegistrationPlan::Register { otp_secret: otp_secret.clone(), step }
        }
        _ => RegistrationPlan::Refuse { code },
    }
}

/// Returns the time step of the code or proof. A code is not checked while the client's codes are locked.
fn find_step(
    lookup: &RegistrationLookup,
    request: &RegistrationRequest,
    now_ms: u64,
) -> Option<u64> {
    let otp_secret = lookup.record.as_ref()?.otp_secret.as_ref()?;
    let otp_secret: OtpSecret = otp_secret.expose_secret().parse().ok()?;
    let now_seconds = now_ms / 1000;
    match &request.evidence {
        RegistrationEvidence::Code(_) if lookup.count == AttemptCount::Locked => None,
        RegistrationEvidence::Code(code) => matching_step(&otp_secret, code, now_seconds),
        RegistrationEvidence::Proof(proof) => {
            let subject = (&request.client, request.secret.text());
            proven_step(&otp_secret, proof, subject, now_seconds)
        }
    }
}

#[cfg(test)]
mod tests {
    use spoke_protocol::registration_proof;

    use super::*;
    use crate::store::ClientRecord;

    const SECRET: &str = "a-secret-of-32-bytes-as-devices-";
    const OTP_SECRET: &str = "GRZWE3CLNBBTK2LMIRFEM6CCI5WEQR3P";
    const NOW_MS: u64 = 1_700_000_000_000;
    const STEP: u64 = NOW_MS / 30_000;

    fn provisioned() -> ClientRecord {
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
            ..provisioned()
        }
    }

    fn code_of(step: u64) -> Passcode {
        OTP_SECRET.parse::<OtpSecret>().unwrap().code_of(step)
    }

    fn request(evidence: RegistrationEvidence) -> RegistrationRequest {
        let secret = DeviceSecret::new(SECRET.into()).unwrap();
        RegistrationRequest { client: "dev1".parse().unwrap(), secret, evidence }
    }

    fn plan_for(record: ClientRecord, code: &Passcode) -> String {
        let lookup = RegistrationLookup { record: Some(record), count: AttemptCount::NotCounted };
        match plan(&lookup, &request(RegistrationEvidence::Code(code.clone())), NOW_MS) {
            RegistrationPlan::Register { step, .. } => format!("register {}", step.abs_diff(STEP)),
            RegistrationPlan::Compare { code, .. } => format!("compare {code:?}"),
            RegistrationPlan::Refuse { code } => format!("refuse {code:?}"),
        }
    }

    #[test]
    fn each_client_state_leads_to_the_expected_plan() {
        let right = code_of(STEP);
        let wrong = code_of(STEP + 1000);
        let table = [
            ("in time", provisioned(), &right, "register 0"),
            ("in time, wrong code", provisioned(), &wrong, "refuse Wrong"),
            (
                "at the deadline",
                ClientRecord { reg_deadline_ms: Some(NOW_MS), ..provisioned() },
                &right,
                "refuse Right",
            ),
            (
                "no deadline",
                ClientRecord { reg_deadline_ms: None, ..provisioned() },
                &right,
                "refuse Right",
            ),
            (
                "code used before",
                ClientRecord { otp_step: Some(STEP), ..provisioned() },
                &right,
                "refuse Right",
            ),
            (
                "an older code used before",
                ClientRecord { otp_step: Some(STEP - 1), ..provisioned() },
                &right,
                "register 0",
            ),
            (
                "revoked",
                ClientRecord { is_disabled: true, ..provisioned() },
                &right,
                "refuse Right",
            ),
            (
                "no OTP secret",
                ClientRecord { otp_secret: None, ..provisioned() },
                &right,
                "refuse Wrong",
            ),
            (
                "OTP secret is not base32",
                ClientRecord { otp_secret: Some("0189".into()), ..provisioned() },
                &right,
                "refuse Wrong",
            ),
            ("repeated", registered(), &right, "compare Right"),
            ("repeated with an old code", registered(), &wrong, "compare Wrong"),
            (
                "repeated when the deadline has passed",
                ClientRecord { reg_window_ms: Some(NOW_MS), ..registered() },
                &right,
                "refuse Right",
            ),
            (
                "registered without a window to repeat it",
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
    fn an_unknown_client_counts_as_a_wrong_code() {
        let unknown = RegistrationLookup { record: None, count: AttemptCount::NotCounted };
        let plan = plan(&unknown, &request(RegistrationEvidence::Code(code_of(STEP))), NOW_MS);
        assert!(matches!(plan, RegistrationPlan::Refuse { code: CodeCheck::Wrong }));
    }

    #[test]
    fn while_codes_are_locked_a_proof_registers_and_a_code_is_not_checked() {
        let key = totp_rs::Secret::Encoded(OTP_SECRET.into()).to_bytes().unwrap();
        let proof = |client: &str, secret: &str| {
            let proof = registration_proof(&key, &client.parse().unwrap(), STEP, &secret.into());
            RegistrationEvidence::Proof(proof.expose_secret().parse().unwrap())
        };
        let locked =
            RegistrationLookup { record: Some(provisioned()), count: AttemptCount::Locked };
        let check = |evidence| plan(&locked, &request(evidence), NOW_MS).code_check();
        assert_eq!(check(RegistrationEvidence::Code(code_of(STEP))), CodeCheck::Wrong);
        assert_eq!(check(proof("dev1", SECRET)), CodeCheck::Right);
        assert_eq!(check(proof("dev2", SECRET)), CodeCheck::Wrong);
        assert_eq!(check(proof("dev1", "another-secret-of-some-length")), CodeCheck::Wrong);
    }
}
