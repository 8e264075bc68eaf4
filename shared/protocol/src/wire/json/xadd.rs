//! The body of `POST /xadd`, read in one pass. Its keys decide whether it is one entry or a batch.
//!
//! Rejected: serde's untagged enums, which copy the whole body first and cannot name the fault.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

use super::{BatchBody, EntryBody, Fields, batch::BatchEntries};
use crate::{
    limits::LOSSES_MAX,
    loss::BatchAccount,
    seal::Seal,
    seq::{Epoch, Seq},
};

/// The body of `POST /xadd`: one entry or a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XaddBody {
    /// A batch.
    Batch(BatchBody),
    /// One entry.
    One(EntryBody),
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum XaddKey {
    Seq,
    Fields,
    Epoch,
    After,
    Through,
    Entries,
    Account,
    Seal,
}

impl<'de> Deserialize<'de> for XaddBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(XaddVisitor)
    }
}

struct XaddVisitor;

impl<'de> Visitor<'de> for XaddVisitor {
    type Value = XaddBody;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{\"seq\", \"fields\"} or {\"entries\": [{\"seq\", \"fields\"}, …]}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<XaddBody, A::Error> {
        let mut seq: Option<Seq> = None;
        let mut fields: Option<Fields> = None;
        let mut epoch: Option<Epoch> = None;
        let mut after: Option<Seq> = None;
        let mut through: Option<Seq> = None;
        let mut entries: Option<Vec<EntryBody>> = None;
        let mut account: Option<BatchAccount> = None;
        let mut seal: Option<Seal> = None;
        while let Some(key) = object.next_key()? {
            match key {
                XaddKey::Seq => set(&mut seq, "seq", object.next_value()?)?,
                XaddKey::Fields => set(&mut fields, "fields", object.next_value()?)?,
                XaddKey::Epoch => set(&mut epoch, "epoch", object.next_value()?)?,
                XaddKey::After => set(&mut after, "after", object.next_value()?)?,
                XaddKey::Through => set(&mut through, "through", object.next_value()?)?,
                XaddKey::Entries => {
                    set(&mut entries, "entries", object.next_value::<BatchEntries<_>>()?.0)?
                }
                XaddKey::Account => set(&mut account, "account", object.next_value()?)?,
                XaddKey::Seal => set(&mut seal, "seal", object.next_value()?)?,
            }
        }
        match entries {
            Some(_) if seq.is_some() || fields.is_some() => Err(Error::custom(
                "invalid batch: seq and fields belong in its entries, not beside them",
            )),
            Some(entries) => {
                let account = account.unwrap_or_default();
                if account.losses.len() > LOSSES_MAX {
                    return Err(Error::custom(format_args!(
                        "too many losses: expected at most {LOSSES_MAX}"
                    )));
                }
                Ok(XaddBody::Batch(BatchBody { epoch, after, through, entries, account, seal }))
            }
            None if epoch.is_some()
                || after.is_some()
                || through.is_some()
                || account.is_some()
                || seal.is_some() =>
            {
                Err(Error::custom(
                    "missing entries: epoch, after, through, account and seal are keys of a batch",
                ))
            }
            None => Ok(XaddBody::One(EntryBody {
                seq: seq.ok_or_else(|| Error::missing_field("seq"))?,
                fields: fields.ok_or_else(|| Error::missing_field("fields"))?,
            })),
        }
    }
}

fn set<T, E: Error>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<XaddBody, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn one_entry_and_a_batch_are_distinguished() {
        let one = read(r#"{"seq":"5-1","fields":{"a":"b"}}"#).unwrap();
        assert!(matches!(one, XaddBody::One(EntryBody { seq: Seq { ms: 5, n: 1 }, .. })));
        let batch = r#"{"through":"6-0","epoch":2,"entries":[{"seq":"5-1","fields":[["a","b"]]}]}"#;
        let XaddBody::Batch(batch) = read(batch).unwrap() else { panic!("not a batch") };
        assert_eq!((batch.epoch, batch.after), (Some(Epoch(2)), None));
        assert_eq!((batch.through, batch.entries.len()), (Some(Seq::new(6, 0)), 1));
    }

    #[test]
    fn any_other_body_is_refused_and_the_error_names_the_problem() {
        for (text, problem) in [
            ("{}", "missing field `seq`"),
            (r#"{"seq":"5-1"}"#, "missing field `fields`"),
            (r#"{"seq":"05-1","fields":[]}"#, "two whole numbers"),
            (r#"{"seq":"5-1","fields":[],"client":"dev2"}"#, "unknown field `client`"),
            (r#"{"seq":"5-1","seq":"5-1","fields":[]}"#, "duplicate field `seq`"),
            (r#"{"seq":"5-1","fields":[],"epoch":1}"#, "are keys of a batch"),
            (r#"{"seq":"5-1","entries":[]}"#, "belong in its entries"),
            (r#"{"entries":[],"epcoh":2}"#, "unknown field `epcoh`"),
            (r#"{"entries":[],"epoch":-1}"#, "expected u64"),
            (r#"{"entries":[],"epoch":9007199254740992}"#, "at most 9007199254740991"),
            (r#"{"entries":[{"seq":"1-0","fields":[],"x":1}]}"#, "unknown field `x`"),
            ("[]", r#"expected {"seq", "fields"} or {"entries""#),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
