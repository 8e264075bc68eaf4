//! The name that was meant, where one is not known.

/// How alike two keys must be for one to be a slip of the other; 1.0 is equal.
const LIKENESS_MIN: f64 = 0.8;

/// The one of these names that looks most like this one.
pub fn nearest_name(key: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
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
