//! The oracle of the chaos run: compares one origin with its copy, its dead letters and both ledgers.
//!
//! An entry is identified by its content, never by its ID: a Redis that lost the end of its file generates
//! the same IDs again. Each entry has to be in the copy exactly once, or among the dead letters, or
//! covered by a line of a ledger, or forgotten by its origin's own Redis, or deleted by an app.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
};

use spoke_protocol::Seq;

use super::{
    history::{Added, Book, Fate},
    ledger_claims::{Line, of_losses, of_repeats, uncovered},
};

/// One entry of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Its number in this origin; `None` if it is not an entry of this origin.
    pub number: Option<u64>,
    /// Its ID in the origin, according to the copy.
    pub seq: Seq,
    /// The origin's epoch; a device's copy does not contain it.
    pub epoch: Option<u64>,
    /// The digest of the sender's fields.
    pub digest: u64,
}

/// Everything that was found about one origin at the end.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// The entries that were added.
    pub book: &'a Book,
    /// The entries of the copy, in order.
    pub copy: &'a [Copied],
    /// The numbers of the dead letters.
    pub dead: &'a BTreeSet<u64>,
    /// The numbers of the entries that the origin still holds.
    pub held: &'a BTreeSet<u64>,
    /// The lines of both ledgers.
    pub lines: &'a [Line],
    /// The epoch that the copy is in.
    pub epoch: u64,
    /// How often the copy's Redis came back with an older state.
    pub copy_rewinds: u32,
}

/// The verdict on one origin. Each item of a list is a fault, described in a line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Entries that were added, or may have been.
    pub offered: usize,
    /// Of those, the ones in the copy.
    pub carried: usize,
    /// Of those, the ones among the dead letters.
    pub dead: usize,
    /// Of those, the ones accounted for by a ledger only.
    pub in_ledger: usize,
    /// Of those, the ones forgotten by the origin's own Redis; some were carried before.
    pub forgotten: usize,
    /// Of those, the ones deleted by an app; some were carried before.
    pub deleted: usize,
    /// Of those, the ones never answered and not found afterwards.
    pub unanswered: usize,
    /// IDs that the origin's Redis generated again after it had forgotten them.
    pub reused_ids: usize,
    /// Entries twice in the copy, and recorded in a ledger as uncertain.
    pub uncertain: usize,
    /// Entries more than once in the copy, and not recorded as uncertain.
    pub duplicated: Vec<String>,
    /// Entries found nowhere.
    pub missing: Vec<String>,
    /// Entries after a newer one of the same epoch.
    pub misordered: Vec<String>,
    /// Entries in the copy that were changed, or never added.
    pub altered: Vec<String>,
    /// Lines of a ledger that are wrong.
    pub misstated: Vec<String>,
}

/// Judges one origin.
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let Evidence { book, copy, dead, .. } = evidence;
    let carried: BTreeSet<u64> = copy.iter().filter_map(|copied| copied.number).collect();
    let count = |fate| book.entries.iter().filter(|added| added.fate == fate).count();
    let lost = lost(evidence, &carried);
    let without = lost.iter().filter_map(|added| added.seq).collect();
    let uncovered: BTreeSet<_> =
        uncovered(of_losses(evidence.lines), without).into_iter().collect();
    let is_missing = |added: &&Added| added.seq.is_some_and(|seq| uncovered.contains(&seq));
    let (missing, covered): (Vec<&Added>, Vec<&Added>) = lost.into_iter().partition(is_missing);
    let repeats = repeats(evidence);
    let duplicated = duplicated(evidence, &repeats);
    Verdict {
        offered: book.entries.len(),
        carried: carried.len(),
        dead: dead.len(),
        in_ledger: covered.len(),
        forgotten: count(Fate::Forgotten),
        deleted: count(Fate::Deleted),
        unanswered: count(Fate::Unanswered),
        reused_ids: reused_ids(book),
        uncertain: repeats.len() - duplicated.len(),
        duplicated,
        missing: missing.iter().map(|added| describe(book, added)).collect(),
        misordered: misordered(evidence),
        altered: altered(evidence),
        misstated: misstated(evidence, &covered),
    }
}

fn reused_ids(book: &Book) -> usize {
    let seqs: Vec<_> = book.entries.iter().filter_map(|added| added.seq).collect();
    seqs.len() - seqs.iter().collect::<BTreeSet<_>>().len()
}

/// The entries that only a ledger can account for.
fn lost<'a>(evidence: &Evidence<'a>, carried: &BTreeSet<u64>) -> Vec<&'a Added> {
    let is_lost = |added: &&Added| {
        let is_dead_letter =
            added.is_poison && (added.is_rewound || evidence.dead.contains(&added.number));
        added.fate == Fate::Kept && !carried.contains(&added.number) && !is_dead_letter
    };
    evidence.book.entries.iter().filter(is_lost).collect()
}

/// Entries of the copy that were in it before.
fn repeats<'a>(evidence: &Evidence<'a>) -> Vec<&'a Copied> {
    let mut seen = HashSet::new();
    let is_repeat = |copied: &&Copied| copied.number.is_some_and(|number| !seen.insert(number));
    evidence.copy.iter().filter(is_repeat).collect()
}

fn duplicated(evidence: &Evidence<'_>, repeats: &[&Copied]) -> Vec<String> {
    let seqs = repeats.iter().map(|copied| copied.seq).collect();
    let unknown: BTreeSet<_> = uncovered(of_repeats(evidence.lines), seqs).into_iter().collect();
    let unknown = repeats.iter().filter(|copied| unknown.contains(&copied.seq));
    let number = |copied: &Copied| copied.number.unwrap_or_default();
    let origin = &evidence.book.origin;
    unknown.map(|copied| format!("{origin}/{} at {}", number(copied), place(copied))).collect()
}

/// Within an epoch, seqs rise. A device's copy does not contain the epoch, so there they may fall once for
/// each epoch after the first.
fn misordered(evidence: &Evidence<'_>) -> Vec<String> {
    let mut last: HashMap<Option<u64>, &Copied> = HashMap::new();
    let mut falls = Vec::new();
    for copied in evidence.copy {
        if let Some(before) = last.insert(copied.epoch, copied)
            && copied.seq <= before.seq
        {
            let origin = &evidence.book.origin;
            falls.push(format!("{origin}: {} after {}", place(copied), place(before)));
        }
    }
    let has_epochs = evidence.copy.iter().all(|copied| copied.epoch.is_some());
    let allowed = if has_epochs { 0 } else { evidence.epoch.saturating_sub(1) as usize };
    if falls.len() > allowed { falls } else { Vec::new() }
}

fn altered(evidence: &Evidence<'_>) -> Vec<String> {
    let book = evidence.book;
    let added: HashMap<u64, &Added> =
        book.entries.iter().map(|added| (added.number, added)).collect();
    let fault = |copied: &Copied| match copied.number.and_then(|number| added.get(&number)) {
        None => Some(format!("{}: {} was never added", book.origin, place(copied))),
        Some(added) if added.digest != copied.digest => {
            Some(format!("{} at {} has other fields", describe(book, added), place(copied)))
        }
        Some(added) if added.seq.is_some_and(|seq| seq != copied.seq) => {
            Some(format!("{} at {} has another seq", describe(book, added), place(copied)))
        }
        Some(added) if added.is_poison => Some(format!("{} is poison", describe(book, added))),
        Some(_) => None,
    };
    evidence.copy.iter().filter_map(fault).collect()
}

/// Lines of a ledger that are wrong. If the origin was never rewound, an entry that it still holds is not
/// lost. If the copy was not rewound either, only what an app trimmed is lost, with the exact count.
/// Otherwise a line may be about entries that came back since, and only what it covers counts.
fn misstated(evidence: &Evidence<'_>, lost: &[&Added]) -> Vec<String> {
    let book = evidence.book;
    let fault = |what: &str, added: &&Added| format!("{} {what}", describe(book, added));
    let mut faults = Vec::new();
    if book.rewinds == 0 {
        let held = lost.iter().filter(|added| evidence.held.contains(&added.number));
        faults.extend(held.map(|added| fault("is still in its origin", added)));
    }
    if evidence.copy_rewinds == 0 {
        let untrimmed = lost.iter().filter(|added| !added.is_trimmed);
        faults.extend(untrimmed.map(|added| fault("was trimmed by no app", added)));
    }
    if book.rewinds + evidence.copy_rewinds == 0 {
        faults.extend(inexact(evidence, lost));
    }
    faults
}

fn inexact(evidence: &Evidence<'_>, lost: &[&Added]) -> Vec<String> {
    let book = evidence.book;
    let unanswered = book.entries.iter().filter(|added| added.fate == Fate::Unanswered);
    let unanswered = unanswered.count() as u64;
    let fault = |line: &Line| {
        let held = lost.iter().filter(|added| added.seq.is_some_and(|seq| line.holds(seq)));
        let held = held.count() as u64;
        let is_right = match line.cause.as_str() {
            "trimmed" | "refused" => {
                line.count.is_some_and(|count| (held..=held + unanswered).contains(&count))
            }
            "trimmed-or-deleted" => line.count.is_some_and(|count| count >= held),
            _ => false,
        };
        (!is_right).then(|| format!("{}: {line}, but {held} are missing", book.origin))
    };
    evidence.lines.iter().filter_map(fault).collect()
}

fn place(copied: &Copied) -> String {
    match copied.epoch {
        Some(epoch) => format!("{} in epoch {epoch}", copied.seq),
        None => copied.seq.to_string(),
    }
}

fn describe(book: &Book, added: &Added) -> String {
    let seq = added.seq.map_or("no seq".to_owned(), |seq| seq.to_string());
    format!("{}/{} ({seq})", book.origin, added.number)
}

impl Verdict {
    /// Returns whether there is no fault.
    pub fn is_good(&self) -> bool {
        self.faults().iter().all(|(_, faults)| faults.is_empty())
    }

    /// All faults, by kind.
    pub fn faults(&self) -> [(&'static str, &[String]); 5] {
        [
            ("duplicated", &self.duplicated),
            ("missing", &self.missing),
            ("out of order", &self.misordered),
            ("altered", &self.altered),
            ("misstated by a ledger", &self.misstated),
        ]
    }

    /// The sum of this verdict and another one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.offered += other.offered;
        self.carried += other.carried;
        self.dead += other.dead;
        self.in_ledger += other.in_ledger;
        self.forgotten += other.forgotten;
        self.deleted += other.deleted;
        self.unanswered += other.unanswered;
        self.reused_ids += other.reused_ids;
        self.uncertain += other.uncertain;
        self.duplicated.extend(other.duplicated);
        self.missing.extend(other.missing);
        self.misordered.extend(other.misordered);
        self.altered.extend(other.altered);
        self.misstated.extend(other.misstated);
        self
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offered, carried, dead, in_ledger, forgotten, deleted, .. } = self;
        let Self { unanswered, reused_ids, uncertain, .. } = self;
        write!(
            f,
            "offered {offered}: carried {carried}, dead letters {dead}, in the ledger {in_ledger}, \
             forgotten by their own Redis {forgotten} ({reused_ids} IDs generated again), \
             deleted by apps {deleted}, unanswered {unanswered}, perhaps twice {uncertain}"
        )?;
        let faults = self.faults().map(|(word, faults)| format!("{word} {}", faults.len()));
        write!(f, "; {}", faults.join(", "))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { side, epoch, from, to, count, cause } = self;
        let count = count.map_or("unknown".to_owned(), |count| count.to_string());
        write!(f, "{side:?}'s ledger says {cause} {count} from {from} to {to} in epoch {epoch}")
    }
}

#[cfg(test)]
mod tests;
