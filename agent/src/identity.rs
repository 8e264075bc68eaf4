//! The device's identity on disk: its secret, its registration and its session.
//!
//! `state_dir` holds `secret` (256 random bits, created at the first start), `registered` (the
//! client and the auth service), `session` (the token) and `lock`; during a rotation also
//! `secret.next`, and afterwards `secret.previous`. The secret is the identity: the agent never
//! replaces it silently, since a new one would lock the device out permanently.

mod secrets;

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use spoke_diagnostics::error_chain;
use tracing::{info, warn};

pub(crate) use self::secrets::DeviceSecrets;
use crate::{
    account::DeviceAccount,
    atomic_file::{Directory, FileError, UnexpectedFile, is_accessible_to_others},
};

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// Another agent uses it.
    #[error(
        "{} is in use by another spoke-agent. Stop it first, or give this one its own state_dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// A file or the directory cannot be read or written.
    #[error("failed to {action} {}. Check its owner, mode and free space", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory cannot be entered: often a mount point whose file system is not mounted yet.
    #[error("failed to enter {}. Mount its file system, or check its owner and mode", path.display())]
    NoAccess {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A link or another unexpected file has the name of a file of the agent.
    #[error("{}. {}", .0, .0.help())]
    UnexpectedFile(UnexpectedFile),
    /// The secret is not one that the agent wrote.
    #[error(
        "invalid secret in {}. Restore the file from a backup, or remove it together with \
         `registered` beside it, provision this client again with `spoke-auth provision --again` \
         and run `spoke-agent enrol`",
        .0.display()
    )]
    Damaged(PathBuf),
    /// The device is registered, and its secret is missing.
    #[error(
        "secret {} not found, although this device is registered. Restore the file from a backup, \
         or remove `registered` and `session` beside it, provision this client again with \
         `spoke-auth provision --again` and run `spoke-agent enrol`",
        .0.display()
    )]
    Missing(PathBuf),
    /// The system provided no random bytes.
    #[error("failed to get random bytes for the device's secret")]
    NoRandomness(#[source] rand::rand_core::OsError),
}

impl IdentityError {
    /// Returns whether only an operator can resolve it. A full disk may get space, a file system
    /// may be mounted or become writable, and another agent may stop.
    pub(crate) fn needs_operator(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::IsADirectory
            ),
            Self::UnexpectedFile(_) | Self::Damaged(_) | Self::Missing(_) => true,
            Self::NoAccess { .. } | Self::InUse(_) | Self::NoRandomness(_) => false,
        }
    }

    /// Returns whether a retry within this process may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::NoAccess { .. }) && !self.needs_operator()
    }
}

impl IdentityError {
    /// Turns a permission error of the directory itself into [`IdentityError::NoAccess`].
    fn for_directory(self, path: &Path) -> Self {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::NoAccess { path: path.to_owned(), source }
            }
            other => other,
        }
    }
}

/// The state directory, locked by this process.
#[derive(Debug)]
pub(crate) struct Identity {
    path: PathBuf,
    /// Holds the lock until it is dropped, also when the process is killed.
    lock: File,
}

/// A session token, and its lifetime by this device's clock.
#[derive(Debug, Clone)]
pub(crate) struct SavedSession {
    /// The token for the hub.
    pub token: SecretString,
    /// When it was issued, in milliseconds since 1970.
    pub issued_at_ms: u64,
    /// When it expires, in milliseconds since 1970.
    pub expires_at_ms: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RegistrationFile {
    client: String,
    auth: String,
}

#[derive(Serialize, Deserialize)]
struct SessionFile {
    #[serde(flatten)]
    registration: RegistrationFile,
    token: String,
    issued_at_ms: u64,
    expires_at_ms: u64,
}

/// Returns the saved token of this account. Needs no lock, so that a command can read it while the
/// agent runs.
pub(crate) fn session_token(state_dir: &Path, account: &DeviceAccount) -> Option<SecretString> {
    let bytes = Directory::open(state_dir).ok()?.read("session").ok()??;
    let stored: SessionFile = serde_json::from_slice(&bytes).ok()?;
    stored.belongs_to(account).then(|| stored.token.into())
}

impl SessionFile {
    fn belongs_to(&self, account: &DeviceAccount) -> bool {
        self.registration == RegistrationFile::new(account)
            && self.token.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

const SECRET_MODE: u32 = 0o600;
/// The file names of a state directory.
const FILES: [&str; 7] =
    ["lock", "rotation-lock", "secret", "secret.next", "secret.previous", "registered", "session"];

impl Identity {
    /// Opens the directory, creates it if it is missing, and locks it against other agents.
    ///
    /// # Errors
    /// [`IdentityError`] if it cannot be opened, or another agent has locked it.
    pub(crate) fn open(path: &Path) -> Result<Self, IdentityError> {
        let directory = Directory::open_or_create(path);
        let directory = directory.map_err(|error| failed("create or open", path, error));
        let locked = directory.and_then(|directory| {
            inspect(&directory, path)?;
            lock(&directory, "lock")
        });
        let lock = locked.map_err(|error| error.for_directory(path))?;
        let lock = lock.ok_or_else(|| IdentityError::InUse(path.to_owned()))?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Returns whether another directory has replaced this one, such as a file system that was
    /// mounted late. A directory that was removed is not replaced.
    pub(crate) fn is_replaced(&self) -> bool {
        let found = fs::metadata(self.file("lock"));
        match (self.lock.metadata(), found) {
            (Ok(ours), Ok(found)) => (ours.dev(), ours.ino()) != (found.dev(), found.ino()),
            // A directory without a lock has not been used by this agent yet, or comes from a
            // backup.
            (Ok(_), Err(_)) => self.path.join("secret").exists(),
            (Err(_), _) => false,
        }
    }

    /// Returns access to the secrets, which `spoke-agent rotate` may change at the same time.
    pub(crate) fn secrets(&self) -> DeviceSecrets {
        DeviceSecrets::new(&self.path)
    }

    /// Returns whether there is a secret, valid or not.
    pub(crate) fn has_secret(&self) -> bool {
        self.has("secret")
    }

    /// Returns the device's secret, and creates it if there is none and the device was never
    /// registered. Never replaces an existing secret.
    ///
    /// # Errors
    /// [`IdentityError`] if the secret is invalid, missing, or cannot be read or written.
    pub(crate) fn secret(&self) -> Result<SecretString, IdentityError> {
        match self.secrets().current()? {
            Some(secret) => Ok(secret),
            None => self.create_secret(),
        }
    }

    /// Returns whether the directory says that this device is registered as this client at this
    /// auth service.
    pub(crate) fn is_registered(&self, account: &DeviceAccount) -> bool {
        self.read::<RegistrationFile>("registered")
            .is_some_and(|found| found == RegistrationFile::new(account))
    }

    /// Returns the client and the auth service of another account that the device is registered
    /// for.
    pub(crate) fn registered_elsewhere(&self, account: &DeviceAccount) -> Option<(String, String)> {
        let other = self.read::<RegistrationFile>("registered");
        let other = other.filter(|other| *other != RegistrationFile::new(account));
        other.map(|other| (other.client, other.auth))
    }

    /// Saves that the device is registered for this account.
    ///
    /// # Errors
    /// [`IdentityError::Io`] if the file cannot be written.
    pub(crate) fn record_registered(&self, account: &DeviceAccount) -> Result<(), IdentityError> {
        self.write("registered", &RegistrationFile::new(account), 0o644)
    }

    /// Returns the saved session of this account, if there is one that can be read.
    pub(crate) fn session(&self, account: &DeviceAccount) -> Option<SavedSession> {
        let stored = self.read::<SessionFile>("session")?;
        stored.belongs_to(account).then(|| SavedSession {
            token: stored.token.into(),
            issued_at_ms: stored.issued_at_ms,
            expires_at_ms: stored.expires_at_ms,
        })
    }

    /// Saves a session, so that it survives a restart.
    ///
    /// # Errors
    /// [`IdentityError::Io`] if the file cannot be written.
    pub(crate) fn record_session(
        &self,
        account: &DeviceAccount,
        session: &SavedSession,
    ) -> Result<(), IdentityError> {
        let stored = SessionFile {
            registration: RegistrationFile::new(account),
            token: session.token.expose_secret().to_owned(),
            issued_at_ms: session.issued_at_ms,
            expires_at_ms: session.expires_at_ms,
        };
        self.write("session", &stored, SECRET_MODE)
    }

    /// Removes the saved session, whose token was rejected.
    ///
    /// # Errors
    /// [`IdentityError::Io`] if the file cannot be removed.
    pub(crate) fn forget_session(&self) -> Result<(), IdentityError> {
        let removed = self.directory().and_then(|directory| directory.remove("session"));
        removed.map_err(|error| failed("remove", &self.file("session"), error))
    }

    fn create_secret(&self) -> Result<SecretString, IdentityError> {
        let path = self.file("secret");
        if ["registered", "session"].iter().any(|name| self.has(name)) {
            return Err(IdentityError::Missing(path));
        }
        let secret = self.secrets().create_current()?;
        info!(path = %path.display(), "device secret created");
        Ok(secret)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the directory each time: it may have been removed or replaced since the start.
    fn directory(&self) -> Result<Directory, FileError> {
        Directory::open(&self.path)
    }

    fn has(&self, name: &str) -> bool {
        self.directory().is_ok_and(|directory| directory.has(name))
    }

    /// Reads a file that can be restored from auth. An invalid file counts as missing.
    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        let path = self.file(name);
        match self.directory().and_then(|directory| directory.read(name)) {
            Ok(Some(bytes)) => {
                let parsed = serde_json::from_slice(&bytes);
                if parsed.is_err() {
                    // The parser's error may quote the content.
                    let (path, bytes, effect) = (path.display(), bytes.len(), effect_of_loss(name));
                    warn!(%path, bytes, effect, "damaged state file ignored");
                }
                parsed.ok()
            }
            Ok(None) => None,
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                let (path, error) = (path.display(), error_chain(&error));
                let effect = effect_of_loss(name);
                warn!(%path, error, effect, "unreadable state file ignored");
                None
            }
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T, mode: u32) -> Result<(), IdentityError> {
        let text = serde_json::to_vec(value).expect("strings and numbers serialise");
        let written = self.directory().and_then(|directory| directory.write(name, &text, mode));
        written.map_err(|error| failed("write", &self.file(name), error))
    }
}

impl RegistrationFile {
    fn new(account: &DeviceAccount) -> Self {
        Self { client: account.client.to_string(), auth: account.auth.to_string() }
    }
}

/// Returns the effect of ignoring this file of the state directory.
fn effect_of_loss(name: &str) -> &'static str {
    match name {
        "session" => "the agent logs in again, and writes the file again",
        "registered" => {
            "the agent asks auth whether this device is registered, and writes the file at the \
             next login"
        }
        "secret.next" => {
            "an interrupted rotation is discarded: `spoke-agent rotate` starts another one"
        }
        "secret.previous" => {
            "if auth's redis goes back to a state before the last rotation, auth refuses this \
             device"
        }
        _ => "none, unless the file is needed",
    }
}

/// Takes the lock of this name, until the file is dropped. Returns none if another process holds
/// it.
fn lock(directory: &Directory, name: &str) -> Result<Option<File>, IdentityError> {
    let path = directory.path_of(name);
    let lock = directory.open_lock(name, SECRET_MODE);
    let lock = lock.map_err(|error| failed("open", &path, error))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed("lock", &path, source.into())),
    }
}

/// Rejects a directory in which a link or another unexpected file has the name of a file of the
/// agent.
fn inspect(directory: &Directory, path: &Path) -> Result<(), IdentityError> {
    directory.inspect(&FILES).map_err(|error| failed("inspect", path, error))
}

/// Resets the mode of a secret that other users could read, and logs it.
fn restrict_mode(file: &File, path: &Path) {
    if is_accessible_to_others(file) {
        warn!(
            path = %path.display(),
            "device secret was readable by other users; mode reset to 0600"
        );
        // A read-only file system keeps its modes.
        let _ = file.set_permissions(Permissions::from_mode(SECRET_MODE));
    }
}

fn failed(action: &'static str, path: &Path, error: FileError) -> IdentityError {
    match error {
        FileError::Io(source) => IdentityError::Io { action, path: path.to_owned(), source },
        FileError::UnexpectedFile(file) => IdentityError::UnexpectedFile(file),
    }
}

#[cfg(test)]
mod tests;
