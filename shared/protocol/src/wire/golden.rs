//! What goes over the line of the versions that are in the field, as files in `golden/<version>`.
//! Only tests read them: those beside the codec, and those that play one end to the other's program.
//!
//! A file of frames is blocks of hex under `== name`; what stands behind a `#` is a note.

use std::collections::BTreeMap;

use serde_json::Value;

/// What to do when something does not fit a file any more.
pub(crate) const MEND: &str = "agents and hubs of 0.1 are in the field and speak what shared/protocol/src/wire/golden/0.1 holds: \
                        leave the files, keep what they hold for whoever shows no other feature, and say \
                        what is new behind a feature bit (ARCHITECTURE.md, \"How the wire changes\")";

/// The frames of a file by their names.
///
/// # Panics
/// When the file is not of its form.
pub(crate) fn frames(file: &str) -> BTreeMap<&str, Vec<u8>> {
    let mut frames = BTreeMap::new();
    let mut name = "";
    for line in file.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.strip_prefix("== ") {
            Some(begun) => name = begun,
            None => {
                let digits: Vec<char> = line.chars().filter(|c| !c.is_whitespace()).collect();
                let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16);
                let bytes = digits.chunks(2).map(|pair| byte(pair).expect("two hex digits"));
                frames.entry(name).or_insert_with(Vec::new).extend(bytes);
            }
        }
    }
    frames.remove("");
    frames
}

/// A JSON form of 0.1 by its name.
///
/// # Panics
/// When there is none of that name.
pub(crate) fn form(name: &str) -> Value {
    let forms: Value =
        serde_json::from_str(include_str!("golden/0.1/forms.json")).expect("the file is JSON");
    forms.get(name).unwrap_or_else(|| panic!("there is no form {name:?}")).clone()
}
