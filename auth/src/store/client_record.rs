//! [`ClientRecord`]: the stored fields of a client, a hash that operators may also write by hand.

use redis::{FromRedisValue, ParsingError, Value};
use secrecy::SecretString;
use spoke_store::session_tokens::RATE_FIELD;

use crate::{
    device_secret::DeviceSecret,
    limits::{WRONG_CODES_ALL_MAX, WRONG_CODES_FEW, WRONG_CODES_MAX},
};

/// The fields of a client. Malformed fields count as missing, so that the client is refused.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientRecord {
    /// The OTP secret, in base32.
    pub(crate) otp_secret: Option<SecretString>,
    /// The deadline for the registration, in milliseconds since 1970; `None` once it has registered.
    pub(crate) reg_deadline_ms: Option<u64>,
    /// The bcrypt hash of the device's secret, once registered.
    pub(crate) secret_hash: Option<SecretString>,
    /// The hash of its next secret, until it has logged in with that.
    pub(crate) next_hash: Option<SecretString>,
    /// The tag of its next secret.
    pub(crate) next_tag: Option<String>,
    /// The time of its registration, in milliseconds since 1970.
    pub(crate) registered_at_ms: Option<u64>,
    /// Whether an operator has revoked it.
    pub(crate) is_disabled: bool,
    /// The last time step whose code was accepted.
    pub(crate) otp_step: Option<u64>,
    /// The deadline that it registered under: until then the same registration may be repeated.
    pub(crate) reg_window_ms: Option<u64>,
    /// The tag of its secret; `None` until the first login where the hash was written by hand.
    pub(crate) secret_tag: Option<String>,
    /// Wrong codes and proofs before its deadline.
    pub(crate) wrong_codes: u32,
    /// Its rate at the hub, an [`EntryRate`](spoke_protocol::EntryRate) as text; `None` for that of the hub's settings.
    pub(crate) rate: Option<String>,
}

/// The largest valid number; `COUNT_MAX` of the scripts.
const COUNT_MAX: u64 = (1 << 53) - 1;

/// The registration state of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegistrationState {
    /// It may register until this time.
    Provisioned {
        /// Milliseconds since 1970.
        until_ms: u64,
    },
    /// It did not register in time.
    Expired {
        /// Milliseconds since 1970.
        since_ms: u64,
    },
    /// It has registered and may log in.
    Registered {
        /// Milliseconds since 1970; `None` in a record written by hand.
        at_ms: Option<u64>,
    },
    /// An operator has revoked it.
    Revoked,
    /// It has no secret and no deadline: a record written by hand in part.
    Incomplete,
}

impl ClientRecord {
    /// The fields, in the order of [`FromRedisValue::from_redis_value`].
    pub(super) const FIELDS: [&'static str; 13] = [
        "otpSecret",
        "regDeadline",
        "secret",
        "registeredAt",
        "disabled",
        "otpStep",
        "regWindow",
        "nextSecret",
        "nextTag",
        "secretTag",
        "wrongCodes",
        "wrongCodesUntil",
        RATE_FIELD,
    ];

    /// Returns the hashes to compare a secret with, one after the other. It is one hash, current or next, and one
    /// placeholder where there is none, so that the time reveals nothing; two for one secret in 65,536.
    pub(crate) fn hashes_for(&self, secret: Option<&DeviceSecret>) -> Vec<Option<SecretString>> {
        let current = self.secret_hash.clone();
        match (&self.next_hash, secret.map(DeviceSecret::tag)) {
            (Some(next), tag @ Some(_)) if tag == self.next_tag => {
                vec![Some(next.clone()), current]
            }
            _ => vec![current],
        }
    }

    /// Returns whether its codes are locked, given the number of wrong codes for all clients.
    pub(crate) fn is_code_locked(&self, all_wrong_codes: u64) -> bool {
        let is_lowered = all_wrong_codes >= u64::from(WRONG_CODES_ALL_MAX);
        let bound = if is_lowered { WRONG_CODES_FEW } else { WRONG_CODES_MAX };
        self.secret_hash.is_none() && self.wrong_codes >= bound
    }

    /// Returns whether the tag of this secret is the client's. A match is likely the right secret, but only bcrypt
    /// decides. `stand_in` is the tag of a client that has none.
    pub(crate) fn matches_tag(&self, secret: Option<&DeviceSecret>, stand_in: &str) -> bool {
        let Some(tag) = secret.map(DeviceSecret::tag) else { return false };
        let is_active = self.secret_hash.is_some() && !self.is_disabled;
        let own = self.secret_tag.as_deref().filter(|_| is_active).unwrap_or(stand_in);
        tag == own || (is_active && self.next_tag.as_ref() == Some(&tag))
    }

    /// Returns the registration state at `now_ms`.
    pub(crate) fn registration_state(&self, now_ms: u64) -> RegistrationState {
        match (self.is_disabled, &self.secret_hash, &self.otp_secret, self.reg_deadline_ms) {
            (true, ..) => RegistrationState::Revoked,
            (false, Some(_), ..) => RegistrationState::Registered { at_ms: self.registered_at_ms },
            (false, None, Some(_), Some(until_ms)) if until_ms > now_ms => {
                RegistrationState::Provisioned { until_ms }
            }
            (false, None, Some(_), Some(since_ms)) => RegistrationState::Expired { since_ms },
            (false, None, ..) => RegistrationState::Incomplete,
        }
    }
}

impl FromRedisValue for ClientRecord {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        type Text = Option<String>;
        let texts: [Text; 13] = FromRedisValue::from_redis_value(value)?;
        let [otp_secret, deadline, hash, registered_at, disabled, step, window, ..]: [Text; 13] =
            texts.clone();
        let [.., next, next_tag, secret_tag, wrong_codes, wrong_codes_until, rate] = texts;
        let is_same_window = wrong_codes_until.is_some() && wrong_codes_until == deadline;
        let wrong_codes = number(wrong_codes).filter(|_| is_same_window).unwrap_or_default();
        Ok(Self {
            otp_secret: otp_secret.map(SecretString::from),
            reg_deadline_ms: number(deadline),
            secret_hash: hash.map(SecretString::from),
            registered_at_ms: number(registered_at),
            is_disabled: disabled.is_some_and(|text| !text.is_empty() && text != "0"),
            otp_step: number(step),
            reg_window_ms: number(window),
            next_hash: next.map(SecretString::from),
            next_tag,
            secret_tag,
            wrong_codes: u32::try_from(wrong_codes).unwrap_or(u32::MAX),
            rate,
        })
    }
}

/// Parses a whole number as the scripts do: digits only, and up to [`COUNT_MAX`], which Lua counts exactly.
fn number(text: Option<String>) -> Option<u64> {
    let text = text.filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok().filter(|number| *number <= COUNT_MAX)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn record(fields: [Option<&str>; 7]) -> ClientRecord {
        let fields: Vec<_> = fields.into_iter().chain([None; 6]).collect();
        let value = |text: Option<&str>| match text {
            Some(text) => Value::BulkString(text.into()),
            None => Value::Nil,
        };
        ClientRecord::from_redis_value(Value::Array(fields.into_iter().map(value).collect()))
            .unwrap()
    }

    #[test]
    fn a_secret_is_compared_with_one_hash_and_with_the_next_only_if_its_tag_matches() {
        let secret = |text: &str| DeviceSecret::new(text.into()).unwrap();
        let next = secret("a-secret-to-rotate-to-afterwards");
        let record = ClientRecord {
            secret_hash: Some("present".into()),
            next_hash: Some("next".into()),
            next_tag: Some(next.tag()),
            ..ClientRecord::default()
        };
        let first_hash_and_count = |record: &ClientRecord, secret: Option<&DeviceSecret>| {
            let hashes = record.hashes_for(secret);
            let first = hashes[0].as_ref().map(|hash| hash.expose_secret().to_owned());
            (first, hashes.len())
        };
        let present = Some("present".to_owned());
        let other = secret("the-secret-before-this-rotation-");
        assert_eq!(first_hash_and_count(&record, Some(&next)), (Some("next".to_owned()), 2));
        assert_eq!(first_hash_and_count(&record, Some(&other)), (present.clone(), 1));
        assert_eq!(first_hash_and_count(&record, None), (present.clone(), 1));
        assert_eq!(first_hash_and_count(&ClientRecord::default(), Some(&next)), (None, 1));
        let rotated = ClientRecord { next_hash: None, next_tag: None, ..record };
        assert_eq!(first_hash_and_count(&rotated, Some(&next)), (present, 1));
    }

    #[test]
    fn a_secret_is_matched_by_tag_and_for_an_inactive_client_by_the_stand_in_tag() {
        let secret = DeviceSecret::new("the-secret-before-this-rotation-".into()).unwrap();
        let registered = ClientRecord {
            secret_hash: Some("present".into()),
            secret_tag: Some(secret.tag()),
            ..ClientRecord::default()
        };
        assert!(registered.matches_tag(Some(&secret), "none"));
        assert!(!registered.matches_tag(None, "none"));
        let rotating =
            ClientRecord { secret_tag: None, next_tag: Some(secret.tag()), ..registered.clone() };
        assert!(rotating.matches_tag(Some(&secret), "none"));
        let disabled = ClientRecord { is_disabled: true, ..registered.clone() };
        let unregistered = ClientRecord { secret_hash: None, ..registered };
        for inactive in [disabled, unregistered, ClientRecord::default()] {
            assert!(!inactive.matches_tag(Some(&secret), "none"));
            assert!(inactive.matches_tag(Some(&secret), &secret.tag()), "the stand-in matches");
        }
    }

    #[test]
    fn wrong_codes_count_only_for_the_deadline_they_were_sent_under() {
        let otp = Some("GEZDGNBVGY3TQOJQ");
        let locked = |until: &str, count: &str, all| {
            let mut fields = vec![otp, Some("2000")];
            fields.extend([None; 8]);
            fields.extend([Some(count), Some(until), None]);
            let value =
                |text: Option<&str>| text.map_or(Value::Nil, |text| Value::BulkString(text.into()));
            let fields = fields.into_iter().map(value).collect();
            ClientRecord::from_redis_value(Value::Array(fields)).unwrap().is_code_locked(all)
        };
        assert!(locked("2000", "100", 0));
        assert!(!locked("2000", "99", 999));
        assert!(locked("2000", "1", 1000) && !locked("2000", "0", 1000));
        assert!(!locked("1999", "100", 0), "counted for another deadline");
    }

    #[test]
    fn the_fields_of_a_client_give_its_registration_state() {
        let (otp, hash) = (Some("GEZDGNBVGY3TQOJQ"), Some("$2b$"));
        let state = |fields| record(fields).registration_state(1000);
        assert_eq!(
            state([otp, Some("1001"), None, None, None, None, None]),
            RegistrationState::Provisioned { until_ms: 1001 }
        );
        assert_eq!(
            state([otp, Some("1000"), None, None, Some("0"), None, None]),
            RegistrationState::Expired { since_ms: 1000 }
        );
        assert_eq!(
            state([otp, None, hash, Some("900"), None, Some("3"), Some("2000")]),
            RegistrationState::Registered { at_ms: Some(900) }
        );
        assert_eq!(
            state([otp, None, hash, None, Some("1"), None, None]),
            RegistrationState::Revoked
        );
        assert_eq!(
            state([otp, Some("soon"), None, None, None, None, None]),
            RegistrationState::Incomplete
        );
        assert_eq!(
            state([None, Some("2000"), None, None, None, None, None]),
            RegistrationState::Incomplete
        );
    }
}
