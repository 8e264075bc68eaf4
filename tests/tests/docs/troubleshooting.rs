//! docs/troubleshooting.md lists each cause why an agent is not connected. `logs` checks its messages.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

use std::{collections::BTreeSet, fs};

use spoke_agent::{AuthWait, DisconnectCause};
use spoke_tests::sources::root;

fn guide() -> String {
    fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap()
}

#[test]
fn the_guide_lists_exactly_the_causes_why_an_agent_is_not_connected() {
    let guide = guide();
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<_> = rows
        .flat_map(|row| row.split(" | ").next().unwrap_or_default().split(", "))
        .map(|word| word.trim_matches('`'))
        .collect();
    let known = DisconnectCause::ALL.into_iter().map(DisconnectCause::word).chain(AuthWait::WORDS);
    assert_eq!(listed, known.collect());
}
