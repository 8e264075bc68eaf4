//! A clock that can be set: processes started with it see a different wall clock than this machine, while
//! their timers are not affected.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf, process::Command};

use tempfile::TempDir;

/// The source of the preloaded library, which says why it is not libfaketime.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock.c");

/// A clock for some processes.
pub struct Clock {
    folder: TempDir,
    file: File,
}

impl Clock {
    /// A clock that is this many seconds ahead; behind, if negative.
    ///
    /// # Panics
    /// If there is no C compiler.
    pub fn ahead(seconds: i64) -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-clock-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let file = File::create(folder.path().join("seconds")).expect("a file can be made");
        let clock = Self { folder, file };
        clock.set(seconds);
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O2", "-o"]).arg(clock.library()).arg(SOURCE);
        let compiled = compile.output().expect("cc is installed, as Rust needs it too");
        assert!(compiled.status.success(), "{compiled:?}");
        clock
    }

    /// Sets it to this many seconds ahead of this machine.
    ///
    /// # Panics
    /// If its file cannot be written.
    pub fn set(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).expect("eight bytes can be written");
    }

    /// The environment variables for processes that use this clock.
    pub fn variables(&self) -> Vec<(String, String)> {
        let file = self.folder.path().join("seconds");
        [("LD_PRELOAD", self.library()), ("SPOKE_CLOCK", file)]
            .map(|(name, path)| (name.to_owned(), path.display().to_string()))
            .into()
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }
}
