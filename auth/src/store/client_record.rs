//! What is stored of a client, as read: a hash that operators may also write by hand.

use redis::{FromRedisValue, ParsingError, Value};
use secrecy::SecretString;

use crate::{
    device_secret::DeviceSecret,
    limits::{WRONG_CODES_ALL_MAX, WRONG_CODES_FEW, WRONG_CODES_MAX},
};

/// The fields of a client. Fields of the wrong form count as absent, so the client is refused.
#[derive(Debug, Clone, Default)]
pub struct ClientRecord {
    /// The base32 text that codes are made from.
    pub otp_secret: Option<SecretString>,
    /// Until when it may register, ms since 1970; gone once it has.
    pub reg_deadline_ms: Option<u64>,
    /// The bcrypt hash of the device's own secret, once registered.
    pub secret_hash: Option<SecretString>,
    /// The one that it wants to have next, until it has logged in with it.
    pub next_hash: Option<SecretString>,
    /// By which that one is told from the present one.
    pub next_tag: Option<String>,
    /// When it registered, ms since 1970.
    pub registered_at_ms: Option<u64>,
    /// Whether an operator has shut it out.
    pub is_disabled: bool,
    /// The last step whose code was taken.
    pub otp_step: Option<u64>,
    /// The deadline it registered under: until then the same registration may be repeated.
    pub reg_window_ms: Option<u64>,
    /// By which the present secret is told from most others; absent until a login where the hash was
    /// written by hand.
    pub secret_tag: Option<String>,
    /// Wrong codes and proofs in the window of its deadline.
    pub wrong_codes: u32,
}

/// The largest number that counts; `COUNT_MAX` of the scripts.
const COUNT_MAX: u64 = (1 << 53) - 1;

/// Where a client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// May register until this time.
    Provisioned {
        /// Milliseconds since 1970.
        until_ms: u64,
    },
    /// Did not register in time.
    Expired {
        /// Milliseconds since 1970.
        since_ms: u64,
    },
    /// Has registered and may log in.
    Registered {
        /// Milliseconds since 1970; absent in a record written by hand.
        at_ms: Option<u64>,
    },
    /// Shut out by an operator.
    Revoked,
    /// Has neither secret nor deadline: written by hand, and not to the end.
    Incomplete,
}

impl ClientRecord {
    /// The fields in the order that `from_redis_value` takes them in.
    pub(super) const FIELDS: [&'static str; 12] = [
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
    ];

    /// The hashes to compare a secret with, one after the other. It is one, be it the present or the next
    /// one, be there any or not, so that the time tells nothing; but for one secret in 65,536.
    pub fn hashes_for(&self, secret: Option<&DeviceSecret>) -> Vec<Option<SecretString>> {
        let present = self.secret_hash.clone();
        match (&self.next_hash, secret.map(DeviceSecret::tag)) {
            (Some(next), tag @ Some(_)) if tag == self.next_tag => {
                vec![Some(next.clone()), present]
            }
            _ => vec![present],
        }
    }

    /// Whether only a proof registers it any more, with so many wrong codes for all clients together.
    pub fn is_code_locked(&self, all_wrong_codes: u64) -> bool {
        let is_few = all_wrong_codes >= u64::from(WRONG_CODES_ALL_MAX);
        let bound = if is_few { WRONG_CODES_FEW } else { WRONG_CODES_MAX };
        self.secret_hash.is_none() && self.wrong_codes >= bound
    }

    /// Whether this secret is most likely the client's: an unlikely one waits behind those that are. The
    /// answer depends on no hash, which has the last word. `stand_in` is the tag of a client that has none.
    pub fn is_likely(&self, secret: Option<&DeviceSecret>, stand_in: &str) -> bool {
        let Some(tag) = secret.map(DeviceSecret::tag) else { return false };
        let is_in = self.secret_hash.is_some() && !self.is_disabled;
        let own = self.secret_tag.as_deref().filter(|_| is_in).unwrap_or(stand_in);
        tag == own || (is_in && self.next_tag.as_ref() == Some(&tag))
    }

    /// Where this client stands at `now_ms`.
    pub fn standing(&self, now_ms: u64) -> Standing {
        match (self.is_disabled, &self.secret_hash, &self.otp_secret, self.reg_deadline_ms) {
            (true, ..) => Standing::Revoked,
            (false, Some(_), ..) => Standing::Registered { at_ms: self.registered_at_ms },
            (false, None, Some(_), Some(until_ms)) if until_ms > now_ms => {
                Standing::Provisioned { until_ms }
            }
            (false, None, Some(_), Some(since_ms)) => Standing::Expired { since_ms },
            (false, None, ..) => Standing::Incomplete,
        }
    }
}

impl FromRedisValue for ClientRecord {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        type Text = Option<String>;
        let texts: [Text; 12] = FromRedisValue::from_redis_value(value)?;
        let [otp_secret, deadline, hash, registered_at, disabled, step, window, ..]: [Text; 12] =
            texts.clone();
        let [.., next, next_tag, secret_tag, wrong_codes, wrong_codes_until] = texts;
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
        })
    }
}

/// A whole number as the scripts count: digits only, and no more than Lua counts exactly.
fn number(text: Option<String>) -> Option<u64> {
    let text = text.filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok().filter(|number| *number <= COUNT_MAX)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn record(fields: [Option<&str>; 7]) -> ClientRecord {
        let fields: Vec<_> = fields.into_iter().chain([None; 5]).collect();
        let value = |text: Option<&str>| match text {
            Some(text) => Value::BulkString(text.into()),
            None => Value::Nil,
        };
        ClientRecord::from_redis_value(Value::Array(fields.into_iter().map(value).collect()))
            .unwrap()
    }

    #[test]
    fn one_hash_is_compared_with_and_the_next_one_only_for_the_secret_it_is_of() {
        let secret = |text: &str| DeviceSecret::new(text.into()).unwrap();
        let next = secret("the-secret-it-wants-to-have-next");
        let record = ClientRecord {
            secret_hash: Some("present".into()),
            next_hash: Some("next".into()),
            next_tag: Some(next.tag()),
            ..ClientRecord::default()
        };
        let first = |record: &ClientRecord, secret: Option<&DeviceSecret>| {
            let hashes = record.hashes_for(secret);
            let first = hashes[0].as_ref().map(|hash| hash.expose_secret().to_owned());
            (first, hashes.len())
        };
        let present = Some("present".to_owned());
        let other = secret("the-secret-that-it-has-today-and");
        assert_eq!(first(&record, Some(&next)), (Some("next".to_owned()), 2));
        assert_eq!(first(&record, Some(&other)), (present.clone(), 1));
        assert_eq!(first(&record, None), (present.clone(), 1));
        assert_eq!(first(&ClientRecord::default(), Some(&next)), (None, 1));
        let settled = ClientRecord { next_hash: None, next_tag: None, ..record };
        assert_eq!(first(&settled, Some(&next)), (present, 1));
    }

    #[test]
    fn a_secret_is_likely_by_its_tag_and_a_client_without_one_is_told_from_none() {
        let secret = DeviceSecret::new("the-secret-that-it-has-today-and".into()).unwrap();
        let registered = ClientRecord {
            secret_hash: Some("present".into()),
            secret_tag: Some(secret.tag()),
            ..ClientRecord::default()
        };
        assert!(registered.is_likely(Some(&secret), "none"));
        assert!(!registered.is_likely(None, "none"));
        let rotating =
            ClientRecord { secret_tag: None, next_tag: Some(secret.tag()), ..registered.clone() };
        assert!(rotating.is_likely(Some(&secret), "none"));
        let disabled = ClientRecord { is_disabled: true, ..registered.clone() };
        let unregistered = ClientRecord { secret_hash: None, ..registered };
        for out in [disabled, unregistered, ClientRecord::default()] {
            assert!(!out.is_likely(Some(&secret), "none"));
            assert!(out.is_likely(Some(&secret), &secret.tag()), "as likely as of a known one");
        }
    }

    #[test]
    fn wrong_codes_count_for_the_deadline_that_they_were_counted_under() {
        let otp = Some("GEZDGNBVGY3TQOJQ");
        let locked = |until: &str, count: &str, all| {
            let mut fields = vec![otp, Some("2000")];
            fields.extend([None; 8]);
            fields.extend([Some(count), Some(until)]);
            let value =
                |text: Option<&str>| text.map_or(Value::Nil, |text| Value::BulkString(text.into()));
            let fields = fields.into_iter().map(value).collect();
            ClientRecord::from_redis_value(Value::Array(fields)).unwrap().is_code_locked(all)
        };
        assert!(locked("2000", "100", 0));
        assert!(!locked("2000", "99", 999));
        assert!(locked("2000", "1", 1000) && !locked("2000", "0", 1000));
        assert!(!locked("1999", "100", 0), "another window");
    }

    #[test]
    fn a_client_stands_where_its_fields_put_it() {
        let (otp, hash) = (Some("GEZDGNBVGY3TQOJQ"), Some("$2b$"));
        let stands = |fields| record(fields).standing(1000);
        assert_eq!(
            stands([otp, Some("1001"), None, None, None, None, None]),
            Standing::Provisioned { until_ms: 1001 }
        );
        assert_eq!(
            stands([otp, Some("1000"), None, None, Some("0"), None, None]),
            Standing::Expired { since_ms: 1000 }
        );
        assert_eq!(
            stands([otp, None, hash, Some("900"), None, Some("3"), Some("2000")]),
            Standing::Registered { at_ms: Some(900) }
        );
        assert_eq!(stands([otp, None, hash, None, Some("1"), None, None]), Standing::Revoked);
        assert_eq!(stands([otp, Some("soon"), None, None, None, None, None]), Standing::Incomplete);
        assert_eq!(
            stands([None, Some("2000"), None, None, None, None, None]),
            Standing::Incomplete
        );
    }
}
