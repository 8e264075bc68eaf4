//! The errors of file operations.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The file system refused it.
    #[error("the file system refused it")]
    Io(#[source] io::Error),
    /// The entry is not a file that the agent would have created.
    #[error(transparent)]
    UnexpectedFile(#[from] UnexpectedFile),
}

/// An entry with the name of a file of the agent that the agent did not create. It is neither read
/// nor changed: a command that root runs would do so on behalf of the user who created it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnexpectedFile {
    /// A symbolic link.
    #[error("{} is a link to {}, and links are not followed here", path.display(), target.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// A file with several names.
    #[error("{} is one of {names} names of one file (hard links)", path.display())]
    HardLink {
        /// The name.
        path: PathBuf,
        /// The number of names.
        names: String,
    },
    /// A pipe, a socket or a device.
    #[error("invalid file {}: expected a regular file, found a {kind}", path.display())]
    Special {
        /// The entry.
        path: PathBuf,
        /// The kind of the entry.
        kind: &'static str,
    },
    /// A file with another owner than its directory.
    #[error("{} belongs to user {owner}, but its directory to user {expected}", path.display())]
    WrongOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The directory's owner.
        expected: u32,
    },
}

impl UnexpectedFile {
    /// Returns the next action of the operator. No command to paste: the entry may have changed by
    /// then.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::Link { .. } => {
                "Find out who created it, remove it, and put a copy of its target in its place"
            }
            Self::HardLink { .. } => {
                "Find out who created it, remove this name, and put a copy in its place"
            }
            Self::Special { .. } => "Find out who created it, and remove it",
            Self::WrongOwner { .. } => {
                "Find out who created it, remove it, and put a copy with the directory's owner in \
                 its place"
            }
        }
    }
}

impl FileError {
    /// Returns whether the entry does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    pub(super) fn link(path: &Path, target: impl Into<PathBuf>) -> Self {
        UnexpectedFile::Link { path: path.to_owned(), target: target.into() }.into()
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
