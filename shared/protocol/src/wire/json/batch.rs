//! Reads a list of entries up to one more than a batch, which is enough to refuse it. The rest is skipped and
//! takes no memory.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};

use crate::limits::BATCH_ENTRIES_MAX;

pub(super) struct BatchEntries<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for BatchEntries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BatchVisitor(PhantomData))
    }
}

/// Deserialises a list, and refuses one that is longer than a batch.
pub(super) fn whole<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let BatchEntries(entries) = BatchEntries::deserialize(deserializer)?;
    if entries.len() > BATCH_ENTRIES_MAX {
        let message = format!("too many entries: expected at most {BATCH_ENTRIES_MAX}");
        return Err(D::Error::custom(message));
    }
    Ok(entries)
}

struct BatchVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for BatchVisitor<T> {
    type Value = BatchEntries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<BatchEntries<T>, A::Error> {
        let mut entries = Vec::new();
        while entries.len() <= BATCH_ENTRIES_MAX {
            let Some(entry) = list.next_element()? else { return Ok(BatchEntries(entries)) };
            entries.push(entry);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(BatchEntries(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(count: usize) -> String {
        format!("[{}]", vec!["7"; count].join(","))
    }

    #[test]
    fn a_list_longer_than_a_batch_is_detected_and_the_rest_is_not_kept() {
        for (count, kept) in [(0, 0), (BATCH_ENTRIES_MAX, 1000), (1001, 1001), (5000, 1001)] {
            let BatchEntries(read) =
                serde_json::from_str::<BatchEntries<u8>>(&list(count)).unwrap();
            assert_eq!(read.len(), kept);
            let complete = whole::<u8, _>(&mut serde_json::Deserializer::from_str(&list(count)));
            assert_eq!(complete.is_ok(), count <= BATCH_ENTRIES_MAX, "{count}");
        }
    }
}
