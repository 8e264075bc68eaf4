//! The claims of the two loss ledgers of one origin, and the missing entries that they cover.
//!
//! A loss is in the ledgers of both ends, possibly split into different ranges, and either ledger may have
//! lost it with the end of its Redis's file. So lines of one epoch and kind whose ranges overlap form one
//! claim, which covers the larger count of the two ledgers.

use spoke_protocol::Seq;

use crate::entries::Stored;

/// The end that a ledger belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The origin's end.
    Origin,
    /// The copy's end.
    Copy,
}

/// One line of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The end whose ledger it is in.
    pub side: Side,
    /// The origin's epoch.
    pub epoch: u64,
    /// First seq of the range.
    pub from: Seq,
    /// Last seq of the range.
    pub to: Seq,
    /// The number of entries; `None` if it is unknown.
    pub count: Option<u64>,
    /// The cause.
    pub cause: String,
}

/// The lines about one loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    from: Seq,
    to: Seq,
    left: u64,
}

/// The causes that account for entries that are not in the copy. What the origin's own Redis forgot
/// (`origin-rewound`) is known from the book, and `uncertain` is about repeats.
const LOSSES: [&str; 4] = ["trimmed", "trimmed-or-deleted", "rewound", "refused"];

/// The lines about one origin in the ledger of one end. `direction` is `up` or `down`, and `own` is the
/// direction of a line without that field.
///
/// # Errors
/// If a line is malformed.
pub fn lines(
    ledger: &[Stored],
    (client, direction): (&str, &str),
    own: &str,
    side: Side,
) -> Result<Vec<Line>, String> {
    let is_ours = |entry: &&Stored| {
        let of = entry.text("direction");
        entry.text("client").as_deref() == Some(client) && of.as_deref().unwrap_or(own) == direction
    };
    ledger.iter().filter(is_ours).map(|entry| line(entry, side)).collect()
}

fn line(entry: &Stored, side: Side) -> Result<Line, String> {
    let text = |name: &str| entry.text(name).ok_or_else(|| format!("{entry:?} has no {name}"));
    let bad = |name: &str| format!("{name} of {entry:?}");
    let seq = |name: &str| text(name)?.parse::<Seq>().map_err(|_| bad(name));
    let count = match text("count")?.as_str() {
        "unknown" => None,
        digits => Some(digits.parse().map_err(|_| bad("count"))?),
    };
    let epoch = text("epoch")?.parse().map_err(|_| bad("epoch"))?;
    let line =
        Line { side, epoch, from: seq("from")?, to: seq("to")?, count, cause: text("cause")? };
    if line.from > line.to { Err(bad("range")) } else { Ok(line) }
}

impl Line {
    /// Returns whether the range contains this seq.
    pub fn holds(&self, seq: Seq) -> bool {
        (self.from..=self.to).contains(&seq)
    }
}

/// The claims about losses.
pub fn of_losses(lines: &[Line]) -> Vec<Claim> {
    of_causes(lines, &LOSSES)
}

/// The claims about repeats.
pub fn of_repeats(lines: &[Line]) -> Vec<Claim> {
    of_causes(lines, &["uncertain"])
}

fn of_causes(lines: &[Line], causes: &[&str]) -> Vec<Claim> {
    let mut lines: Vec<_> =
        lines.iter().filter(|line| causes.contains(&line.cause.as_str())).collect();
    lines.sort_by_key(|line| (line.epoch, line.from, line.to));
    let mut claims: Vec<Claim> = Vec::new();
    for group in lines.chunk_by(|a, b| a.epoch == b.epoch) {
        let mut sums = [0, 0];
        let mut range: Option<(Seq, Seq)> = None;
        for line in group {
            if let Some((from, to)) = range.filter(|(_, to)| line.from > *to) {
                claims.push(Claim { from, to, left: sums[0].max(sums[1]) });
                (range, sums) = (None, [0, 0]);
            }
            let (from, to) = range.unwrap_or((line.from, line.to));
            range = Some((from, to.max(line.to)));
            sums[line.side as usize] += line.count.unwrap_or(0);
        }
        claims.extend(range.map(|(from, to)| Claim { from, to, left: sums[0].max(sums[1]) }));
    }
    claims
}

/// Returns the seqs that no claim covers. Each seq uses up one entry of a claim, and the claim that ends
/// first is used first, which covers as many seqs as possible.
pub fn uncovered(mut claims: Vec<Claim>, mut seqs: Vec<Seq>) -> Vec<Seq> {
    seqs.sort_unstable();
    claims.sort_by_key(|claim| claim.to);
    seqs.retain(|seq| {
        let covers = |claim: &&mut Claim| claim.left > 0 && (claim.from..=claim.to).contains(seq);
        match claims.iter_mut().find(covers) {
            Some(claim) => {
                claim.left -= 1;
                false
            }
            None => true,
        }
    });
    seqs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::fields;

    fn line(side: Side, epoch: u64, (from, to): (u64, u64), count: u64, cause: &str) -> Line {
        let (from, to) = (Seq::new(from, 0), Seq::new(to, 0));
        Line { side, epoch, from, to, count: Some(count), cause: cause.to_owned() }
    }

    fn left(lines: &[Line], seqs: &[u64]) -> Vec<u64> {
        let seqs = seqs.iter().map(|ms| Seq::new(*ms, 0)).collect();
        uncovered(of_losses(lines), seqs).iter().map(|seq| seq.ms).collect()
    }

    #[test]
    fn a_claim_covers_its_range_and_no_more_than_its_count() {
        use Side::{Copy, Origin};
        let both = [
            line(Origin, 1, (1, 3), 2, "trimmed"),
            line(Origin, 1, (3, 5), 2, "trimmed"),
            line(Copy, 1, (1, 5), 4, "trimmed"),
        ];
        let epochs = [line(Copy, 1, (1, 5), 1, "trimmed"), line(Copy, 2, (4, 9), 1, "rewound")];
        type Row<'a> = (&'a str, &'a [Line], &'a [u64], &'a [u64]);
        let table: [Row; 6] = [
            ("no line", &[], &[1, 2], &[1, 2]),
            ("both ends have the same loss, in different ranges", &both, &[1, 2, 4, 5], &[]),
            ("one more than both counts", &both, &[1, 2, 3, 4, 5], &[5]),
            ("outside of the range", &both, &[1, 6], &[6]),
            ("two epochs, the same seq lost in each", &epochs, &[5, 5], &[]),
            ("two epochs, but the first ends before", &epochs, &[6, 7], &[7]),
        ];
        for (name, lines, seqs, expected) in table {
            assert_eq!(left(lines, seqs), expected, "{name}");
        }
    }

    #[test]
    fn a_line_without_a_count_and_a_line_that_is_no_loss_cover_nothing() {
        let mut unknown = line(Side::Origin, 1, (1, 9), 0, "origin-rewound");
        unknown.count = None;
        let repeated = line(Side::Copy, 1, (1, 9), 5, "uncertain");
        assert_eq!(left(&[unknown, repeated.clone()], &[1, 2]), [1, 2]);
        assert_eq!(uncovered(of_repeats(&[repeated]), vec![Seq::new(2, 0)]), []);
    }

    #[test]
    fn lines_are_filtered_by_client_and_direction_and_malformed_ones_are_errors() {
        let text = |client: &str, direction: Option<&str>, to: &str| {
            let mut pairs = vec![("client", client)];
            pairs.extend(direction.map(|word| ("direction", word)));
            pairs.extend([("epoch", "1"), ("from", "1-0"), ("to", to), ("count", "unknown")]);
            pairs.extend([("cause", "origin-rewound"), ("at", "5")]);
            Stored { id: "1-1".to_owned(), fields: fields(pairs) }
        };
        let ledger = [
            text("a", Some("up"), "2-0"),
            text("a", None, "2-0"),
            text("a", Some("down"), "2-0"),
            text("b", Some("up"), "2-0"),
        ];
        let found = lines(&ledger, ("a", "up"), "up", Side::Copy).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|line| line.count.is_none() && line.holds(Seq::new(1, 5))));
        assert!(lines(&[text("a", None, "0-1")], ("a", "up"), "up", Side::Copy).is_err());
        assert!(lines(&[text("a", None, "x")], ("a", "up"), "up", Side::Copy).is_err());
    }
}
