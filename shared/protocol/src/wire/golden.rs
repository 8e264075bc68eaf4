//! The frames and JSON bodies of released versions, as files in `golden/<version>`. Only tests read them: those of
//! the codec, and those that act as a peer of an older version.
//!
//! A file of frames has blocks of hex under `== name`; `#` begins a comment.

use std::collections::BTreeMap;

use serde_json::Value;

/// What to do if a test fails because a golden file does not match.
pub(crate) const HELP: &str = "agents and hubs of 0.1 are in use and send the bytes in shared/protocol/src/wire/golden/0.1. Keep the \
     files, keep sending their content to peers without a newer feature, and put additions behind a \
     feature bit (ARCHITECTURE.md, \"How the wire changes\")";

/// Returns the frames of a file by name.
///
/// # Panics
/// If the file is malformed.
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

/// Returns a JSON body of 0.1 by name.
///
/// # Panics
/// If no body has this name.
pub(crate) fn json_body(name: &str) -> Value {
    let bodies: Value =
        serde_json::from_str(include_str!("golden/0.1/forms.json")).expect("the file is JSON");
    bodies.get(name).unwrap_or_else(|| panic!("no JSON body {name:?}")).clone()
}
