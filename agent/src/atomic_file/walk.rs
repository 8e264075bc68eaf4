//! Opens a directory for root one path component at a time, without following a link that another
//! user could have created.
//!
//! For every other user the system resolves the path: a link cannot lead a user to a directory that
//! the user could not open anyway.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf, absolute},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, readlinkat},
    io::Errno,
    process::geteuid,
};

use super::FileError;

/// Maximum number of links in one path, the same as the kernel's limit.
const LINKS_MAX: usize = 40;
/// The mode of created parent directories.
const PARENT_MODE: u32 = 0o755;

/// How the last component is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenMode {
    /// The mode to create a missing directory with, if it may be created.
    pub(super) create_mode: Option<u32>,
    /// Whether the last component may be a link.
    pub(super) links: LinkPolicy,
}

/// The links that root follows at the last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkPolicy {
    /// No links.
    Deny,
    /// Links of root, in directories where only root can create them.
    RootOnly,
}

/// Opens the directory at `path`.
pub(super) fn open(path: &Path, last: OpenMode) -> Result<OwnedFd, FileError> {
    if geteuid().is_root() {
        return PathWalk::new(path)?.finish(last);
    }
    if let Some(mode) = last.create_mode {
        create_all(path, mode)?;
    }
    Ok(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn create_all(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

struct PathWalk {
    /// The directory reached so far.
    here: OwnedFd,
    path: PathBuf,
    remaining: VecDeque<OsString>,
    links: usize,
}

impl PathWalk {
    fn new(path: &Path) -> Result<Self, FileError> {
        let mut walk =
            Self { here: root()?, path: PathBuf::from("/"), remaining: VecDeque::new(), links: 0 };
        walk.push_components(&absolute(path)?);
        Ok(walk)
    }

    fn push_components(&mut self, path: &Path) {
        let steps = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        for (at, step) in steps.enumerate() {
            self.remaining.insert(at, step);
        }
    }

    fn finish(mut self, last: OpenMode) -> Result<OwnedFd, FileError> {
        while let Some(name) = self.remaining.pop_front() {
            let is_last = self.remaining.is_empty();
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = match openat(&self.here, &name, flags, Mode::empty()) {
                Err(Errno::NOENT) if last.create_mode.is_some() => {
                    let mode = last.create_mode.filter(|_| is_last).unwrap_or(PARENT_MODE);
                    match mkdirat(&self.here, &name, Mode::from_raw_mode(mode)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    openat(&self.here, &name, flags, Mode::empty())?
                }
                opened => opened?,
            };
            let found = fstat(&entry)?;
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Symlink if is_last && last.links == LinkPolicy::Deny => {
                    let target = readlinkat(&entry, "", Vec::new())?;
                    let target = OsStr::from_bytes(target.as_bytes());
                    return Err(FileError::link(&self.path.join(name), target));
                }
                FileType::Symlink => self.follow(&name, &entry, &found)?,
                _ => (self.here, self.path) = (entry, self.path.join(name)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(&self.here, ".", flags, Mode::empty())?)
    }

    /// Follows a link, if only root can have created it.
    fn follow(&mut self, name: &OsStr, link: &OwnedFd, found: &Stat) -> Result<(), FileError> {
        let target = readlinkat(link, "", Vec::new())?;
        let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
        let is_root_link = found.st_uid == 0 && is_root_only(&fstat(&self.here)?);
        if !is_root_link {
            return Err(FileError::link(&self.path.join(name), target));
        }
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        if target.is_absolute() {
            (self.here, self.path) = (root()?, PathBuf::from("/"));
        }
        self.push_components(&target);
        Ok(())
    }
}

fn root() -> Result<OwnedFd, FileError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, "/", flags, Mode::empty())?)
}

/// Returns whether other users cannot replace the entries of root in this directory: they cannot
/// write to it, or the sticky bit keeps them from removing entries of others.
fn is_root_only(directory: &Stat) -> bool {
    let is_open = directory.st_mode & 0o022 != 0 && directory.st_mode & 0o1000 == 0;
    directory.st_uid == 0 && !is_open
}
