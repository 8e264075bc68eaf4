//! The structure of the code: which crates and files may depend on which others.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod crates;
pub(crate) mod source;

use std::collections::{BTreeMap, BTreeSet};

use spoke_tests::sources::{CRATES, root};

use self::source::{Crate, ModulePath};

/// Finds circular imports between a module's own file and its children, each with all that is below it. A
/// circle of the module's file and one child is allowed: they are one module in two files.
fn circles(edges: &BTreeSet<(ModulePath, ModulePath)>, module: &ModulePath) -> Vec<Vec<String>> {
    let child = |path: &ModulePath| -> Option<String> {
        let rest = path.strip_prefix(module.as_slice())?;
        Some(rest.first().cloned().unwrap_or_default())
    };
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in edges {
        if let (Some(from), Some(to)) = (child(from), child(to))
            && from != to
        {
            imports.entry(from).or_default().insert(to);
        }
    }
    let reached = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(at) = next.pop() {
            for to in imports.get(&at).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<_, _> = imports.keys().map(|from| (from.clone(), reached(from))).collect();
    let mut found = BTreeSet::new();
    for (from, reached) in all.iter().filter(|(from, reached)| reached.contains(*from)) {
        let circle = reached.iter().filter(|to| all.get(*to).is_some_and(|it| it.contains(from)));
        found.insert(circle.cloned().collect::<Vec<_>>());
    }
    found.into_iter().filter(|circle| circle.len() > 2 || !circle[0].is_empty()).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut found = Vec::new();
    for name in CRATES {
        let code = Crate::read(&root().join(name).join("src/lib.rs"));
        let edges = code.edges();
        for module in code.modules() {
            for circle in circles(&edges, module) {
                found.push(format!("{name}::{}: {}", module.join("::"), circle.join(" <-> ")));
                for (from, to) in &edges {
                    let inside = |path: &ModulePath| {
                        path.strip_prefix(module.as_slice()).is_some_and(|rest| {
                            circle.contains(&rest.first().cloned().unwrap_or_default())
                        })
                    };
                    let (a, b) = (from.get(module.len()), to.get(module.len()));
                    if inside(from) && inside(to) && a != b {
                        found.push(format!("    {} -> {}", from.join("::"), to.join("::")));
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn type_names_are_unique() {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in CRATES {
        let code = Crate::read(&root().join(name).join("src/lib.rs"));
        for (name, file) in code.types() {
            files.entry(name.to_owned()).or_default().push(file.display().to_string());
        }
    }
    files.retain(|_, files| files.len() > 1);
    assert!(files.is_empty(), "{files:#?}");
}
