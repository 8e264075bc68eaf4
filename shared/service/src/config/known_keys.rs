//! The known keys, and the one that is most similar to an unknown key.

use serde::Serialize;
use serde_ignored::Path;
use serde_json::Value;

use spoke_diagnostics::nearest_name;

/// Returns the known key, or table, that is most similar to this one.
pub(super) fn nearest<T: Serialize + Default>(key: &str) -> Option<String> {
    let defaults = serde_json::to_value(T::default()).ok()?;
    let mut known = Vec::new();
    collect(&defaults, "", &mut known);
    nearest_name(key, known)
}

fn collect(value: &Value, prefix: &str, known: &mut Vec<String>) {
    let Value::Object(table) = value else { return };
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        collect(value, &key, known);
        known.push(key);
    }
}

/// Returns the path as it is written in the settings.
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
