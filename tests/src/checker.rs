//! The oracle: compares the entries added at an origin with those of the copy. Exactly once, in order, bit
//! for bit.

use std::{collections::HashSet, fmt::Write};

use crate::entries::{Fields, Stored};

/// One entry of a copy: the fields that Spoke prepends, and the sender's fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Carried {
    /// The entry's ID in its origin.
    pub seq: String,
    /// The origin's epoch; `None` in a device's copy, which does not contain it.
    pub epoch: Option<u64>,
    /// The sender's fields.
    pub fields: Fields,
}

/// The entries of one client in `spoke-hub:in:x`.
///
/// # Panics
/// If an entry does not begin with `client`, `epoch` and `seq`.
pub fn from_device(copy: &[Stored], client: &str) -> Vec<Carried> {
    let ours = copy.iter().filter(|entry| entry.text("client").as_deref() == Some(client));
    ours.map(|entry| {
        let [_, epoch, seq] = leading(entry, ["client", "epoch", "seq"]);
        let epoch = Some(epoch.parse().expect("an epoch is a whole number"));
        Carried { seq, epoch, fields: entry.fields[3..].to_vec() }
    })
    .collect()
}

/// The entries of `spoke-agent:in:x`.
///
/// # Panics
/// If an entry does not begin with `seq`.
pub fn from_hub(copy: &[Stored]) -> Vec<Carried> {
    let carried = |entry: &Stored| {
        let [seq] = leading(entry, ["seq"]);
        Carried { seq, epoch: None, fields: entry.fields[1..].to_vec() }
    };
    copy.iter().map(carried).collect()
}

/// The entries that a copy must hold for these.
pub fn expected(added: &[Stored], epoch: Option<u64>) -> Vec<Carried> {
    let carried =
        |Stored { id, fields }: &Stored| Carried { seq: id.clone(), epoch, fields: fields.clone() };
    added.iter().map(carried).collect()
}

/// Asserts that both are the same. Prints only the first difference, since a listing of 20,000 entries
/// would be useless.
///
/// # Panics
/// If they differ.
pub fn assert_same(what: &str, expected: &[Carried], found: &[Carried]) {
    if expected == found {
        return;
    }
    let at = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    let mut report = format!(
        "{what}: {} entries expected, {} found, the same up to number {at}\n",
        expected.len(),
        found.len()
    );
    for (name, list) in [("expected", expected), ("found", found)] {
        for (i, entry) in list.iter().enumerate().skip(at.saturating_sub(1)).take(3) {
            let _ = writeln!(report, "  {name} {i}: {}", brief(entry));
        }
    }
    let known: HashSet<_> = found.iter().collect();
    let missing = expected.iter().filter(|entry| !known.contains(entry)).count();
    let _ = writeln!(
        report,
        "  not found at all: {missing}; found twice: {}",
        found.len() - known.len()
    );
    panic!("{report}");
}

fn leading<const N: usize>(entry: &Stored, names: [&str; N]) -> [String; N] {
    let mut position = 0;
    names.map(|name| {
        let found = entry.fields.get(position);
        let (field, value) = found.unwrap_or_else(|| panic!("{} has no `{name}`", entry.id));
        assert_eq!(field, name.as_bytes(), "field {position} of {}", entry.id);
        position += 1;
        String::from_utf8(value.clone()).expect("the fields that Spoke prepends are text")
    })
}

fn brief(entry: &Carried) -> String {
    let mut fields = entry.fields.iter().take(3).map(|(name, value)| {
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(24)].escape_ascii().to_string();
        format!("{}={}", cut(name), cut(value))
    });
    let fields: Vec<_> = fields.by_ref().collect();
    format!("seq {} epoch {:?} {}", entry.seq, entry.epoch, fields.join(" "))
}
