//! A disk so small that it can be filled.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A small file system in memory. It is unmounted when dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one of this size. This mostly needs root: otherwise it prints that the test is skipped and
    /// returns `None`.
    ///
    /// # Panics
    /// If a temporary folder cannot be made.
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

    /// Returns its mount point.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills it to the last byte.
    ///
    /// # Panics
    /// If it cannot be filled.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("a file can be made");
        let full = loop {
            if let Err(error) = file.write_all(&[0; 512]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    }

    /// Frees the space again.
    ///
    /// # Panics
    /// If it was not filled.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    /// Makes it read-only, as a worn-out SD card becomes.
    ///
    /// # Panics
    /// If it cannot be remounted.
    pub fn make_read_only(&self) {
        self.remount("remount,ro");
    }

    /// Makes it writable again.
    ///
    /// # Panics
    /// If it cannot be remounted.
    pub fn make_writable(&self) {
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
