//! The device's secrets on disk: the current one, during a rotation the next one, and afterwards
//! the previous one.
//!
//! The daemon and `spoke-agent rotate` may use them at the same time. Only the command creates the
//! next one, and holds a lock for that. Either may promote it, by a rename, once auth has accepted
//! it. The previous one is kept: an auth whose Redis went back to an older state accepts only that
//! one.

use std::{fs::File, path::PathBuf};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::{TryRngCore, rngs::OsRng};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::{IdentityError, SECRET_MODE, effect_of_loss, failed, inspect, lock, restrict_mode};
use crate::atomic_file::{self, Directory, FileError};

/// The size of a secret in bytes.
const SECRET_BYTES: usize = 32;

const CURRENT: &str = "secret";
const NEXT: &str = "secret.next";
const PREVIOUS: &str = "secret.previous";

/// The files `secret`, `secret.next` and `secret.previous` of a state directory.
#[derive(Debug, Clone)]
pub(crate) struct DeviceSecrets {
    directory: PathBuf,
}

impl DeviceSecrets {
    /// Returns access to the secrets of this directory.
    pub(crate) fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Returns the path of the current secret.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(CURRENT)
    }

    /// Returns the current secret, if there is one.
    ///
    /// # Errors
    /// [`IdentityError`] if it is invalid or cannot be read.
    pub(crate) fn current(&self) -> Result<Option<SecretString>, IdentityError> {
        self.read(CURRENT)
    }

    /// Returns the next secret, if there is one. A damaged one counts as missing.
    ///
    /// # Errors
    /// [`IdentityError`] if it cannot be read.
    pub(crate) fn next(&self) -> Result<Option<SecretString>, IdentityError> {
        self.read_spare(NEXT)
    }

    /// Returns the previous secret, if there is one. A damaged one counts as missing.
    ///
    /// # Errors
    /// [`IdentityError`] if it cannot be read.
    pub(crate) fn previous(&self) -> Result<Option<SecretString>, IdentityError> {
        self.read_spare(PREVIOUS)
    }

    /// Creates the current secret.
    ///
    /// # Errors
    /// [`IdentityError`] if it cannot be created or written.
    pub(crate) fn create_current(&self) -> Result<SecretString, IdentityError> {
        self.create(CURRENT)
    }

    /// Creates the next secret.
    ///
    /// # Errors
    /// [`IdentityError`] if it cannot be created or written.
    pub(crate) fn create_next(&self) -> Result<SecretString, IdentityError> {
        self.create(NEXT)
    }

    /// Makes the next secret, which auth has accepted, the current one, and the current one the
    /// previous one. Does nothing if another process has promoted it.
    ///
    /// # Errors
    /// [`IdentityError`] if a file cannot be written; both secrets still exist.
    pub(crate) fn promote(&self, accepted: &SecretString) -> Result<(), IdentityError> {
        let is_accepted =
            |secret: &SecretString| secret.expose_secret() == accepted.expose_secret();
        let current = self.current()?;
        if current.as_ref().is_some_and(is_accepted) {
            return Ok(());
        }
        if let Some(current) = current {
            self.write(PREVIOUS, &current)?;
        }
        if self.next()?.as_ref().is_some_and(is_accepted) {
            let renamed = self.open().and_then(|directory| directory.rename(NEXT, CURRENT));
            return renamed.map_err(|error| failed("write", &self.path(), error));
        }
        self.write(CURRENT, accepted)
    }

    /// Makes the previous secret, which auth has accepted, the current one, and the current one the
    /// next one. Undoes [`Self::promote`].
    ///
    /// # Errors
    /// [`IdentityError`] if a file cannot be written; both secrets still exist.
    pub(crate) fn step_back(&self, previous: &SecretString) -> Result<(), IdentityError> {
        if let Some(current) = self.current()? {
            self.write(NEXT, &current)?;
        }
        self.write(CURRENT, previous)?;
        let removed = self.open().and_then(|directory| directory.remove(PREVIOUS));
        removed.map_err(|error| failed("remove", &self.directory.join(PREVIOUS), error))
    }

    /// Locks the directory against other rotations until the file is dropped. Returns none if
    /// another rotation runs.
    ///
    /// # Errors
    /// [`IdentityError`], also if the directory holds an unexpected file.
    pub(crate) fn lock_rotation(&self) -> Result<Option<File>, IdentityError> {
        let directory = self.open().map_err(|error| failed("open", &self.directory, error))?;
        inspect(&directory, &self.directory)?;
        lock(&directory, "rotation-lock")
    }

    /// Opens the file of the current secret, to check its mode. Returns none if there is no file.
    ///
    /// # Errors
    /// [`IdentityError`], also if the directory holds an unexpected file.
    pub(crate) fn open_current(&self) -> Result<Option<File>, IdentityError> {
        match self.open() {
            Ok(directory) => {
                inspect(&directory, &self.directory)?;
                directory.open_file(CURRENT).map_err(|error| failed("read", &self.path(), error))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed("open", &self.directory, error)),
        }
    }

    /// Opens the directory each time: it may have been removed or replaced.
    fn open(&self) -> Result<Directory, FileError> {
        Directory::open(&self.directory)
    }

    fn read_spare(&self, name: &str) -> Result<Option<SecretString>, IdentityError> {
        match self.read(name) {
            Err(IdentityError::Damaged(path)) => {
                let (path, effect) = (path.display(), effect_of_loss(name));
                warn!(%path, effect, "damaged state file ignored");
                Ok(None)
            }
            read => read,
        }
    }

    fn read(&self, name: &str) -> Result<Option<SecretString>, IdentityError> {
        let path = self.directory.join(name);
        let bytes = self.open().and_then(|directory| match directory.open_file(name)? {
            Some(file) => {
                restrict_mode(&file, &path);
                atomic_file::read(&file).map(Some)
            }
            None => Ok(None),
        });
        match bytes {
            Ok(Some(bytes)) => checked(bytes, path).map(Some),
            Ok(None) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed("read", &path, error)),
        }
    }

    fn create(&self, name: &str) -> Result<SecretString, IdentityError> {
        let mut bytes = [0; SECRET_BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(IdentityError::NoRandomness)?;
        let secret = SecretString::from(BASE64_URL_SAFE_NO_PAD.encode(bytes));
        self.write(name, &secret)?;
        Ok(secret)
    }

    fn write(&self, name: &str, secret: &SecretString) -> Result<(), IdentityError> {
        let text = format!("{}\n", secret.expose_secret());
        let written =
            self.open().and_then(|directory| directory.write(name, text.as_bytes(), SECRET_MODE));
        written.map_err(|error| failed("write", &self.directory.join(name), error))
    }
}

fn checked(bytes: Vec<u8>, path: PathBuf) -> Result<SecretString, IdentityError> {
    let Ok(text) = String::from_utf8(bytes) else { return Err(IdentityError::Damaged(path)) };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
    if bytes.is_ok_and(|bytes| bytes.len() == SECRET_BYTES) {
        Ok(text.to_owned().into())
    } else {
        Err(IdentityError::Damaged(path))
    }
}
