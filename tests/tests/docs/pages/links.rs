//! Links between the documents point to existing files and headings.

use std::{collections::BTreeMap, fs};

use spoke_tests::sources::root;

use crate::pages::page::{guides, prose};

/// All documents of the repository.
fn documents() -> Vec<String> {
    let own = fs::read_dir(root()).unwrap().flatten().map(|entry| entry.file_name());
    let own = own.map(|name| name.to_string_lossy().into_owned());
    let mut all: Vec<_> = own.filter(|name| name.ends_with(".md")).collect();
    all.extend(guides());
    all.sort();
    all.dedup();
    all
}

/// The anchors that GitHub creates for the headings.
fn anchors(path: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let prose = prose(path);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|&c| c.is_alphanumeric() || " -_".contains(c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let times = seen.entry(anchor.clone()).or_default();
        *times += 1;
        if *times == 1 { anchor } else { format!("{anchor}-{}", *times - 1) }
    };
    headings.map(anchor).collect()
}

/// Targets of `[text](target)`.
fn targets(path: &str) -> Vec<String> {
    let prose = prose(path);
    let behind = prose.split("](").skip(1);
    behind.filter_map(|text| text.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

#[test]
fn every_link_between_the_documents_has_a_target() {
    let mut broken = Vec::new();
    let mut count = 0;
    for document in documents() {
        for target in targets(&document) {
            if target.starts_with("https://") || target.starts_with("http://") {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
            let path = if file.is_empty() {
                root().join(&document)
            } else {
                root().join(folder).join(file)
            };
            let Ok(path) = path.canonicalize() else {
                broken.push(format!("{document}: there is no {target}"));
                continue;
            };
            let own = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            if !anchor.is_empty() && !anchors(&own).iter().any(|there| there == anchor) {
                broken.push(format!("{document}: {own} has no heading #{anchor}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(count > 20, "{count} links are too few to be all");
}
