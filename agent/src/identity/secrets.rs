//! The device's secrets on disk: the present one, and while it is rotated the next one beside it.
//!
//! The daemon and `spoke-agent rotate` may both be at them. The next one is made by the command alone,
//! which holds a lock for it; either may promote it, by a rename, once auth has taken it. The previous one
//! is kept beside it: an auth whose Redis came back with an older state goes by that one again.

use std::{fs::File, path::PathBuf};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::{TryRngCore, rngs::OsRng};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::{IdentityError, SECRET_MODE, failed, inspect, lock, tighten, without};
use crate::durable::{self, Directory, FileError};

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

const PRESENT: &str = "secret";
const NEXT: &str = "secret.next";
const PREVIOUS: &str = "secret.previous";

/// The files `secret`, `secret.next` and `secret.previous` of a state directory.
#[derive(Debug, Clone)]
pub struct Secrets {
    directory: PathBuf,
}

impl Secrets {
    /// Those of this directory.
    pub fn of(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Where the present one is.
    pub fn path(&self) -> PathBuf {
        self.directory.join(PRESENT)
    }

    /// The present secret, if there is one.
    ///
    /// # Errors
    /// `IdentityError` when it is there and cannot be used.
    pub fn present(&self) -> Result<Option<SecretString>, IdentityError> {
        self.read(PRESENT)
    }

    /// The next secret, where one was made. One that is damaged is as good as none.
    ///
    /// # Errors
    /// `IdentityError` when it is there and cannot be read.
    pub fn next(&self) -> Result<Option<SecretString>, IdentityError> {
        self.read_spare(NEXT)
    }

    /// The secret before the present one, where there was one. One that is damaged is as good as none.
    ///
    /// # Errors
    /// `IdentityError` when it is there and cannot be read.
    pub fn previous(&self) -> Result<Option<SecretString>, IdentityError> {
        self.read_spare(PREVIOUS)
    }

    /// Makes the present secret.
    ///
    /// # Errors
    /// `IdentityError` when it cannot be made or written.
    pub fn make_present(&self) -> Result<SecretString, IdentityError> {
        self.make(PRESENT)
    }

    /// Makes the next secret.
    ///
    /// # Errors
    /// `IdentityError` when it cannot be made or written.
    pub fn make_next(&self) -> Result<SecretString, IdentityError> {
        self.make(NEXT)
    }

    /// Puts a secret that auth has taken, as the next one, in the place of the present one, which becomes
    /// the previous one. Where somebody else has done so, it is done.
    ///
    /// # Errors
    /// `IdentityError`; both are there still.
    pub fn promote(&self, taken: &SecretString) -> Result<(), IdentityError> {
        let is_it = |secret: &SecretString| secret.expose_secret() == taken.expose_secret();
        let present = self.present()?;
        if present.as_ref().is_some_and(is_it) {
            return Ok(());
        }
        if let Some(present) = present {
            self.write(PREVIOUS, &present)?;
        }
        if self.next()?.as_ref().is_some_and(is_it) {
            let renamed = self.open().and_then(|directory| directory.rename(NEXT, PRESENT));
            return renamed.map_err(|error| failed("write", &self.path(), error));
        }
        self.write(PRESENT, taken)
    }

    /// Puts the previous secret, which auth has taken, in the place of the present one, which becomes the
    /// next one: the way back from `promote`.
    ///
    /// # Errors
    /// `IdentityError`; both are there still.
    pub fn step_back(&self, previous: &SecretString) -> Result<(), IdentityError> {
        if let Some(present) = self.present()? {
            self.write(NEXT, &present)?;
        }
        self.write(PRESENT, previous)?;
        let removed = self.open().and_then(|directory| directory.remove(PREVIOUS));
        removed.map_err(|error| failed("remove", &self.directory.join(PREVIOUS), error))
    }

    /// Keeps every other rotation out until what it gives is dropped; none where one is under way.
    ///
    /// # Errors
    /// `IdentityError`, also where anything in the directory is no file of the agent's.
    pub fn lock_rotation(&self) -> Result<Option<File>, IdentityError> {
        let directory = self.open().map_err(|error| failed("open", &self.directory, error))?;
        inspect(&directory, &self.directory)?;
        lock(&directory, "rotation-lock")
    }

    /// Opens the present secret's file, to look at its mode; none where there is none.
    ///
    /// # Errors
    /// `IdentityError`, also where anything in the directory is no file of the agent's.
    pub fn open_present(&self) -> Result<Option<File>, IdentityError> {
        match self.open() {
            Ok(directory) => {
                inspect(&directory, &self.directory)?;
                directory.open_file(PRESENT).map_err(|error| failed("read", &self.path(), error))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed("open", &self.directory, error)),
        }
    }

    /// Opened each time: it may be gone, or another one, since the last.
    fn open(&self) -> Result<Directory, FileError> {
        Directory::open(&self.directory)
    }

    fn read_spare(&self, name: &str) -> Result<Option<SecretString>, IdentityError> {
        match self.read(name) {
            Err(IdentityError::Damaged(path)) => {
                let (path, follows) = (path.display(), without(name));
                warn!(%path, follows, "this state file is damaged and passed over");
                Ok(None)
            }
            read => read,
        }
    }

    fn read(&self, name: &str) -> Result<Option<SecretString>, IdentityError> {
        let path = self.directory.join(name);
        let bytes = self.open().and_then(|directory| match directory.open_file(name)? {
            Some(file) => {
                tighten(&file, &path);
                durable::read(&file).map(Some)
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

    fn make(&self, name: &str) -> Result<SecretString, IdentityError> {
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
