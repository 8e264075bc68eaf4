//! A clock that can be set: processes started with it see another time than this machine, while
//! their timers run on.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf, process::Command};

use tempfile::TempDir;

/// What is preloaded; it says why it is our own.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock.c");

/// A clock for some processes.
pub struct Clock {
    folder: TempDir,
    file: File,
}

impl Clock {
    /// One that is this many seconds ahead; behind, if negative.
    ///
    /// # Panics
    /// When there is no C compiler.
    pub fn ahead(seconds: i64) -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-clock-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let file = File::create(folder.path().join("seconds")).expect("a file can be made");
        let clock = Self { folder, file };
        clock.set(seconds);
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O2", "-o"]).arg(clock.library()).arg(SOURCE);
        let compiled = compile.output().expect("cc is there, as Rust needs it too");
        assert!(compiled.status.success(), "{compiled:?}");
        clock
    }

    /// Makes it jump to this many seconds ahead of this machine.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn set(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).expect("eight bytes can be written");
    }

    /// What goes into the environment of whoever is to go by it.
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
