//! Counters for the admin listener, in Prometheus' text format. No label holds anything a visitor
//! chose, so their number is bounded.

use std::{collections::BTreeMap, fmt::Write, sync::Mutex};

use http::StatusCode;

/// What has been answered since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

/// What is so at this moment.
#[derive(Debug, Clone, Copy)]
pub struct Gauges {
    /// bcrypt runs under way and waiting.
    pub bcrypt_in_hand: usize,
    /// Names and addresses that the throttle watches.
    pub throttle_keys: usize,
}

impl Metrics {
    /// Counts an answer of one of the service's own routes.
    pub fn count(&self, route: &'static str, status: StatusCode) {
        let mut requests = self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *requests.entry((route, status.as_u16())).or_default() += 1;
    }

    /// All as text.
    pub fn render(&self, gauges: Gauges) -> String {
        let mut text = String::from(
            "# HELP spoke_auth_requests_total Requests answered, by route and status.\n\
             # TYPE spoke_auth_requests_total counter\n",
        );
        let requests = self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for ((route, status), count) in requests.iter() {
            let labels = format!("route=\"{route}\",status=\"{status}\"");
            writeln!(text, "spoke_auth_requests_total{{{labels}}} {count}")
                .expect("a String takes all that is written");
        }
        let Gauges { bcrypt_in_hand, throttle_keys } = gauges;
        for (name, help, value) in [
            ("bcrypt_in_hand", "bcrypt runs under way and waiting.", bcrypt_in_hand),
            ("throttle_keys", "Names and addresses whose rate is watched.", throttle_keys),
        ] {
            writeln!(
                text,
                "# HELP spoke_auth_{name} {help}\n\
                 # TYPE spoke_auth_{name} gauge\n\
                 spoke_auth_{name} {value}"
            )
            .expect("a String takes all that is written");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_route_and_status() {
        let metrics = Metrics::default();
        metrics.count("/login", StatusCode::OK);
        metrics.count("/login", StatusCode::OK);
        metrics.count("/login", StatusCode::UNAUTHORIZED);
        let text = metrics.render(Gauges { bcrypt_in_hand: 3, throttle_keys: 7 });
        for line in [
            "spoke_auth_requests_total{route=\"/login\",status=\"200\"} 2",
            "spoke_auth_requests_total{route=\"/login\",status=\"401\"} 1",
            "spoke_auth_bcrypt_in_hand 3",
            "spoke_auth_throttle_keys 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
