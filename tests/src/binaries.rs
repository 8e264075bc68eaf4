//! The programs under test, as cargo built them, found beside the test's own executable.
//!
//! Cargo builds the programs of a package for that package's tests only, so those of the services are
//! built first (`make test` does). An old one would make a test say something about code that is no
//! more, so its age is held against the list of its sources that cargo writes beside it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A folder with the programs to test instead of those that cargo built: installed ones, say.
pub const FOLDER_VARIABLE: &str = "SPOKE_TEST_BIN_DIR";

/// How the programs are built.
const MEND: &str = "build the services first: cargo build --workspace --bins";

/// The path of `spoke-agent`, `spoke-auth` or `spoke-hub`.
///
/// # Panics
/// When it is missing or older than its sources, with the mend.
pub fn path_of(name: &str) -> PathBuf {
    if let Some(folder) = env::var_os(FOLDER_VARIABLE) {
        let path = Path::new(&folder).join(name);
        assert!(path.is_file(), "there is no {name} in the folder that {FOLDER_VARIABLE} names");
        return path;
    }
    let path = beside_this_one(name);
    let built = modified(&path).unwrap_or_else(|| panic!("{} is missing; {MEND}", path.display()));
    if let Some(source) = newer_source(&path, built) {
        panic!("{} is older than {}; {MEND}", path.display(), source.display());
    }
    path
}

/// `target/<profile>/`, where the test's own executable is in, or in `deps` below.
fn beside_this_one(name: &str) -> PathBuf {
    let own = env::current_exe().expect("a process knows its executable");
    let folder = own.parent().expect("an executable is in a folder");
    let folder = match folder.ends_with("deps") {
        true => folder.parent().expect("deps is in the profile's folder"),
        false => folder,
    };
    folder.join(name)
}

/// Without cargo's list there is nothing to compare with.
fn newer_source(program: &Path, built: SystemTime) -> Option<PathBuf> {
    let list = fs::read_to_string(program.with_extension("d")).ok()?;
    let (_, sources) = list.split_once(": ")?;
    let mut sources = sources.trim_end().split(' ').map(PathBuf::from);
    sources.find(|source| modified(source).is_some_and(|changed| changed > built))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}
