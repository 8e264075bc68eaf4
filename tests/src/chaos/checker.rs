//! The oracle of the chaos run: one origin held against its copy, its dead letters and both ledgers.
//!
//! An entry is known by what it holds, never by its ID: a Redis that lost the end of its file gives
//! out the same IDs again. Each entry has to be in the copy exactly once, or among the dead letters, or
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
    /// Its number in this origin; none where it is no entry of this origin.
    pub number: Option<u64>,
    /// Its ID in the origin, as the copy says.
    pub seq: Seq,
    /// The life of the origin; a device's copy does not say.
    pub epoch: Option<u64>,
    /// Of the sender's fields.
    pub digest: u64,
}

/// All that was found of one origin in the end.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// What was added.
    pub book: &'a Book,
    /// What the copy holds, in its order.
    pub copy: &'a [Copied],
    /// The numbers of the dead letters.
    pub dead: &'a BTreeSet<u64>,
    /// The numbers of those that the origin holds still.
    pub held: &'a BTreeSet<u64>,
    /// What both ledgers say.
    pub lines: &'a [Line],
    /// The epoch that the copy is in.
    pub epoch: u64,
    /// How often the copy's Redis came back with an older state.
    pub copy_rewinds: u32,
}

/// What came of it. Everything in the lists is a fault, told in a line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Entries that were added, or may have been.
    pub offered: usize,
    /// Of those, in the copy.
    pub carried: usize,
    /// Of those, among the dead letters.
    pub dead: usize,
    /// Of those, accounted for by a ledger only.
    pub in_ledger: usize,
    /// Of those, forgotten by the origin's own Redis; some were carried before.
    pub forgotten: usize,
    /// Of those, deleted by an app; some were carried before.
    pub deleted: usize,
    /// Of those, never answered and not found afterwards.
    pub unanswered: usize,
    /// IDs that the origin's Redis gave out again after it had forgotten them.
    pub reminted: usize,
    /// Twice in the copy, and known by a ledger as uncertain.
    pub uncertain: usize,
    /// More than once in the copy, and not known as uncertain.
    pub duplicated: Vec<String>,
    /// Nowhere.
    pub missing: Vec<String>,
    /// Before an older one of the same epoch.
    pub misordered: Vec<String>,
    /// In the copy, but not as it was added, or never added.
    pub altered: Vec<String>,
    /// Lines of a ledger that are not so.
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
        reminted: reminted(book),
        uncertain: repeats.len() - duplicated.len(),
        duplicated,
        missing: missing.iter().map(|added| tell(book, added)).collect(),
        misordered: misordered(evidence),
        altered: altered(evidence),
        misstated: misstated(evidence, &covered),
    }
}

fn reminted(book: &Book) -> usize {
    let seqs: Vec<_> = book.entries.iter().filter_map(|added| added.seq).collect();
    seqs.len() - seqs.iter().collect::<BTreeSet<_>>().len()
}

/// What only a ledger can account for.
fn lost<'a>(evidence: &Evidence<'a>, carried: &BTreeSet<u64>) -> Vec<&'a Added> {
    let is_lost = |added: &&Added| {
        let is_buried =
            added.is_poison && (added.is_rewound || evidence.dead.contains(&added.number));
        added.fate == Fate::Kept && !carried.contains(&added.number) && !is_buried
    };
    evidence.book.entries.iter().filter(is_lost).collect()
}

/// What comes for the second time.
fn repeats<'a>(evidence: &Evidence<'a>) -> Vec<&'a Copied> {
    let mut seen = HashSet::new();
    let is_again = |copied: &&Copied| copied.number.is_some_and(|number| !seen.insert(number));
    evidence.copy.iter().filter(is_again).collect()
}

fn duplicated(evidence: &Evidence<'_>, repeats: &[&Copied]) -> Vec<String> {
    let seqs = repeats.iter().map(|copied| copied.seq).collect();
    let unknown: BTreeSet<_> = uncovered(of_repeats(evidence.lines), seqs).into_iter().collect();
    let unknown = repeats.iter().filter(|copied| unknown.contains(&copied.seq));
    let number = |copied: &Copied| copied.number.unwrap_or_default();
    let origin = &evidence.book.origin;
    unknown.map(|copied| format!("{origin}/{} at {}", number(copied), place(copied))).collect()
}

/// Within an epoch, seqs rise. A device's copy does not say where an epoch begins; there they may
/// fall once for each.
fn misordered(evidence: &Evidence<'_>) -> Vec<String> {
    let mut last: HashMap<Option<u64>, &Copied> = HashMap::new();
    let mut falls = Vec::new();
    for copied in evidence.copy {
        if let Some(before) = last.insert(copied.epoch, copied)
            && copied.seq <= before.seq
        {
            let origin = &evidence.book.origin;
            falls.push(format!("{origin}: {} behind {}", place(copied), place(before)));
        }
    }
    let is_told = evidence.copy.iter().all(|copied| copied.epoch.is_some());
    let allowed = if is_told { 0 } else { evidence.epoch.saturating_sub(1) as usize };
    if falls.len() > allowed { falls } else { Vec::new() }
}

fn altered(evidence: &Evidence<'_>) -> Vec<String> {
    let book = evidence.book;
    let added: HashMap<u64, &Added> =
        book.entries.iter().map(|added| (added.number, added)).collect();
    let fault = |copied: &Copied| match copied.number.and_then(|number| added.get(&number)) {
        None => Some(format!("{}: {} was never added", book.origin, place(copied))),
        Some(added) if added.digest != copied.digest => {
            Some(format!("{} at {} holds something else", tell(book, added), place(copied)))
        }
        Some(added) if added.seq.is_some_and(|seq| seq != copied.seq) => {
            Some(format!("{} at {} bears another seq", tell(book, added), place(copied)))
        }
        Some(added) if added.is_poison => Some(format!("{} is poison", tell(book, added))),
        Some(_) => None,
    };
    evidence.copy.iter().filter_map(fault).collect()
}

/// What a ledger should not say. Where the origin never went back, what it still holds is not lost, and
/// where the copy did not either, nothing is but what an app trimmed, to the number. Otherwise a line
/// may speak of what came back since, and only what it covers counts.
fn misstated(evidence: &Evidence<'_>, lost: &[&Added]) -> Vec<String> {
    let book = evidence.book;
    let told = |what: &str, added: &&Added| format!("{} {what}", tell(book, added));
    let mut faults = Vec::new();
    if book.rewinds == 0 {
        let held = lost.iter().filter(|added| evidence.held.contains(&added.number));
        faults.extend(held.map(|added| told("is still in its origin", added)));
    }
    if evidence.copy_rewinds == 0 {
        let untrimmed = lost.iter().filter(|added| !added.is_trimmed);
        faults.extend(untrimmed.map(|added| told("was trimmed by no app", added)));
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
        let is_so = match line.cause.as_str() {
            "trimmed" | "refused" => {
                line.count.is_some_and(|count| (held..=held + unanswered).contains(&count))
            }
            "trimmed-or-deleted" => line.count.is_some_and(|count| count >= held),
            _ => false,
        };
        (!is_so).then(|| format!("{}: {line}, where {held} are missing", book.origin))
    };
    evidence.lines.iter().filter_map(fault).collect()
}

fn place(copied: &Copied) -> String {
    match copied.epoch {
        Some(epoch) => format!("{} in epoch {epoch}", copied.seq),
        None => copied.seq.to_string(),
    }
}

fn tell(book: &Book, added: &Added) -> String {
    let seq = added.seq.map_or("no seq".to_owned(), |seq| seq.to_string());
    format!("{}/{} ({seq})", book.origin, added.number)
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.faults().iter().all(|(_, faults)| faults.is_empty())
    }

    /// All that is wrong, by its kind.
    pub fn faults(&self) -> [(&'static str, &[String]); 5] {
        [
            ("duplicated", &self.duplicated),
            ("missing", &self.missing),
            ("out of order", &self.misordered),
            ("altered", &self.altered),
            ("misstated by a ledger", &self.misstated),
        ]
    }

    /// This and another one together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.offered += other.offered;
        self.carried += other.carried;
        self.dead += other.dead;
        self.in_ledger += other.in_ledger;
        self.forgotten += other.forgotten;
        self.deleted += other.deleted;
        self.unanswered += other.unanswered;
        self.reminted += other.reminted;
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
        let Self { unanswered, reminted, uncertain, .. } = self;
        write!(
            f,
            "offered {offered}: carried {carried}, dead letters {dead}, in the ledger {in_ledger}, \
             forgotten by their own Redis {forgotten} ({reminted} IDs given out again), deleted by apps {deleted}, \
             unanswered {unanswered}, perhaps twice {uncertain}"
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
