//! Who may register: pure. What is stored, what was sent and the time go in; what to do comes out.
//!
//! Whatever the reason for a refusal, one bcrypt run comes before it and one answer after it.

use secrecy::{ExposeSecret, SecretString};

use crate::{
    passcode::{OtpSecret, Passcode, matching_step},
    store::ClientRecord,
};

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

/// Decides what to do with this code for a client of whom `record` is known.
pub fn plan(record: Option<&ClientRecord>, code: &Passcode, now_ms: u64) -> Plan {
    let Some(record) = record else { return Plan::Refuse { guess: Guess::Wrong } };
    let step = matching_step_of(record, code, now_ms);
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

fn matching_step_of(record: &ClientRecord, code: &Passcode, now_ms: u64) -> Option<u64> {
    let otp_secret: OtpSecret = record.otp_secret.as_ref()?.expose_secret().parse().ok()?;
    matching_step(&otp_secret, code, now_ms / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn plan_for(record: ClientRecord, code: &Passcode) -> String {
        match plan(Some(&record), code, NOW_MS) {
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
        let plan = plan(None, &code_of(STEP), NOW_MS);
        assert!(matches!(plan, Plan::Refuse { guess: Guess::Wrong }));
    }
}
