//! Expensive JSON bodies for `/xadd`, `/session` and `spoke.v1.json`.

use std::fmt::Write;

use spoke_protocol::limits::HTTP_BODY_BYTES_MAX;

/// How fields are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `[["", ""], …]`
    Pairs,
    /// `{"": "", …}`, with one name repeated.
    Object,
    /// `[[{"b64": ""}, {"b64": ""}], …]`
    Base64,
}

/// A batch of this many entries with this many empty fields each, from `ms`-0 on; `extra`, such as
/// `"epoch":1,`, is inserted before the entries.
pub fn empty_fields(ms: u64, (entries, fields): (usize, usize), form: Form, extra: &str) -> String {
    let field = match form {
        Form::Pairs => r#"["",""]"#,
        Form::Object => r#""":"""#,
        Form::Base64 => r#"[{"b64":""},{"b64":""}]"#,
    };
    let list = vec![field; fields].join(",");
    let list = match form {
        Form::Object => format!("{{{list}}}"),
        Form::Pairs | Form::Base64 => format!("[{list}]"),
    };
    let mut body = format!(r#"{{{extra}"entries":["#);
    for n in 0..entries {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(body, r#"{comma}{{"seq":"{ms}-{n}","fields":{list}}}"#);
    }
    body.push_str("]}");
    body
}

/// Malformed bodies of four mebibytes: endless numbers, escapes, nesting and names.
pub fn malformed() -> Vec<String> {
    let filled = |prefix: &str, element: &str, suffix: &str| {
        let available = HTTP_BODY_BYTES_MAX - prefix.len() - suffix.len();
        let middle = vec![element; available / (element.len() + 1)].join(",");
        [prefix, &middle, suffix].concat()
    };
    let long = |prefix: &str, element: &str, suffix: &str| {
        let available = HTTP_BODY_BYTES_MAX - prefix.len() - suffix.len();
        [prefix, &element.repeat(available / element.len()), suffix].concat()
    };
    vec![
        filled(r#"{"seq":"1-0","fields":["#, "1", "]}"),
        filled(r#"{"seq":"1-0","fields":["#, r#"["",""]"#, "]}"),
        filled(r#"{"seq":"1-0","fields":{"#, r#""":"""#, "}}"),
        filled(r#"{"seq":"1-0","fields":[["a",{"#, r#""b64":"""#, "}]]}"),
        filled(r#"{"entries":["#, r#"{"seq":"1-0","fields":{}}"#, "]}"),
        filled(r#"{"entries":["#, "[]", "]}"),
        filled(r#"{"entries":[],"account":{"losses":["#, "{}", "]}}"),
        filled("{", r#""seq":"1-0""#, "}"),
        long(r#"{"seq":"1-0","fields":[["a",""#, r"\u0000", r#""]]}"#),
        long(r#"{"seq":"1-0","fields":[["a",{"b64":""#, "AAAA", r#""}]]}"#),
        long(r#"{"seq":""#, "9", r#"-0","fields":[]}"#),
        long(r#"{"epoch":"#, "9", r#","entries":[]}"#),
        long(r#"{""#, "x", r#"":1}"#),
        long("", "[", ""),
        long("", r#"{"a":"#, ""),
        long("", " ", ""),
    ]
}

/// A message of `spoke.v1.json` with this payload, for each type that has one.
pub fn messages(payload: &str) -> [String; 3] {
    ["xadd", "xread", "echo"]
        .map(|kind| format!(r#"{{"type":"{kind}","id":1,"payload":{payload}}}"#))
}
