//! What the services log: docs/troubleshooting.md explains the messages, and ARCHITECTURE.md's table the fields.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use spoke_tests::sources::{root, rust_files};
use syn::{Macro, visit::Visit};

use crate::structure::source::is_test;

/// One call of a log macro.
#[derive(Debug)]
struct LogCall {
    level: String,
    /// `None` if the message is not a literal.
    message: Option<String>,
    fields: Vec<String>,
    file: PathBuf,
}

/// All calls of log and span macros outside of tests.
fn calls() -> Vec<LogCall> {
    let mut calls = Vec::new();
    for path in rust_files() {
        let parsed = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        Reader { file: path, calls: &mut calls }.visit_file(&parsed);
    }
    calls
}

struct Reader<'a> {
    file: PathBuf,
    calls: &'a mut Vec<LogCall>,
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        let level = item.path.segments.last().unwrap().ident.to_string();
        if ["error", "warn", "info", "debug", "trace"].contains(&level.as_str())
            || level.ends_with("_span")
        {
            let (message, fields) = read(item.tokens.clone());
            let file = self.file.clone();
            self.calls.push(LogCall { level, message, fields, file });
        }
        // Macros within macros: `tokio::select!` contains code too.
        let inside = item.tokens.clone();
        nested(inside, &mut |name, tokens| {
            if ["error", "warn", "info", "debug", "trace"].contains(&name) {
                let (message, fields) = read(tokens);
                let (level, file) = (name.to_owned(), self.file.clone());
                self.calls.push(LogCall { level, message, fields, file });
            }
        });
    }
}

fn nested(tokens: TokenStream, handle: &mut impl FnMut(&str, TokenStream)) {
    let all: Vec<_> = tokens.into_iter().collect();
    for (at, token) in all.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        if at >= 2
            && let (TokenTree::Ident(name), TokenTree::Punct(mark)) = (&all[at - 2], &all[at - 1])
            && mark.as_char() == '!'
        {
            handle(&name.to_string(), group.stream());
        }
        nested(group.stream(), handle);
    }
}

/// The message of a log macro, and the names of its fields.
fn read(tokens: TokenStream) -> (Option<String>, Vec<String>) {
    let mut parts: Vec<Vec<TokenTree>> = vec![Vec::new()];
    for token in tokens {
        match &token {
            TokenTree::Punct(mark) if mark.as_char() == ',' => parts.push(Vec::new()),
            _ => parts.last_mut().unwrap().push(token),
        }
    }
    let mut fields = Vec::new();
    for part in parts {
        let name = part.iter().find_map(|token| match token {
            TokenTree::Ident(name) => Some(name.to_string()),
            _ => None,
        });
        match part.first() {
            Some(TokenTree::Literal(text)) => {
                let text: Result<syn::LitStr, _> =
                    syn::parse2(TokenTree::from(text.clone()).into());
                return (text.ok().map(|text| text.value()), fields);
            }
            Some(TokenTree::Ident(first)) if *first == "target" || *first == "parent" => {}
            Some(_) => fields.extend(name),
            None => {}
        }
    }
    (None, fields)
}

fn guide() -> String {
    fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap()
}

fn headings(guide: &str) -> BTreeSet<String> {
    let headings = guide.lines().filter_map(|line| line.strip_prefix("### `"));
    headings.filter_map(|heading| heading.strip_suffix('`')).map(str::to_owned).collect()
}

#[test]
fn every_warning_and_error_is_explained_and_every_explanation_has_a_message() {
    let calls = calls();
    assert!(calls.len() > 100, "only {} calls were found", calls.len());
    let mut logged = BTreeSet::new();
    let mut unexplained = BTreeMap::new();
    let headings = headings(&guide());
    for call in &calls {
        let message = match (&call.message, call.level.as_str()) {
            (Some(message), _) => message,
            (None, "warn" | "error") => panic!("no literal message: {call:?}"),
            (None, _) => continue,
        };
        logged.insert(message.clone());
        if ["warn", "error"].contains(&call.level.as_str()) && !headings.contains(message) {
            unexplained.insert(message, &call.file);
        }
    }
    assert!(unexplained.is_empty(), "docs/troubleshooting.md explains none of {unexplained:#?}");
    let unknown: Vec<_> = headings.difference(&logged).collect();
    assert!(
        unknown.is_empty(),
        "docs/troubleshooting.md explains what is not logged: {unknown:#?}"
    );
}

#[test]
fn every_log_field_is_in_the_table_of_fields() {
    let table = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = table.split("## Log fields").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let known: BTreeSet<_> = rows
        .flat_map(|row| row.split(" | ").next().unwrap().split(", "))
        .map(|name| name.trim_matches('`'))
        .collect();
    let mut unknown: BTreeMap<&str, BTreeSet<&Path>> = BTreeMap::new();
    let calls = calls();
    let mut used = BTreeSet::new();
    for call in &calls {
        for field in &call.fields {
            used.insert(field.as_str());
            if !known.contains(field.as_str()) {
                unknown.entry(field).or_default().insert(&call.file);
            }
        }
    }
    assert!(unknown.is_empty(), "not in ARCHITECTURE.md's table: {unknown:#?}");
    let unused: Vec<_> = known.difference(&used).collect();
    assert!(unused.is_empty(), "in ARCHITECTURE.md's table, but never logged: {unused:#?}");
}
