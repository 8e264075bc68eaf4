//! ARCHITECTURE.md and GUARANTEES.md name the tests that guard each promise. Every named test exists.

use std::{collections::BTreeSet, fs};

use spoke_tests::sources::{root, rust_files_with_tests};

/// Fewer underscores than this make a field or a setting, not a test.
const UNDERSCORES_MIN: usize = 4;

#[test]
fn every_test_that_the_documents_name_exists() {
    let functions = functions();
    let mut named = 0;
    let mut unknown = Vec::new();
    for document in ["ARCHITECTURE.md", "GUARANTEES.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for name in code_spans(&text).flat_map(alternatives).filter(|span| is_test_name(span)) {
            named += 1;
            if !functions.iter().any(|function| matches(&name, function)) {
                unknown.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(unknown.is_empty(), "no such test: {unknown:#?}");
    assert!(named > 100, "found only {named} names");
}

#[test]
fn an_ellipsis_stands_for_any_part_of_a_name() {
    assert!(matches("a_link_…", "a_link_breaks") && matches("…_breaks", "a_link_breaks"));
    assert!(matches("an_…_is_refused_…", "an_untrusted_hub_is_refused_with_a_reason"));
    assert!(!matches("a_link_…", "the_link") && !matches("a_link", "a_link_breaks"));
    let both = alternatives("over_{ws,http}_survive".to_owned()).collect::<Vec<_>>();
    assert_eq!(both, ["over_ws_survive", "over_http_survive"]);
}

fn functions() -> BTreeSet<String> {
    let mut functions = BTreeSet::new();
    for file in rust_files_with_tests() {
        for line in fs::read_to_string(file).expect("a source file can be read").lines() {
            let line = line.trim_start().trim_start_matches("async ");
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            functions.extend(name.map(str::to_owned));
        }
    }
    functions
}

/// Returns the inline code of a Markdown text.
fn code_spans(text: &str) -> impl Iterator<Item = String> + '_ {
    let outside_of_blocks = text.split("```").step_by(2);
    outside_of_blocks.flat_map(|part| part.split('`').skip(1).step_by(2)).map(str::to_owned)
}

/// Returns the names that `a_{b,c}_d` stands for.
fn alternatives(span: String) -> impl Iterator<Item = String> {
    let parts = span.split_once('{').and_then(|(before, rest)| {
        let (choices, after) = rest.split_once('}')?;
        Some(choices.split(',').map(|choice| format!("{before}{choice}{after}")).collect())
    });
    parts.unwrap_or_else(|| vec![span]).into_iter()
}

fn is_test_name(span: &str) -> bool {
    span.chars()
        .all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || "_…".contains(char))
        && span.matches('_').count() >= UNDERSCORES_MIN
}

/// Returns whether `function` has the name, in which `…` stands for any text.
fn matches(name: &str, function: &str) -> bool {
    let mut parts = name.split('…');
    let Some(mut rest) = function.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut is_open = false;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        is_open = part.is_empty();
    }
    is_open || rest.is_empty()
}
