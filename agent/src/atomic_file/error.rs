//! Why a file or a directory is left alone.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system said no.
    #[error("the file system refused it")]
    Io(#[source] io::Error),
    /// The entry is not what the agent itself would have made there.
    #[error(transparent)]
    Planted(#[from] Planted),
}

/// An entry that somebody put where the agent keeps a file of its own. It is neither read nor changed: a
/// command that root runs would otherwise do so for whoever put it there.
#[derive(Debug, thiserror::Error)]
pub enum Planted {
    /// A symbolic link.
    #[error("{} is a link to {}, and links are not followed here", path.display(), target.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A file that also has another name.
    #[error("{} is one of {names} names of one file (hard links)", path.display())]
    HardLink {
        /// The name.
        path: PathBuf,
        /// How many there are.
        names: String,
    },
    /// A pipe, a socket or a device.
    #[error("{} is not a regular file but a {kind}", path.display())]
    Special {
        /// The entry.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file of another user than the directory.
    #[error("{} belongs to user {owner}, but its directory to user {expected}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The directory's owner.
        expected: u32,
    },
}

impl Planted {
    /// What to do about it. No command to paste: the entry may be another one by then.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Link { .. } => {
                "see who made it, remove it, and put what it stands for in its place"
            }
            Self::HardLink { .. } => "see who made it, remove this name, and put a copy there",
            Self::Special { .. } => "see who made it, and remove it",
            Self::Foreign { .. } => {
                "see who made it, remove it, and put a copy there that belongs to the directory's owner"
            }
        }
    }
}

impl FileError {
    /// Whether there is nothing of that name.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    pub(super) fn link(path: &Path, target: impl Into<PathBuf>) -> Self {
        Planted::Link { path: path.to_owned(), target: target.into() }.into()
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for FileError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}
