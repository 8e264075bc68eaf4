//! docs/troubleshooting.md quotes what the services say, so that it cannot rot.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use spoke_agent::{AuthWait, DisconnectCause};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn guide() -> String {
    fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap()
}

/// All sources of the services up to their tests, with strings that go over several lines joined.
fn sources() -> String {
    let mut folders: Vec<_> = [
        "agent",
        "auth",
        "hub",
        "shared/diagnostics",
        "shared/protocol",
        "shared/service",
        "shared/store",
    ]
    .map(|part| root().join(part).join("src"))
    .into();
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs")
                && !path.ends_with("tests.rs")
            {
                let source = fs::read_to_string(path).unwrap();
                let code = source.split("#[cfg(test)]").next().unwrap_or_default();
                text.extend(joined(code));
            }
        }
    }
    text
}

/// A backslash at a line's end takes the break and the blanks behind it away.
fn joined(code: &str) -> impl Iterator<Item = &str> {
    let mut parts = code.split("\\\n");
    parts.next().into_iter().chain(parts.map(|part| part.trim_start()))
}

#[test]
fn each_message_of_the_guide_is_said_by_a_service() {
    let (guide, sources) = (guide(), sources());
    let headings = guide.lines().filter_map(|line| line.strip_prefix("### "));
    let messages: Vec<_> = headings.map(|heading| heading.trim_matches('`')).collect();
    assert_eq!(messages.len(), 38, "a message was added or removed");
    for message in messages {
        let is_said = sources.lines().any(|line| {
            let is_comment = line.trim_start().starts_with("//");
            !is_comment && line.contains(message)
        });
        assert!(is_said, "no service says {message:?} any more");
    }
}

#[test]
fn the_guide_has_each_cause_for_which_an_agent_is_not_connected_and_no_other() {
    let guide = guide();
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `"));
    let told: BTreeSet<_> = rows
        .flat_map(|row| row.split(" | ").next().unwrap_or_default().split(", "))
        .map(|word| word.trim_matches('`'))
        .collect();
    let known = DisconnectCause::ALL.into_iter().map(DisconnectCause::word).chain(AuthWait::WORDS);
    assert_eq!(told, known.collect());
}
