//! The programs under test, as cargo built them, found beside the test's own executable.
//!
//! Cargo builds a package's programs only for that package's own tests, so the services have to be built
//! first (`make test` does). An old program would make a test check code that no longer exists, so its
//! age is compared with the sources that cargo lists beside it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The variable with a folder of programs to test instead of those that cargo built, such as installed ones.
pub const FOLDER_VARIABLE: &str = "SPOKE_TEST_BIN_DIR";

/// What to do if a program is missing or old.
const WHAT_TO_DO: &str = "build the services first: cargo build --workspace --bins";

/// Returns the path of `spoke-agent`, `spoke-auth` or `spoke-hub`.
///
/// # Panics
/// If it is missing or older than its sources, with what to do.
pub fn path_of(name: &str) -> PathBuf {
    if let Some(folder) = env::var_os(FOLDER_VARIABLE) {
        let path = Path::new(&folder).join(name);
        assert!(path.is_file(), "there is no {name} in the folder that {FOLDER_VARIABLE} names");
        return path;
    }
    let path = beside_this_one(name);
    let built =
        modified(&path).unwrap_or_else(|| panic!("{} is missing; {WHAT_TO_DO}", path.display()));
    if let Some(source) = newer_source(&path, built) {
        panic!("{} is older than {}; {WHAT_TO_DO}", path.display(), source.display());
    }
    path
}

/// The path in `target/<profile>/`, where the test's own executable is, or in `deps` below it.
fn beside_this_one(name: &str) -> PathBuf {
    let own = env::current_exe().expect("a process knows its executable");
    let folder = own.parent().expect("an executable is in a folder");
    let folder = match folder.ends_with("deps") {
        true => folder.parent().expect("deps is in the profile's folder"),
        false => folder,
    };
    folder.join(name)
}

/// A source that is newer than the program; `None` if cargo's list is missing.
fn newer_source(program: &Path, built: SystemTime) -> Option<PathBuf> {
    let list = fs::read_to_string(program.with_extension("d")).ok()?;
    let (_, sources) = list.split_once(": ")?;
    let mut sources = sources.trim_end().split(' ').map(PathBuf::from);
    sources.find(|source| modified(source).is_some_and(|changed| changed > built))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}
