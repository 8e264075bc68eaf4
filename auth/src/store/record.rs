//! What is stored of a client, as read: a hash that operators may also write by hand.

use redis::{FromRedisValue, ParsingError, Value};
use secrecy::SecretString;

/// The fields of a client. Fields of the wrong form count as absent, so the client is refused.
#[derive(Debug, Clone, Default)]
pub struct ClientRecord {
    /// The base32 text that codes are made from.
    pub otp_secret: Option<SecretString>,
    /// Until when it may register, ms since 1970; gone once it has.
    pub reg_deadline_ms: Option<u64>,
    /// The bcrypt hash of the device's own secret, once registered.
    pub secret_hash: Option<SecretString>,
    /// When it registered, ms since 1970.
    pub registered_at_ms: Option<u64>,
    /// Whether an operator has shut it out.
    pub is_disabled: bool,
    /// The last step whose code was taken.
    pub otp_step: Option<u64>,
    /// The deadline it registered under: until then the same registration may be repeated.
    pub reg_window_ms: Option<u64>,
}

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
    pub(super) const FIELDS: [&'static str; 7] =
        ["otpSecret", "regDeadline", "secret", "registeredAt", "disabled", "otpStep", "regWindow"];

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
        let (otp_secret, deadline, hash, registered_at, disabled, step, window): (
            Text,
            Text,
            Text,
            Text,
            Text,
            Text,
            Text,
        ) = FromRedisValue::from_redis_value(value)?;
        let number = |text: Text| text.and_then(|text| text.parse().ok());
        Ok(Self {
            otp_secret: otp_secret.map(SecretString::from),
            reg_deadline_ms: number(deadline),
            secret_hash: hash.map(SecretString::from),
            registered_at_ms: number(registered_at),
            is_disabled: disabled.is_some_and(|text| !text.is_empty() && text != "0"),
            otp_step: number(step),
            reg_window_ms: number(window),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: [Option<&str>; 7]) -> ClientRecord {
        let value = |text: Option<&str>| match text {
            Some(text) => Value::BulkString(text.into()),
            None => Value::Nil,
        };
        ClientRecord::from_redis_value(Value::Array(fields.map(value).into())).unwrap()
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
