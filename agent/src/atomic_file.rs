//! Reads and writes the agent's files: atomically, and without following links that another user
//! could have created.
//!
//! A file is written under a temporary name, synced, renamed over the old one, and the directory is
//! synced. After a power cut there is the old file or the new one, never a part.
//!
//! Root runs `enrol`, `rotate` and `check` in a directory of the service's user, who can create any
//! file there at any moment. So every operation is relative to the opened directory, no link is
//! followed, an opened file is checked before it is used, and the owner is changed only of a file
//! that was just created. Rejected: to run as the directory's owner, since `enrol` also writes to
//! /etc and starts the service, and a process of that user on root's terminal is a path to root as
//! well.

mod error;
mod walk;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::limits::STATE_FILE_BYTES_MAX;
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid, fchmod, fchown, fstat, fsync,
        openat, readlinkat, renameat, renameat_with, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

pub(crate) use self::error::{FileError, UnexpectedFile};
use self::walk::{LinkPolicy, OpenMode};

/// An open directory. Its files have names without a path.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    /// The owner and group of its new files.
    owner: (Uid, Gid),
}

impl Directory {
    /// Opens the directory at `path`. For root, the path must not be a link, nor contain one that
    /// another user could have created.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be opened, or root would follow such a link.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        Self::open_with(path, OpenMode { create_mode: None, links: LinkPolicy::Deny })
    }

    /// Like [`Self::open`], and creates a missing directory for its owner only, with its parents.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be opened or created.
    pub(crate) fn open_or_create(path: &Path) -> Result<Self, FileError> {
        Self::open_with(path, OpenMode { create_mode: Some(0o700), links: LinkPolicy::Deny })
    }

    /// Like [`Self::open_or_create`] for a settings directory, which every user may enter and which
    /// may be a link of root.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be opened or created.
    pub(crate) fn open_or_create_public(path: &Path) -> Result<Self, FileError> {
        Self::open_with(path, OpenMode { create_mode: Some(0o755), links: LinkPolicy::RootOnly })
    }

    fn open_with(path: &Path, mode: OpenMode) -> Result<Self, FileError> {
        let fd = walk::open(path, mode)?;
        let found = fstat(&fd)?;
        let owner = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
        Ok(Self { fd, path: path.to_owned(), owner })
    }

    /// Returns the group of the directory.
    pub(crate) fn group(&self) -> u32 {
        self.owner.1.as_raw()
    }

    /// Returns the path of a file in the directory.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns whether an entry with this name exists.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.stat(name).is_ok()
    }

    /// Checks that each of these entries is missing, a file that the agent could have created, or a
    /// directory, which does no harm.
    ///
    /// # Errors
    /// [`FileError`] of the first other entry.
    pub(crate) fn inspect(&self, names: &[&str]) -> Result<(), FileError> {
        for name in names {
            match self.stat(name) {
                Ok(found) => self.check(name, &found)?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Opens a file for reading. Returns none if it does not exist.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be opened, or is not a file of the agent.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<File>, FileError> {
        match self.open_as(name, OFlags::RDONLY) {
            Ok(file) if file.metadata()?.is_dir() => Err(Errno::ISDIR.into()),
            Ok(file) => Ok(Some(file)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a file. Returns none if it does not exist.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be read, or is not a file of the agent.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.open_file(name)?.map(|file| read(&file)).transpose()
    }

    /// Replaces the file of this name, with this mode. It gets the owner of the directory, so that
    /// the service can read a file that root's command wrote.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be written; the old file is unchanged.
    pub(crate) fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), FileError> {
        self.replace(name, bytes, (mode, self.owner.1))
    }

    /// Like [`Self::write`] with another group, which only root can set.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be written; the old file is unchanged.
    pub(crate) fn write_for_group(
        &self,
        name: &str,
        bytes: &[u8],
        (mode, group): (u32, u32),
    ) -> Result<(), FileError> {
        self.replace(name, bytes, (mode, Gid::from_raw(group)))
    }

    fn replace(&self, name: &str, bytes: &[u8], attributes: (u32, Gid)) -> Result<(), FileError> {
        let temporary = temporary_name(name);
        let mut file = self.create(&temporary, attributes)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        let renamed = || io::Result::Ok(renameat(&self.fd, &temporary, &self.fd, name)?);
        if let Err(error) = written.and_then(|()| renamed()) {
            // On a full disk even a part of a file takes space.
            let _ = unlinkat(&self.fd, &temporary, AtFlags::empty());
            return Err(error.into());
        }
        Ok(fsync(&self.fd)?)
    }

    /// Renames a file over another one.
    ///
    /// # Errors
    /// [`FileError`] if the file system refuses it.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        renameat(&self.fd, from, &self.fd, to)?;
        Ok(fsync(&self.fd)?)
    }

    /// Removes a file. A missing file is no error.
    ///
    /// # Errors
    /// [`FileError`] if the file system refuses it.
    pub(crate) fn remove(&self, name: &str) -> Result<(), FileError> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(fsync(&self.fd)?),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a lock file, and creates it if it is missing.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be opened or created, or is not a file of the agent.
    pub(crate) fn open_lock(&self, name: &str, mode: u32) -> Result<File, FileError> {
        match self.open_as(name, OFlags::RDWR) {
            Err(error) if error.is_not_found() => self.create_lock(name, mode),
            // An existing lock file can be locked on a read-only file system.
            Err(FileError::Io(error)) => {
                self.open_as(name, OFlags::RDONLY).map_err(|_| FileError::Io(error))
            }
            opened => opened,
        }
    }

    /// Creates the lock file under a temporary name until its owner is set. If root's command were
    /// killed before, the service would find a lock file that it cannot open.
    fn create_lock(&self, name: &str, mode: u32) -> Result<File, FileError> {
        let temporary = temporary_name(name);
        let lock = self.create(&temporary, (mode, self.owner.1))?;
        let fd = &self.fd;
        let placed = match renameat_with(fd, &temporary, fd, name, RenameFlags::NOREPLACE) {
            // Not every file system supports NOREPLACE.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(fd, &temporary, fd, name),
            placed => placed,
        };
        match placed {
            Ok(()) => Ok(lock),
            Err(Errno::EXIST) => {
                let _ = unlinkat(fd, &temporary, AtFlags::empty());
                self.open_as(name, OFlags::RDWR)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Creates an empty file. Removes an entry of that name first, such as a file of an interrupted
    /// write.
    fn create(&self, name: &str, (mode, group): (u32, Gid)) -> Result<File, FileError> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let file = openat(&self.fd, name, flags, mode)?;
        // The umask removes bits.
        fchmod(&file, mode)?;
        // Only root can change the owner, and only root has to.
        if geteuid().is_root() {
            fchown(&file, Some(self.owner.0), Some(group))?;
        }
        Ok(file.into())
    }

    /// Opens an entry without blocking, and checks it before it is used.
    fn open_as(&self, name: &str, access: OFlags) -> Result<File, FileError> {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => {
                self.check(name, &fstat(&file)?)?;
                Ok(file.into())
            }
            Err(error) => {
                if let Ok(found) = self.stat(name) {
                    self.check(name, &found)?;
                }
                Err(error.into())
            }
        }
    }

    fn stat(&self, name: &str) -> Result<Stat, Errno> {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Rejects every entry that is not a regular file or a directory. For root, hard links and
    /// files of other users are rejected too: they could lead root to a file that the user cannot
    /// access.
    fn check(&self, name: &str, found: &Stat) -> Result<(), FileError> {
        let path = || self.path_of(name);
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile if geteuid().is_root() => return self.check_owner(name, found),
            FileType::RegularFile | FileType::Directory => return Ok(()),
            FileType::Symlink => {
                let target = readlinkat(&self.fd, name, Vec::new())?;
                return Err(FileError::link(&path(), target.to_string_lossy().into_owned()));
            }
            FileType::Fifo => "pipe",
            FileType::Socket => "socket",
            FileType::CharacterDevice | FileType::BlockDevice => "device",
            _ => "file of an unknown kind",
        };
        Err(UnexpectedFile::Special { path: path(), kind }.into())
    }

    fn check_owner(&self, name: &str, found: &Stat) -> Result<(), FileError> {
        let (path, expected) = (self.path_of(name), self.owner.0.as_raw());
        if found.st_nlink > 1 {
            // The type of the count differs between machines.
            let names = found.st_nlink.to_string();
            return Err(UnexpectedFile::HardLink { path, names }.into());
        }
        if found.st_uid != expected {
            return Err(UnexpectedFile::WrongOwner { path, owner: found.st_uid, expected }.into());
        }
        Ok(())
    }
}

/// Reads an open file, up to [`STATE_FILE_BYTES_MAX`] bytes.
///
/// # Errors
/// [`FileError`] if it cannot be read.
pub(crate) fn read(file: &File) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(STATE_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns whether users other than the owner can read or write an open file.
pub(crate) fn is_accessible_to_others(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.mode() & 0o077 != 0)
}

fn temporary_name(name: &str) -> String {
    format!("{name}.new")
}

#[cfg(test)]
mod tests;
