//! A document: its blocks of code, its headings and its links.

use std::{fs, path::Path};

use spoke_tests::sources::root;

/// A fenced block: ```` ```language word word ````.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// File and line, for error messages.
    pub(crate) place: String,
    /// The first word after the fence.
    pub(crate) language: String,
    /// The other words: where it runs and how.
    pub(crate) words: Vec<String>,
    /// The content, with a line break at its end.
    pub(crate) text: String,
    /// The output in the block directly below: language and text.
    pub(crate) shown: Option<(String, String)>,
}

impl Block {
    /// Whether this word follows the language.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|own| own == word)
    }

    /// The word that names a file with this ending.
    pub(crate) fn file(&self, ending: &str) -> Option<&str> {
        self.words.iter().find(|word| word.ends_with(ending)).map(String::as_str)
    }
}

/// Languages of blocks that may show output.
const OUTPUTS: [&str; 2] = ["text", "json"];

/// Reads a document by its path in the repository.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All documents with commands for users.
pub(crate) fn guides() -> Vec<String> {
    let mut found = vec!["README.md".to_owned(), "deploy/README.md".to_owned()];
    let mut folders = vec!["docs".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap().flatten() {
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(path),
                false if Path::new(&path).extension().is_some_and(|kind| kind == "md") => {
                    found.push(path);
                }
                false => {}
            }
        }
    }
    found.sort();
    found
}

/// The blocks of a document, each with the output that is shown for it.
pub(crate) fn blocks(path: &str) -> Vec<Block> {
    let document = read(path);
    let mut found: Vec<(usize, Block)> = Vec::new();
    let mut lines = document.lines().enumerate();
    let mut ended = None;
    while let Some((at, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let place = format!("{path}:{}", at + 1);
        let mut words = info.split_whitespace().map(str::to_owned);
        let language = words.next().unwrap_or_default();
        let words = words.collect();
        let is_below = ended.is_some_and(|ended| ended + 1 == at);
        let mut text = String::new();
        ended = loop {
            let (at, line) = lines.next().unwrap_or_else(|| panic!("{place} has no end"));
            if line.trim() == "```" {
                break Some(at);
            }
            text.extend([line, "\n"]);
        };
        match found.last_mut() {
            Some((_, above)) if is_below && OUTPUTS.contains(&language.as_str()) => {
                above.shown = Some((language, text));
            }
            _ => found.push((at, Block { place, language, words, text, shown: None })),
        }
    }
    found.into_iter().map(|(_, block)| block).collect()
}

/// The document without its code blocks.
pub(crate) fn prose(path: &str) -> String {
    let document = read(path);
    let mut parts = document.split("```");
    let mut prose = String::new();
    while let Some(part) = parts.next() {
        prose.push_str(part);
        parts.next();
    }
    prose
}

/// The inline code of a document's prose.
pub(crate) fn inline_code(path: &str) -> Vec<String> {
    let prose = prose(path);
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
