//! A disk so small that it can be filled.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A file system of its own, in memory. It is gone when dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Makes one of this size. Only root can, in most places: without it, says that the test is
    /// skipped and gives none.
    ///
    /// # Panics
    /// When there is no temporary folder.
    pub fn mount(kib: usize) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("spoke-disk-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let size = format!("size={kib}k");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "spoke-tests"])
            .arg(folder.path())
            .output();
        match mount {
            Ok(output) if output.status.success() => Some(Self { folder }),
            other => {
                println!("SKIPPED: a disk to fill cannot be mounted here (not root?): {other:?}");
                None
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves not a byte free.
    ///
    /// # Panics
    /// When it cannot be filled.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("a file can be made");
        let full = loop {
            if let Err(error) = file.write_all(&[0; 512]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    }

    /// Makes room again.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    /// Takes no writes any more, as a card that is worn out.
    ///
    /// # Panics
    /// When that cannot be set.
    pub fn wear_out(&self) {
        self.remount("remount,ro");
    }

    /// Takes writes again.
    ///
    /// # Panics
    /// When that cannot be set.
    pub fn mend(&self) {
        self.remount("remount,rw");
    }

    fn remount(&self, options: &str) {
        let mount = Command::new("mount").args(["-o", options]).arg(self.path()).status();
        assert!(mount.is_ok_and(|status| status.success()), "the disk can be mounted again");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
