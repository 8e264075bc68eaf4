//! Layout and parts of both pages. The template macro escapes all values.

use maud::{DOCTYPE, Markup, html};
use spoke_store::fleet::ClientRow;

use crate::{
    client_summary::{ClientPresence, Lag, age, grouped, short},
    state::HubState,
};

/// Renders a page. Events from `source` replace the content of `live`.
pub(super) fn document(
    hub: &HubState,
    (title, source): (&str, &str),
    before: &Markup,
    live: &Markup,
    behind: &Markup,
) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
            }
            body data-live=(source) {
                header.bar {
                    a.mark href="/" { "Spoke" }
                    span.place { "hub " (hub.name) }
                    span.link #link role="status" {}
                }
                main {
                    (before)
                    div #live { (live) }
                    (behind)
                }
                footer {
                    "spoke-hub " (env!("CARGO_PKG_VERSION")) " · times in UTC"
                    noscript { " · enable JavaScript for automatic updates" }
                }
            }
        }
    }
}

/// Renders the current fault as a banner.
///
/// `shown_at_ms` is the time of the data below it, 0 for none.
pub(super) fn fault(fault: Option<&str>, shown_at_ms: u64) -> Markup {
    html! {
        @if let Some(fault) = fault {
            p.warning role="alert" {
                (fault)
                @if shown_at_ms > 0 { "; showing the last known state" }
            }
        }
    }
}

/// Renders the presence with its age.
pub(super) fn presence(row: &ClientRow, now_ms: u64) -> Markup {
    html! {
        @match ClientPresence::of(row) {
            ClientPresence::Connected(since) => {
                span.dot.on {} "connected " span.soft { (age(now_ms, since)) }
                @if row.transport.as_deref() == Some("http") { " " span.tag { "http" } }
            }
            ClientPresence::Away(seen) => { span.dot {} "away " span.soft { (age(now_ms, seen)) } }
            ClientPresence::Never => { span.dot {} "never connected" }
        }
    }
}

/// Renders the lag of one direction.
pub(super) fn lag(lag: &Lag, now_ms: u64) -> Markup {
    html! {
        @match lag {
            Lag::None => span.soft { "none" },
            Lag::Unknown => span.soft title="unknown while the client is away" { "–" },
            Lag::Waiting(waiting) => {
                span.behind title={ (grouped(waiting.entries)) " entries waiting" } {
                    (short(waiting.entries))
                }
                @if let Some(oldest) = waiting.oldest_ms { " " span.soft { (age(now_ms, oldest)) } }
            }
            Lag::Late(delay_ms) => span.behind title="delay between adding and arrival of entries" {
                (age(*delay_ms, 0)) " late"
            },
        }
    }
}

/// Renders a count that is an error unless 0.
pub(super) fn bad(count: u64) -> Markup {
    html! {
        @if count == 0 { span.soft { "0" } } @else { span.bad { (grouped(count)) } }
    }
}

/// Formats entries a second.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "–".to_owned(),
        Some(rate) if rate > 0.0 && rate < 10.0 && rate.fract() != 0.0 => format!("{rate:.1}"),
        Some(rate) => short(rate.round() as u64),
    }
}

/// Formats a time of day in UTC, `13:04:05.678`, with the distance in days if it is not today.
pub(super) fn clock(at_ms: u64, now_ms: u64) -> String {
    const DAY_MS: u64 = 86_400_000;
    let of_day = at_ms % DAY_MS;
    let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let time = format!("{hours:02}:{minutes:02}:{:02}.{:03}", of_day / 1000 % 60, of_day % 1000);
    match (now_ms / DAY_MS).checked_sub(at_ms / DAY_MS) {
        Some(0) => time,
        Some(1) => format!("{time}, 1 day ago"),
        Some(days) => format!("{time}, {days} days ago"),
        None => format!("{time}, in the future"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_shows_the_clock_and_on_another_day_the_number_of_days() {
        let noon = 1_700_000_000_000 / 86_400_000 * 86_400_000 + 43_200_000;
        assert_eq!(clock(noon + 61_005, noon), "12:01:01.005");
        assert_eq!(clock(noon - 2 * 86_400_000, noon), "12:00:00.000, 2 days ago");
        assert_eq!(clock(noon - 86_400_000, noon), "12:00:00.000, 1 day ago");
        assert_eq!(clock(noon + 86_400_000, noon), "12:00:00.000, in the future");
    }

    #[test]
    fn a_rate_has_a_decimal_only_if_it_is_small() {
        assert_eq!(
            [None, Some(0.0), Some(0.5), Some(3.0), Some(12.4), Some(45_600.0)].map(rate),
            ["–", "0", "0.5", "3", "12", "45.6k"]
        );
    }
}
