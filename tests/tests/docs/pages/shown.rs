//! Compares an output with the one that a document shows.
//!
//! IDs of entries differ from run to run, so all IDs are equal; `…` stands for any text.

use serde_json::Value;

/// Compares as text or as JSON, by the language of the block.
///
/// # Errors
/// The expected and the actual output, if they differ.
pub(crate) fn compare(
    language: &str,
    shown: &str,
    output: &str,
    is_complete: bool,
) -> Result<(), String> {
    let is_same = match language {
        "json" => {
            let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
            let shown = parsed(shown).expect("what a document shows as JSON is JSON");
            parsed(output).is_some_and(|output| is_same_json(&shown, &output))
        }
        _ if is_complete => is_same_text(&normalised(shown), &normalised(output), true),
        _ => is_same_text(normalised(shown).trim_end(), &normalised(output), false),
    };
    match is_same {
        true => Ok(()),
        false => Err(format!("--- shown ---\n{shown}\n--- actual ---\n{output}")),
    }
}

/// Whether the output has the parts between `…` in order: the first at the beginning, and the last at the
/// end if the output is complete.
fn is_same_text(shown: &str, output: &str, is_complete: bool) -> bool {
    let parts: Vec<_> = shown.split('…').collect();
    let mut rest = output;
    for (at, part) in parts.iter().enumerate() {
        let is_last = at + 1 == parts.len() && is_complete;
        let found = match (at, is_last) {
            (0, true) => return rest == *part,
            (0, false) => rest.starts_with(part).then_some(0),
            (_, true) => return rest.ends_with(part),
            (_, false) => rest.find(part),
        };
        let Some(found) = found else { return false };
        rest = &rest[found + part.len()..];
    }
    true
}

fn is_same_json(shown: &Value, output: &Value) -> bool {
    match (shown, output) {
        (Value::String(shown), Value::String(output)) => {
            is_same_text(&normalised(shown), &normalised(output), true)
        }
        (Value::String(any), _) => any == "…",
        (Value::Array(shown), Value::Array(output)) => {
            let mut pairs = shown.iter().zip(output);
            shown.len() == output.len() && pairs.all(|(shown, output)| is_same_json(shown, output))
        }
        (Value::Object(shown), Value::Object(output)) => {
            let mut fields = shown.iter();
            let is_there = |name| output.get(name);
            shown.len() == output.len()
                && fields.all(|(name, shown)| {
                    is_there(name).is_some_and(|output| is_same_json(shown, output))
                })
        }
        _ => shown == output,
    }
}

/// Replaces all IDs by the same one, and removes blanks at the ends of lines.
fn normalised(text: &str) -> String {
    let lines = text.trim_end().lines().map(|line| format!("{}\n", line.trim_end()));
    let text: String = lines.collect();
    let mut normal = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        normal.push_str(before);
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
        let ms = digits(from);
        let n = from[ms..].strip_prefix('-').map_or(0, digits);
        let (number, after) = match (ms, n) {
            (13, 1..) => ("1700000000000-0", &from[ms + 1 + n..]),
            _ => (&from[..ms], &from[ms..]),
        };
        normal.push_str(number);
        rest = after;
    }
    normal + rest
}

#[test]
fn differences_are_detected_except_in_ids_and_ellipses() {
    let table = [
        ("a\nb", "a\nb\n", true),
        ("a\nb", "a\nc\n", false),
        ("a", "a\nb", false),
        ("a\n…", "a\nb\nc", true),
        ("a … c", "a b c", true),
        ("a … c", "a b d", false),
        ("\"1700000000000-0\"", "\"1763736000123-17\"", true),
        ("1-0", "2-0", false),
        ("epoch 1", "epoch 2", false),
    ];
    for (shown, output, expected) in table {
        assert_eq!(compare("text", shown, output, true).is_ok(), expected, "{shown} {output}");
    }
    assert!(compare("text", "a", "ab", false).is_ok());
    let table = [
        (r#"{"a":"…","b":[1]}"#, r#"{"b":[1],"a":7}"#, true),
        (r#"{"a":"…"}"#, r#"{"a":7,"b":1}"#, false),
        (r#"{"a":"1700000000000-0"}"#, r#"{"a":"1763736000123-1"}"#, true),
        (r#"[1,2]"#, "[1]", false),
        ("1", "no JSON", false),
    ];
    for (shown, output, expected) in table {
        assert_eq!(compare("json", shown, output, true).is_ok(), expected, "{shown} {output}");
    }
}
