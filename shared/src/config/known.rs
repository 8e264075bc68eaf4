//! The keys there are, and the one that was meant.

use serde::Serialize;
use serde_ignored::Path;
use serde_json::Value;

/// How alike two keys must be for one to be a slip of the other; 1.0 is equal.
const LIKENESS_MIN: f64 = 0.8;

/// The known key, or table, that looks most like this one.
pub(super) fn nearest<T: Serialize + Default>(key: &str) -> Option<String> {
    let defaults = serde_json::to_value(T::default()).ok()?;
    let mut known = Vec::new();
    collect(&defaults, "", &mut known);
    nearest_of(key, known)
}

/// The one of these names that looks most like this one.
pub(super) fn nearest_of(key: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    known
        .into_iter()
        .map(|known| (likeness(key, &known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// A key in the wrong table is alike too, a little less.
fn likeness(key: &str, known: &str) -> f64 {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let whole = strsim::jaro_winkler(key, known);
    // Jaro and Winkler find nothing alike in three letters of which two changed places.
    let slip = if strsim::damerau_levenshtein(key, known) == 1 { 0.9 } else { 0.0 };
    whole.max(slip).max(strsim::jaro_winkler(&last(key), &last(known)) * 0.95)
}

fn collect(value: &Value, prefix: &str, known: &mut Vec<String>) {
    let Value::Object(table) = value else { return };
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        collect(value, &key, known);
        known.push(key);
    }
}

/// The path as people write it in the settings.
pub(super) fn dotted(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Map { parent, key } => join(dotted(parent), key),
        Path::Seq { parent, index } => join(dotted(parent), &index.to_string()),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => dotted(parent),
    }
}

fn join(parent: String, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}
