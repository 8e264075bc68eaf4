//! The sources of the product, for the tests that read them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The crates of the product, by their folders.
pub const CRATES: [&str; 7] = [
    "shared/diagnostics",
    "shared/protocol",
    "shared/store",
    "shared/service",
    "hub",
    "agent",
    "auth",
];

/// Returns the folder of the repository.
///
/// # Panics
/// If it is gone.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the repository is there")
}

/// Returns all Rust files of the product, except test modules in files of their own and the simulation's models.
///
/// # Panics
/// If a folder cannot be read.
pub fn rust_files() -> Vec<PathBuf> {
    let folders = CRATES.map(|path| root().join(path).join("src"));
    rust_files_below(folders.into(), &["tests.rs", "tests", "simulation"])
}

/// Returns all Rust files of the product and of its tests.
///
/// # Panics
/// If a folder cannot be read.
pub fn rust_files_with_tests() -> Vec<PathBuf> {
    let folders = CRATES.iter().map(|path| root().join(path).join("src"));
    rust_files_below(folders.chain([root().join("tests")]).collect(), &[])
}

fn rust_files_below(mut folders: Vec<PathBuf>, except: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a source folder can be read").flatten() {
            let path = entry.path();
            if except.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                files.push(path);
            }
        }
    }
    files
}
