//! Suggests the nearest known name for an unknown one.

/// The minimum likeness of two names for a suggestion; 1.0 is equal.
const LIKENESS_MIN: f64 = 0.8;

/// Returns the known name that is most like `key`; none if no name is like it.
pub fn nearest_name(key: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    known
        .into_iter()
        .map(|known| (likeness(key, &known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// Returns the likeness of two keys. A key in the wrong table is like the right one, a little less.
fn likeness(key: &str, known: &str) -> f64 {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let whole = strsim::jaro_winkler(key, known);
    // Jaro-Winkler finds no likeness in three letters of which two are swapped.
    let slip = if strsim::damerau_levenshtein(key, known) == 1 { 0.9 } else { 0.0 };
    whole.max(slip).max(strsim::jaro_winkler(&last(key), &last(known)) * 0.95)
}
