//! The agent's own files: each is there whole or not at all, whatever stops the machine, and none is
//! anything but a file of its own, whoever else can write into its directory.
//!
//! A file is written aside, synced, renamed over the old one, and the directory synced: after a power cut
//! there is the old file or the new one, never half of one.
//!
//! Root runs `enrol`, `rotate` and `check` in a directory that belongs to the service's user, who can put
//! there what it likes, at any moment. So everything is done relative to the opened directory; no link is
//! followed; what is opened is looked at before it is used; and the owner is changed only of a file that
//! was made a moment ago. Rejected: to become the directory's owner for the time, since `enrol` also writes
//! into /etc and starts the service, and a process of that user at root's terminal is a way to root as well.

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

pub use self::error::{FileError, Planted};
use self::walk::{Last, Links};

/// An open directory. Its files are named without a path.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    /// Its files are made for this user and group.
    owner: (Uid, Gid),
}

impl Directory {
    /// Opens the directory at `path`. For root that path must not be a link, nor lead through one that
    /// another user could have made.
    ///
    /// # Errors
    /// `FileError`
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Self::reach(path, Last { made_with: None, links: Links::None })
    }

    /// The same, and makes it where it is missing, for its owner alone, and those above it.
    ///
    /// # Errors
    /// `FileError`
    pub fn open_or_make(path: &Path) -> Result<Self, FileError> {
        Self::reach(path, Last { made_with: Some(0o700), links: Links::None })
    }

    /// The same for a directory of settings, which everyone may enter and which a link of root's may
    /// lead to.
    ///
    /// # Errors
    /// `FileError`
    pub fn open_or_make_public(path: &Path) -> Result<Self, FileError> {
        Self::reach(path, Last { made_with: Some(0o755), links: Links::OfRoot })
    }

    fn reach(path: &Path, last: Last) -> Result<Self, FileError> {
        let fd = walk::open(path, last)?;
        let found = fstat(&fd)?;
        let owner = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
        Ok(Self { fd, path: path.to_owned(), owner })
    }

    /// The group that it belongs to.
    pub fn group(&self) -> u32 {
        self.owner.1.as_raw()
    }

    /// The path of a file in it.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether anything has this name.
    pub fn has(&self, name: &str) -> bool {
        self.look(name).is_ok()
    }

    /// Whether each of these, where it is there, is a file that the agent could have made, or a directory,
    /// which is in the way and does no harm.
    ///
    /// # Errors
    /// The first that is not.
    pub fn inspect(&self, names: &[&str]) -> Result<(), FileError> {
        for name in names {
            match self.look(name) {
                Ok(found) => self.check(name, &found)?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Opens a file to read it; none where there is nothing of that name.
    ///
    /// # Errors
    /// `FileError`
    pub fn open_file(&self, name: &str) -> Result<Option<File>, FileError> {
        match self.open_as(name, OFlags::RDONLY) {
            Ok(file) if file.metadata()?.is_dir() => Err(Errno::ISDIR.into()),
            Ok(file) => Ok(Some(file)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a file; none where there is nothing of that name.
    ///
    /// # Errors
    /// `FileError`
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.open_file(name)?.map(|file| read(&file)).transpose()
    }

    /// Puts `bytes` into the file of this name, with this mode. It belongs to the owner of the directory,
    /// so that a command run as root leaves nothing behind that the service cannot read.
    ///
    /// # Errors
    /// `FileError`; the old file is as it was.
    pub fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), FileError> {
        self.put(name, bytes, (mode, self.owner.1))
    }

    /// The same for a group of its own, which only root can give.
    ///
    /// # Errors
    /// `FileError`; the old file is as it was.
    pub fn write_for_group(
        &self,
        name: &str,
        bytes: &[u8],
        (mode, group): (u32, u32),
    ) -> Result<(), FileError> {
        self.put(name, bytes, (mode, Gid::from_raw(group)))
    }

    fn put(&self, name: &str, bytes: &[u8], attributes: (u32, Gid)) -> Result<(), FileError> {
        let aside = aside(name);
        let mut file = self.make(&aside, attributes)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        let renamed = || io::Result::Ok(renameat(&self.fd, &aside, &self.fd, name)?);
        if let Err(error) = written.and_then(|()| renamed()) {
            // On a disk that is full even half a file is in the way.
            let _ = unlinkat(&self.fd, &aside, AtFlags::empty());
            return Err(error.into());
        }
        Ok(fsync(&self.fd)?)
    }

    /// Puts one file in the place of another.
    ///
    /// # Errors
    /// `FileError`
    pub fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        renameat(&self.fd, from, &self.fd, to)?;
        Ok(fsync(&self.fd)?)
    }

    /// Takes a file away for good; it need not be there.
    ///
    /// # Errors
    /// `FileError`
    pub fn remove(&self, name: &str) -> Result<(), FileError> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(fsync(&self.fd)?),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file to be locked, and makes it where it is missing.
    ///
    /// # Errors
    /// `FileError`
    pub fn open_lock(&self, name: &str, mode: u32) -> Result<File, FileError> {
        match self.open_as(name, OFlags::RDWR) {
            Err(error) if error.is_not_found() => self.make_lock(name, mode),
            // A lock that is there can be taken where nothing can be written.
            Err(FileError::Io(error)) => {
                self.open_as(name, OFlags::RDONLY).map_err(|_| FileError::Io(error))
            }
            opened => opened,
        }
    }

    /// Under another name until it belongs to whom it should: should root's command die in between, the
    /// service would find a lock that it cannot open.
    fn make_lock(&self, name: &str, mode: u32) -> Result<File, FileError> {
        let aside = aside(name);
        let lock = self.make(&aside, (mode, self.owner.1))?;
        let fd = &self.fd;
        let placed = match renameat_with(fd, &aside, fd, name, RenameFlags::NOREPLACE) {
            // Not every file system can tell.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(fd, &aside, fd, name),
            placed => placed,
        };
        match placed {
            Ok(()) => Ok(lock),
            Err(Errno::EXIST) => {
                let _ = unlinkat(fd, &aside, AtFlags::empty());
                self.open_as(name, OFlags::RDWR)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A new and empty file; what had that name, such as a file that a kill left half written, is gone.
    fn make(&self, name: &str, (mode, group): (u32, Gid)) -> Result<File, FileError> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let file = openat(&self.fd, name, flags, mode)?;
        // The umask takes bits away.
        fchmod(&file, mode)?;
        // Only root can hand it over, and only root has to.
        if geteuid().is_root() {
            fchown(&file, Some(self.owner.0), Some(group))?;
        }
        Ok(file.into())
    }

    /// Opens what has this name, without waiting, and looks at it before anything is done with it.
    fn open_as(&self, name: &str, access: OFlags) -> Result<File, FileError> {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => {
                self.check(name, &fstat(&file)?)?;
                Ok(file.into())
            }
            Err(error) => {
                if let Ok(found) = self.look(name) {
                    self.check(name, &found)?;
                }
                Err(error.into())
            }
        }
    }

    fn look(&self, name: &str) -> Result<Stat, Errno> {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Only root can be led to what it could not have otherwise by another name of a file, or by another
    /// user's file.
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
            _ => "thing of another kind",
        };
        Err(Planted::Special { path: path(), kind }.into())
    }

    fn check_owner(&self, name: &str, found: &Stat) -> Result<(), FileError> {
        let (path, expected) = (self.path_of(name), self.owner.0.as_raw());
        if found.st_nlink > 1 {
            // Its type is not the same on every machine.
            let names = found.st_nlink.to_string();
            return Err(Planted::HardLink { path, names }.into());
        }
        if found.st_uid != expected {
            return Err(Planted::Foreign { path, owner: found.st_uid, expected }.into());
        }
        Ok(())
    }
}

/// All that an open file holds, within bounds.
///
/// # Errors
/// `FileError`
pub fn read(file: &File) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(STATE_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether users other than its owner can read, or write, an open file.
pub fn is_open_to_others(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.mode() & 0o077 != 0)
}

fn aside(name: &str) -> String {
    format!("{name}.new")
}

#[cfg(test)]
mod tests;
