//! Dependencies between the crates point one way, and the protocol does no I/O.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use spoke_tests::sources::root;

/// Each crate with the Spoke crates that it may depend on.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("shared/diagnostics", &[]),
    ("shared/protocol", &[]),
    ("shared/store", &["diagnostics", "protocol"]),
    ("shared/service", &["diagnostics", "protocol", "store"]),
    ("hub", &["diagnostics", "protocol", "service", "store"]),
    ("agent", &["diagnostics", "protocol", "service", "store"]),
    ("auth", &["diagnostics", "protocol", "service", "store"]),
];

/// Crates that do I/O, wait or log.
const IMPURE: [&str; 7] = ["tokio", "redis", "axum", "hyper", "tracing", "reqwest", "mio"];

/// The dependencies of a crate, without those of its tests.
fn dependencies(crate_path: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join(crate_path).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[test]
fn dependencies_between_our_crates_point_one_way() {
    for (path, allowed) in ALLOWED {
        let spoke_crates: BTreeSet<_> = dependencies(path)
            .iter()
            .filter_map(|name| name.strip_prefix("spoke-").map(str::to_owned))
            .collect();
        let allowed = allowed.iter().map(|&name| name.to_owned()).collect();
        let unexpected: Vec<_> = spoke_crates.difference(&allowed).collect();
        assert!(unexpected.is_empty(), "{path} may not depend on {unexpected:?}");
    }
}

#[test]
fn the_protocol_depends_on_nothing_that_does_io_waits_or_logs() {
    let mut tree = Command::new(env!("CARGO"));
    tree.current_dir(root()).args(["tree", "--package", "spoke-protocol", "--edges", "normal"]);
    let tree = tree.args(["--prefix", "none", "--offline", "--locked"]).output().unwrap();
    let output = String::from_utf8(tree.stdout).unwrap();
    assert!(output.contains("spoke-protocol"), "{}", String::from_utf8_lossy(&tree.stderr));
    let all: BTreeSet<_> = output.lines().filter_map(|line| line.split(' ').next()).collect();
    for impure in IMPURE {
        assert!(!all.contains(impure), "spoke-protocol depends on {impure}:\n{output}");
    }
}

#[test]
fn no_source_file_is_longer_than_400_lines() {
    let mut long = Vec::new();
    let mut folders: Vec<_> =
        ["agent", "auth", "hub", "shared", "tests", "fuzz"].map(|part| root().join(part)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                if lines > 400 {
                    long.push(format!("{}: {lines}", short(&path)));
                }
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
