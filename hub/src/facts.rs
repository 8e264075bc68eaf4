//! What is told of a client, in words: the same in a terminal and on the status page.

use spoke_service::logging::is_printable;
use spoke_store::fleet::{ClientRow, DuplicateIdentities, Fleet, PendingEntries};

/// So long after its last try a second device is shown: one that is still there comes back sooner.
const CLONE_SHOWN_MS: u64 = 24 * 60 * 60 * 1000;
/// An entry that came so long after it was born came late.
const LATE_MS: u64 = 10_000;
/// So long after such an entry the link is still called late.
const LATE_SHOWN_MS: u64 = 60_000;

/// Whether a client is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Connected since then, in milliseconds since 1970.
    Connected(u64),
    /// Last heard of then.
    Away(u64),
    /// Never heard of.
    Never,
}

/// How far one way of a client is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// Everything is carried.
    None,
    /// So many entries wait, the first of them since then.
    Waiting(PendingEntries),
    /// Entries arrive so many milliseconds after they were born.
    Late(u64),
    /// Nobody here can know.
    Unknown,
}

/// Sums over all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// How many there are.
    pub clients: usize,
    /// How many are connected.
    pub connected: usize,
    /// How many are behind, on either way.
    pub behind: usize,
    /// How many share an identity with another device.
    pub clones: usize,
    /// Entries that came from them.
    pub received: u64,
    /// Entries that they have acknowledged.
    pub delivered: u64,
    /// Entries lost, on either way.
    pub lost: u64,
    /// Entries for them that can never be sent.
    pub dead: u64,
}

impl Presence {
    /// Of this client.
    pub fn of(row: &ClientRow) -> Self {
        match (row.connected_since, row.last_seen) {
            (Some(since), _) => Self::Connected(since),
            (None, Some(seen)) => Self::Away(seen),
            (None, None) => Self::Never,
        }
    }
}

impl Lag {
    /// On the way to the hub. What an absent device has taken meanwhile is not known.
    pub fn up(row: &ClientRow, now_ms: u64) -> Self {
        let is_fresh = |at: &u64| now_ms.saturating_sub(*at) < LATE_SHOWN_MS;
        let delay = row.received_at.filter(is_fresh).map(|at| at.saturating_sub(row.cursor.1.ms));
        match row.up {
            Some(waiting) if waiting.entries > 0 => Self::Waiting(waiting),
            None => Self::Unknown,
            Some(_) if row.connected_since.is_none() => Self::Unknown,
            Some(_) => delay.filter(|delay| *delay >= LATE_MS).map_or(Self::None, Self::Late),
        }
    }

    /// On the way to the client.
    pub fn down(row: &ClientRow) -> Self {
        if row.down.entries == 0 { Self::None } else { Self::Waiting(row.down) }
    }

    /// Whether something is known to be behind.
    pub fn is_behind(&self) -> bool {
        matches!(self, Self::Waiting(_) | Self::Late(_))
    }

    /// To sort by: entries first, then time.
    pub fn weight(&self) -> u64 {
        match self {
            Self::Waiting(waiting) => waiting.entries.saturating_add(1),
            Self::Late(_) => 1,
            Self::None | Self::Unknown => 0,
        }
    }

    /// `ok`, `120, 3h`, `late 4m` or `?`.
    pub fn words(&self, now_ms: u64) -> String {
        match self {
            Self::None => "ok".to_owned(),
            Self::Waiting(PendingEntries { entries, oldest_ms: Some(oldest) }) => {
                format!("{}, {}", short(*entries), ago(now_ms, *oldest))
            }
            Self::Waiting(PendingEntries { entries, oldest_ms: None }) => short(*entries),
            Self::Late(delay_ms) => format!("late {}", ago(*delay_ms, 0)),
            Self::Unknown => "?".to_owned(),
        }
    }
}

impl Totals {
    /// Of all clients.
    pub fn of(fleet: &Fleet, now_ms: u64) -> Self {
        let mut totals = Self { clients: fleet.rows.len(), ..Self::default() };
        let add = |sum: &mut u64, count: u64| *sum = sum.saturating_add(count);
        for row in &fleet.rows {
            totals.connected += usize::from(row.connected_since.is_some());
            totals.behind += usize::from(is_behind(row, now_ms));
            totals.clones += usize::from(clones(row, now_ms).is_some());
            add(&mut totals.received, row.received);
            add(&mut totals.delivered, delivered(row));
            add(&mut totals.lost, row.lost.saturating_add(row.origin.lost));
            add(&mut totals.dead, row.origin.dead);
        }
        totals
    }
}

/// How many entries a client has acknowledged.
pub fn delivered(row: &ClientRow) -> u64 {
    let tally = &row.origin.memory.acked.tally;
    tally.added.saturating_sub(tally.dead).saturating_sub(tally.lost)
}

/// Whether a client is behind on either way.
pub fn is_behind(row: &ClientRow, now_ms: u64) -> bool {
    Lag::up(row, now_ms).is_behind() || Lag::down(row).is_behind()
}

/// The other devices with its identity, if one tried lately.
pub fn clones(row: &ClientRow, now_ms: u64) -> Option<&DuplicateIdentities> {
    row.duplicates.as_ref().filter(|clones| now_ms.saturating_sub(clones.at_ms) < CLONE_SHOWN_MS)
}

/// One number and one unit: `42s`, `3h`.
pub fn ago(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// At most four digits: `9999`, `12.3k`, `4.5M`.
pub fn short(count: u64) -> String {
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

/// With a thin gap between thousands: `1 234 567`.
pub fn grouped(count: u64) -> String {
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

/// Bytes as text that neither commands a terminal nor turns the page around: what is not printable is
/// escaped.
pub fn shown(bytes: &[u8]) -> String {
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
    fn a_time_is_one_number_and_one_unit() {
        let ages = [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")];
        for (seconds, text) in ages {
            assert_eq!(ago(1_000_000_000, 1_000_000_000 - seconds * 1000), text);
        }
    }

    #[test]
    fn a_count_is_short_or_whole() {
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
    fn nothing_that_is_shown_commands_a_terminal_or_turns_text_around() {
        let cases: [(&[u8], &str); 4] = [
            ("é {\"a\":1}".as_bytes(), "é {\"a\":1}"),
            (b"\x1b[2J\xff", "\\x1b[2J\\xff"),
            ("é\x1b[2J".as_bytes(), "é\\u{1b}[2J"),
            ("\u{202e}cod".as_bytes(), "\\u{202e}cod"),
        ];
        for (bytes, text) in cases {
            assert_eq!(shown(bytes), text);
        }
    }
}
