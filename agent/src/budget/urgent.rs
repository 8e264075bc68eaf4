//! Finds the urgent entries that wait, while only the reserve of the budget is left.

use spoke_protocol::{Entry, Seq};
use spoke_store::{OriginStore, StoreError};

use super::traffic::UrgentField;

/// Entries of one read.
const PAGE: usize = 100;

/// What a session may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BudgetPass {
    /// Everything.
    All,
    /// Everything up to this urgent entry.
    UpTo(Seq),
}

impl BudgetPass {
    /// Returns the entry after which nothing is sent, if any.
    pub(crate) fn last(self) -> Option<Seq> {
        match self {
            Self::All => None,
            Self::UpTo(seq) => Some(seq),
        }
    }
}

impl UrgentField {
    fn matches(&self, entry: &Entry) -> bool {
        let is_it = |(name, value): &(bytes::Bytes, bytes::Bytes)| {
            name == self.field.as_bytes() && value == self.value.as_bytes()
        };
        entry.fields.iter().any(is_it)
    }
}

/// Which entries were looked at while only the reserve was left.
#[derive(Debug, Default)]
pub(crate) struct UrgentScan {
    through: Seq,
    found: Option<Seq>,
}

impl UrgentScan {
    /// Returns the last entry that was looked at.
    pub(crate) fn through(&self) -> Seq {
        self.through
    }

    /// Reads the entries that were not looked at, to the end of the stream. Returns the last urgent
    /// one that is not acknowledged.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub(crate) async fn look(
        &mut self,
        origin: &OriginStore,
        urgent: &UrgentField,
        acked: Seq,
    ) -> Result<Option<Seq>, StoreError> {
        self.through = self.through.max(acked);
        self.found = self.found.filter(|seq| *seq > acked);
        loop {
            let page = origin.peek(self.through, PAGE).await?;
            let Some(last) = page.last() else { return Ok(self.found) };
            self.through = last.seq;
            let found = page.iter().rfind(|entry| urgent.matches(entry));
            self.found = found.map(|entry| entry.seq).or(self.found);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_entry_is_urgent_if_one_of_its_fields_has_the_name_and_the_value() {
        let entry = |fields: &[(&'static str, &'static str)]| Entry {
            seq: Seq::new(1, 0),
            fields: fields.iter().map(|(n, v)| (Bytes::from(*n), Bytes::from(*v))).collect(),
        };
        let urgent: UrgentField = "level=alarm".parse().unwrap();
        assert!(urgent.matches(&entry(&[("n", "1"), ("level", "info"), ("level", "alarm")])));
        for fields in
            [&[("level", "alarms")][..], &[("Level", "alarm")], &[("alarm", "level")], &[]]
        {
            assert!(!urgent.matches(&entry(fields)));
        }
    }
}
