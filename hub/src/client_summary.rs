//! Describes a client in words, for the terminal and the status page alike.

use spoke_service::logging::is_printable;
use spoke_store::{
    fleet::{ClientRow, DuplicateIdentities, Fleet, PendingEntries},
    throttle_mark::ThrottleMark,
};

use crate::limits::THROTTLE_SHOWN;

/// Time for which a refused duplicate device is shown; one that is still running retries sooner.
const CLONE_SHOWN_MS: u64 = 24 * 60 * 60 * 1000;
/// Delay between creation and arrival from which an entry counts as late.
const LATE_MS: u64 = 10_000;
/// Time after a late entry for which the link is shown as late.
const LATE_SHOWN_MS: u64 = 60_000;

/// Presence of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientPresence {
    /// Connected since this time, in milliseconds since 1970.
    Connected(u64),
    /// Last seen at this time.
    Away(u64),
    /// Never connected.
    Never,
}

/// Lag of one direction of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lag {
    /// No entries wait.
    None,
    /// Entries wait.
    Waiting(PendingEntries),
    /// Entries arrive this many milliseconds after their creation.
    Late(u64),
    /// Unknown to the hub.
    Unknown,
}

/// Sums over all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FleetTotals {
    /// Number of clients.
    pub clients: usize,
    /// Connected clients.
    pub connected: usize,
    /// Clients with lag in either direction.
    pub behind: usize,
    /// Clients that share an identity with another device.
    pub clones: usize,
    /// Clients that are slowed down.
    pub throttled: usize,
    /// Entries received from clients.
    pub received: u64,
    /// Entries acknowledged by clients.
    pub delivered: u64,
    /// Entries lost in either direction.
    pub lost: u64,
    /// Entries in the dead-letter streams of clients.
    pub dead: u64,
}

impl ClientPresence {
    /// Returns the presence of this client.
    pub(crate) fn of(row: &ClientRow) -> Self {
        match (row.connected_since, row.last_seen) {
            (Some(since), _) => Self::Connected(since),
            (None, Some(seen)) => Self::Away(seen),
            (None, None) => Self::Never,
        }
    }
}

impl Lag {
    /// Returns the lag towards the hub. New entries of a disconnected device are unknown.
    pub(crate) fn up(row: &ClientRow, now_ms: u64) -> Self {
        let is_fresh = |at: &u64| now_ms.saturating_sub(*at) < LATE_SHOWN_MS;
        let delay = row.received_at.filter(is_fresh).map(|at| at.saturating_sub(row.cursor.1.ms));
        match row.up {
            Some(waiting) if waiting.entries > 0 => Self::Waiting(waiting),
            None => Self::Unknown,
            Some(_) if row.connected_since.is_none() => Self::Unknown,
            Some(_) => delay.filter(|delay| *delay >= LATE_MS).map_or(Self::None, Self::Late),
        }
    }

    /// Returns the lag towards the client.
    pub(crate) fn down(row: &ClientRow) -> Self {
        if row.down.entries == 0 { Self::None } else { Self::Waiting(row.down) }
    }

    /// Returns whether there is known lag.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self, Self::Waiting(_) | Self::Late(_))
    }

    /// Returns the sort key: entries first, then delay.
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Self::Waiting(waiting) => waiting.entries.saturating_add(1),
            Self::Late(_) => 1,
            Self::None | Self::Unknown => 0,
        }
    }

    /// Formats as `ok`, `120, 3h`, `late 4m` or `?`.
    pub(crate) fn words(&self, now_ms: u64) -> String {
        match self {
            Self::None => "ok".to_owned(),
            Self::Waiting(PendingEntries { entries, oldest_ms: Some(oldest) }) => {
                format!("{}, {}", short(*entries), age(now_ms, *oldest))
            }
            Self::Waiting(PendingEntries { entries, oldest_ms: None }) => short(*entries),
            Self::Late(delay_ms) => format!("late {}", age(*delay_ms, 0)),
            Self::Unknown => "?".to_owned(),
        }
    }
}

impl FleetTotals {
    /// Sums up all clients.
    pub(crate) fn of(fleet: &Fleet, now_ms: u64) -> Self {
        let mut totals = Self { clients: fleet.rows.len(), ..Self::default() };
        let add = |sum: &mut u64, count: u64| *sum = sum.saturating_add(count);
        for row in &fleet.rows {
            totals.connected += usize::from(row.connected_since.is_some());
            totals.behind += usize::from(is_behind(row, now_ms));
            totals.clones += usize::from(recent_duplicates(row, now_ms).is_some());
            totals.throttled += usize::from(recent_throttle(row, now_ms).is_some());
            add(&mut totals.received, row.received);
            add(&mut totals.delivered, delivered(row));
            add(&mut totals.lost, row.lost.saturating_add(row.origin.lost));
            add(&mut totals.dead, row.origin.dead);
        }
        totals
    }
}

/// Returns the number of entries that a client has acknowledged.
pub(crate) fn delivered(row: &ClientRow) -> u64 {
    let tally = &row.origin.memory.acked.tally;
    tally.added.saturating_sub(tally.dead).saturating_sub(tally.lost)
}

/// Returns whether a client has lag in either direction.
pub(crate) fn is_behind(row: &ClientRow, now_ms: u64) -> bool {
    Lag::up(row, now_ms).is_behind() || Lag::down(row).is_behind()
}

/// Returns the refused devices with the client's identity, if one tried recently.
pub(crate) fn recent_duplicates(row: &ClientRow, now_ms: u64) -> Option<&DuplicateIdentities> {
    row.duplicates.as_ref().filter(|clones| now_ms.saturating_sub(clones.at_ms) < CLONE_SHOWN_MS)
}

/// Returns the mark that a hub slows the client down, unless it is too old.
pub(crate) fn recent_throttle(row: &ClientRow, now_ms: u64) -> Option<&ThrottleMark> {
    let is_recent = |mark: &&ThrottleMark| {
        u128::from(now_ms.saturating_sub(mark.at_ms)) < THROTTLE_SHOWN.as_millis()
    };
    row.throttled.as_ref().filter(is_recent)
}

/// Says why a client is slowed down.
pub(crate) fn throttle_reason(mark: &ThrottleMark) -> &'static str {
    match mark.cause.as_str() {
        "memory" => "redis is nearly full",
        _ => "it exceeds its rate",
    }
}

/// Formats an age as one number and one unit: `42s`, `3h`.
pub(crate) fn age(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Formats a count with at most four digits: `9999`, `12.3k`, `4.5M`.
pub(crate) fn short(count: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")];
    if count < 10_000 {
        return count.to_string();
    }
    let unit = UNITS.into_iter().find(|(unit, _)| count >= *unit);
    let (unit, letter) = unit.unwrap_or((1, ""));
    match count / unit {
        whole @ 0..100 => format!("{whole}.{}{letter}", count % unit / (unit / 10).max(1)),
        whole => format!("{whole}{letter}"),
    }
}

/// Formats a count with thin spaces between thousands: `1 234 567`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Formats bytes as text without terminal commands or bidirectional controls: characters that are
/// not printable are escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, std::borrow::Cow::Borrowed(_)) && text.chars().all(is_printable) {
        text.into_owned()
    } else if let Ok(text) = std::str::from_utf8(bytes) {
        let escaped = |char: char| match is_printable(char) {
            true => char.to_string(),
            false if char.is_ascii() => char.escape_default().to_string(),
            false => char.escape_unicode().to_string(),
        };
        text.chars().map(escaped).collect()
    } else {
        bytes.escape_ascii().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_one_number_and_one_unit() {
        let ages = [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")];
        for (seconds, text) in ages {
            assert_eq!(age(1_000_000_000, 1_000_000_000 - seconds * 1000), text);
        }
    }

    #[test]
    fn a_count_is_abbreviated_or_grouped_by_thousands() {
        let counts = [(9999, "9999"), (12_345, "12.3k"), (999_999, "999k"), (4_560_000, "4.5M")];
        for (count, text) in counts {
            assert_eq!(short(count), text);
        }
        assert_eq!(short(u64::MAX), "18446744T");
        let groups = [
            (0, "0"),
            (999, "999"),
            (1000, "1\u{202f}000"),
            (1_234_567, "1\u{202f}234\u{202f}567"),
        ];
        for (count, text) in groups {
            assert_eq!(grouped(count), text);
        }
    }

    #[test]
    fn control_and_bidirectional_characters_are_escaped() {
        let cases: [(&[u8], &str); 4] = [
            ("é {\"a\":1}".as_bytes(), "é {\"a\":1}"),
            (b"\x1b[2J\xff", "\\x1b[2J\\xff"),
            ("é\x1b[2J".as_bytes(), "é\\u{1b}[2J"),
            ("\u{202e}cod".as_bytes(), "\\u{202e}cod"),
        ];
        for (bytes, text) in cases {
            assert_eq!(printable(bytes), text);
        }
    }
}
