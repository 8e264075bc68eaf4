//! The way to a directory, for root: step by step, without a link that somebody else could have made.
//!
//! Every other user goes the way that the system goes: there is nothing to be had from leading a user
//! where it may go by itself.

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

/// How many links one way may have: as many as the kernel takes.
const LINKS_MAX: usize = 40;
/// Of a directory that is made on the way.
const ON_THE_WAY: u32 = 0o755;

/// How the last step is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    /// The mode of the directory, if it is to be made where it is missing.
    pub(super) made_with: Option<u32>,
    /// Whether it may be a link.
    pub(super) links: Links,
}

/// Which links root follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// None.
    None,
    /// Root's own, in directories where only root makes them.
    OfRoot,
}

/// Opens the directory at `path`.
pub(super) fn open(path: &Path, last: Last) -> Result<OwnedFd, FileError> {
    if geteuid().is_root() {
        return Walk::new(path)?.arrive(last);
    }
    if let Some(mode) = last.made_with {
        make_all(path, mode)?;
    }
    Ok(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn make_all(path: &Path, mode: u32) -> io::Result<()> {
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

struct Walk {
    /// Where it stands.
    here: OwnedFd,
    place: PathBuf,
    ahead: VecDeque<OsString>,
    links: usize,
}

impl Walk {
    fn new(path: &Path) -> Result<Self, FileError> {
        let place = PathBuf::from("/");
        let mut walk = Self { here: root()?, place, ahead: VecDeque::new(), links: 0 };
        walk.put_ahead(&absolute(path)?);
        Ok(walk)
    }

    fn put_ahead(&mut self, path: &Path) {
        let steps = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        for (at, step) in steps.enumerate() {
            self.ahead.insert(at, step);
        }
    }

    fn arrive(mut self, last: Last) -> Result<OwnedFd, FileError> {
        while let Some(name) = self.ahead.pop_front() {
            let is_last = self.ahead.is_empty();
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = match openat(&self.here, &name, flags, Mode::empty()) {
                Err(Errno::NOENT) if last.made_with.is_some() => {
                    let mode = last.made_with.filter(|_| is_last).unwrap_or(ON_THE_WAY);
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
                FileType::Symlink if is_last && last.links == Links::None => {
                    let target = readlinkat(&entry, "", Vec::new())?;
                    let target = OsStr::from_bytes(target.as_bytes());
                    return Err(FileError::link(&self.place.join(name), target));
                }
                FileType::Symlink => self.follow(&name, &entry, &found)?,
                _ => (self.here, self.place) = (entry, self.place.join(name)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(&self.here, ".", flags, Mode::empty())?)
    }

    /// Goes where a link leads, if nobody but root can have made it.
    fn follow(&mut self, name: &OsStr, link: &OwnedFd, found: &Stat) -> Result<(), FileError> {
        let target = readlinkat(link, "", Vec::new())?;
        let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
        let is_roots = found.st_uid == 0 && is_roots_alone(&fstat(&self.here)?);
        if !is_roots {
            return Err(FileError::link(&self.place.join(name), target));
        }
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        if target.is_absolute() {
            (self.here, self.place) = (root()?, PathBuf::from("/"));
        }
        self.put_ahead(&target);
        Ok(())
    }
}

fn root() -> Result<OwnedFd, FileError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, "/", flags, Mode::empty())?)
}

/// Whether what root made in this directory stays as root made it: others cannot write there, or (the sticky
/// bit) cannot take away what is not theirs.
fn is_roots_alone(directory: &Stat) -> bool {
    let is_open = directory.st_mode & 0o022 != 0 && directory.st_mode & 0o1000 == 0;
    directory.st_uid == 0 && !is_open
}
