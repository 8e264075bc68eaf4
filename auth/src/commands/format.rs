//! How a client is shown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::store::{Listed, Standing};

/// The last second that the format of times can show.
const YEAR_9999_ENDS: Duration = Duration::from_secs(253_402_300_799);

/// Where the client stands, in a word, and since or until when.
pub(super) fn standing(listed: &Listed, now_ms: u64) -> (&'static str, String) {
    match listed.record.standing(now_ms) {
        Standing::Provisioned { until_ms } if listed.is_code_locked => {
            let wrong = listed.record.wrong_codes;
            ("provisioned", format!("until {}, codes locked after {wrong} wrong", time(until_ms)))
        }
        Standing::Provisioned { until_ms } => ("provisioned", format!("until {}", time(until_ms))),
        Standing::Expired { since_ms } => ("expired", format!("since {}", time(since_ms))),
        Standing::Registered { at_ms: Some(at_ms) } => {
            ("registered", format!("since {}", time(at_ms)))
        }
        Standing::Registered { at_ms: None } => ("registered", String::new()),
        Standing::Revoked => ("revoked", String::new()),
        Standing::Incomplete => ("incomplete", "no OTP secret or deadline".to_owned()),
    }
}

/// The same for programs; times are absent where there are none.
pub(super) fn as_json(listed: &Listed, now_ms: u64) -> Value {
    let record = &listed.record;
    let is_registered = record.secret_hash.is_some();
    json!({
        "client": listed.client,
        "standing": standing(listed, now_ms).0,
        // Kept for a client that is provisioned again, but it is not registered.
        "registeredAt": record.registered_at_ms.filter(|_| is_registered).map(time),
        "regDeadline": record.reg_deadline_ms.map(time),
        "wrongCodes": record.wrong_codes,
        "codesLocked": listed.is_code_locked,
        "sessions": listed.sessions,
    })
}

/// A time as people and programs read it.
pub(super) fn time(ms: u64) -> String {
    let since_1970 = Duration::from_millis(ms).min(YEAR_9999_ENDS);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_1970).to_string()
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well_and_absurd_ones_do_no_harm() {
        assert_eq!(time(1_893_456_000_000), "2030-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
