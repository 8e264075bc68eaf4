//! The device's secrets on disk: the present one, and while it is rotated the next one beside it.
//!
//! The daemon and `spoke-agent rotate` may both be at them. The next one is made by the command alone,
//! which holds a lock for it; either may promote it, by a rename, once auth has taken it. The previous one
//! is kept beside it: an auth whose Redis came back with an older state goes by that one again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::{TryRngCore, rngs::OsRng};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::{IdentityError, SECRET_MODE, failed, tighten};
use crate::durable;

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

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
        self.directory.join("secret")
    }

    /// The present secret, if there is one.
    ///
    /// # Errors
    /// `IdentityError` when it is there and cannot be used.
    pub fn present(&self) -> Result<Option<SecretString>, IdentityError> {
        read(self.path())
    }

    /// The next secret, where one was made. One that is damaged is as good as none.
    ///
    /// # Errors
    /// `IdentityError` when it is there and cannot be read.
    pub fn next(&self) -> Result<Option<SecretString>, IdentityError> {
        read_spare(self.next_path())
    }

    /// The secret before the present one, where there was one. One that is damaged is as good as none.
    ///
    /// # Errors
    /// `IdentityError` when it is there and cannot be read.
    pub fn previous(&self) -> Result<Option<SecretString>, IdentityError> {
        read_spare(self.previous_path())
    }

    /// Makes the present secret.
    ///
    /// # Errors
    /// `IdentityError` when it cannot be made or written.
    pub fn make_present(&self) -> Result<SecretString, IdentityError> {
        make(self.path())
    }

    /// Makes the next secret.
    ///
    /// # Errors
    /// `IdentityError` when it cannot be made or written.
    pub fn make_next(&self) -> Result<SecretString, IdentityError> {
        make(self.next_path())
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
            write(&self.previous_path(), &present)?;
        }
        let path = self.path();
        if self.next()?.as_ref().is_some_and(is_it) {
            return durable::rename(&self.next_path(), &path)
                .map_err(|source| failed("write", &path, source));
        }
        write(&path, taken)
    }

    /// Puts the previous secret, which auth has taken, in the place of the present one, which becomes the
    /// next one: the way back from `promote`.
    ///
    /// # Errors
    /// `IdentityError`; both are there still.
    pub fn step_back(&self, previous: &SecretString) -> Result<(), IdentityError> {
        if let Some(present) = self.present()? {
            write(&self.next_path(), &present)?;
        }
        write(&self.path(), previous)?;
        let path = self.previous_path();
        durable::remove(&path).map_err(|source| failed("remove", &path, source))
    }

    fn next_path(&self) -> PathBuf {
        self.directory.join("secret.next")
    }

    fn previous_path(&self) -> PathBuf {
        self.directory.join("secret.previous")
    }
}

fn read_spare(path: PathBuf) -> Result<Option<SecretString>, IdentityError> {
    match read(path) {
        Err(IdentityError::Damaged(path)) => {
            warn!(path = %path.display(), "this file is damaged and passed over");
            Ok(None)
        }
        read => read,
    }
}

fn read(path: PathBuf) -> Result<Option<SecretString>, IdentityError> {
    match fs::read_to_string(&path) {
        Ok(text) => {
            tighten(&path);
            checked(text, path).map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(IdentityError::Damaged(path))
        }
        Err(source) => Err(failed("read", &path, source)),
    }
}

fn checked(text: String, path: PathBuf) -> Result<SecretString, IdentityError> {
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
    if bytes.is_ok_and(|bytes| bytes.len() == SECRET_BYTES) {
        Ok(text.to_owned().into())
    } else {
        Err(IdentityError::Damaged(path))
    }
}

fn make(path: PathBuf) -> Result<SecretString, IdentityError> {
    let mut bytes = [0; SECRET_BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(IdentityError::NoRandomness)?;
    let secret = SecretString::from(BASE64_URL_SAFE_NO_PAD.encode(bytes));
    write(&path, &secret)?;
    Ok(secret)
}

fn write(path: &Path, secret: &SecretString) -> Result<(), IdentityError> {
    let text = format!("{}\n", secret.expose_secret());
    durable::write(path, text.as_bytes(), SECRET_MODE)
        .map_err(|source| failed("write", path, source))
}
