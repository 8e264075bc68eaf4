//! The text and JSON forms of a client.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use spoke_protocol::{ClientId, EntryRate};

use crate::store::{ClientListing, RegistrationState};

/// The last second that the time format can show.
const YEAR_9999_ENDS: Duration = Duration::from_secs(253_402_300_799);

/// Returns the registration state of a client as one word, and the time that belongs to it.
pub(super) fn standing(listing: &ClientListing, now_ms: u64) -> (&'static str, String) {
    match listing.record.registration_state(now_ms) {
        RegistrationState::Provisioned { until_ms } if listing.is_code_locked => {
            let wrong = listing.record.wrong_codes;
            let until = time(until_ms);
            ("provisioned", format!("until {until}, codes locked after {wrong} wrong ones"))
        }
        RegistrationState::Provisioned { until_ms } => {
            ("provisioned", format!("until {}", time(until_ms)))
        }
        RegistrationState::Expired { since_ms } => ("expired", format!("since {}", time(since_ms))),
        RegistrationState::Registered { at_ms: Some(at_ms) } => {
            ("registered", format!("since {}", time(at_ms)))
        }
        RegistrationState::Registered { at_ms: None } => ("registered", String::new()),
        RegistrationState::Revoked => ("revoked", String::new()),
        RegistrationState::Incomplete => ("incomplete", "no OTP secret or deadline".to_owned()),
    }
}

/// Returns a client as JSON. Missing times are `null`.
pub(super) fn as_json(listing: &ClientListing, now_ms: u64) -> Value {
    let record = &listing.record;
    let is_registered = record.secret_hash.is_some();
    json!({
        "client": listing.client,
        "standing": standing(listing, now_ms).0,
        // Kept when a client is provisioned again, which is then not registered.
        "registeredAt": record.registered_at_ms.filter(|_| is_registered).map(time),
        "regDeadline": record.reg_deadline_ms.map(time),
        "wrongCodes": record.wrong_codes,
        "codesLocked": listing.is_code_locked,
        "sessions": listing.sessions,
        "rate": record.rate,
    })
}

/// Returns the rate of a client at the hub in words; none where it is that of the hub's settings.
pub(super) fn rate(listing: &ClientListing) -> Option<String> {
    let rate = listing.record.rate.as_ref()?;
    Some(match rate.parse::<EntryRate>() {
        Ok(rate) => rate.to_string(),
        Err(_) => format!("{rate:?} is invalid, so the hub's client_rate applies"),
    })
}

/// Returns a time in RFC 3339.
pub(super) fn time(ms: u64) -> String {
    let since_1970 = Duration::from_millis(ms).min(YEAR_9999_ENDS);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_1970).to_string()
}

/// Returns the milliseconds since 1970. A clock before 1970 is an error, since a deadline is made from it.
pub(super) fn now_ms() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}

/// Returns the error text for a client that is not in the store.
pub(super) fn unknown(client: &ClientId) -> String {
    format!("unknown client {client}; `spoke-auth provision {client}` lets it register")
}

/// Returns a number of sessions in words.
pub(super) fn sessions(count: u64) -> String {
    match count {
        1 => "1 session".to_owned(),
        _ => format!("{count} sessions"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_up_to_the_year_9999() {
        assert_eq!(time(1_893_456_000_000), "2030-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
