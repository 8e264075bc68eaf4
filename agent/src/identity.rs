//! The device's identity on disk: its own secret, where that is registered, and the session.
//!
//! `state_dir` holds `secret` (256 random bits, made at the first start), `registered` (for which
//! client and at which auth service), `session` (the token) and `lock`; while the secret is rotated also
//! `secret.next`, and afterwards `secret.previous`. The secret is the identity: it is never replaced in
//! silence, since a new one would lock the device out for good.

mod secrets;

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use spoke_diagnostics::error_chain::error_chain;
use tracing::{info, warn};

pub use self::secrets::Secrets;
use crate::{
    config::Account,
    durable::{Directory, FileError, Planted, is_open_to_others},
};

/// What is wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another agent has it.
    #[error(
        "another spoke-agent uses {}; stop it first, or give this one a state_dir of its own",
        .0.display()
    )]
    InUse(PathBuf),
    /// A file or the directory cannot be read or written.
    #[error("failed to {action} {}; see to its owner, mode and free space", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory itself may not be entered: often a mount point whose file system is not there yet.
    #[error("failed to enter {}; mount its file system, or check its owner and mode", path.display())]
    Closed {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A link or the like stands where a file of the agent belongs.
    #[error("{}; {}", .0, .0.mend())]
    Planted(Planted),
    /// The secret is not what the agent wrote.
    #[error(
        "the secret in {} is damaged; restore the file from a backup, or remove it together with \
         `registered` beside it, provision this client again with `spoke-auth provision --again` \
         and run `spoke-agent enrol`",
        .0.display()
    )]
    Damaged(PathBuf),
    /// The device is registered with a secret that is gone.
    #[error(
        "this device is registered, but its secret {} is gone; restore the file from a backup, or \
         remove `registered` and `session` beside it, provision this client again with \
         `spoke-auth provision --again` and run `spoke-agent enrol`",
        .0.display()
    )]
    Gone(PathBuf),
    /// The system has no random bytes to give.
    #[error("failed to get random bytes for the device's secret")]
    NoRandomness(#[source] rand::rand_core::OsError),
}

impl IdentityError {
    /// Whether it stays as it is until a person has mended it: a disk that is full may have room
    /// again by itself, a file system be mounted or become writable, and another agent end.
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::IsADirectory
            ),
            Self::Planted(_) | Self::Damaged(_) | Self::Gone(_) => true,
            Self::Closed { .. } | Self::InUse(_) | Self::NoRandomness(_) => false,
        }
    }

    /// Whether waiting may mend it within this process.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Closed { .. }) && !self.needs_a_person()
    }
}

impl IdentityError {
    /// The same where it befell the directory itself.
    fn of_directory(self, path: &Path) -> Self {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::Closed { path: path.to_owned(), source }
            }
            other => other,
        }
    }
}

/// The state directory, held by this process alone.
#[derive(Debug)]
pub struct Identity {
    path: PathBuf,
    /// Holds the lock until it is dropped, however the process ends.
    lock: File,
}

/// A session token, and how long it lives by this device's clock.
#[derive(Debug, Clone)]
pub struct Session {
    /// What the hub asks for.
    pub token: SecretString,
    /// When it was given out, in milliseconds since 1970.
    pub issued_at_ms: u64,
    /// When it ends, in milliseconds since 1970.
    pub expires_at_ms: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    client: String,
    auth: String,
}

#[derive(Serialize, Deserialize)]
struct StoredSession {
    #[serde(flatten)]
    place: Place,
    token: String,
    issued_at_ms: u64,
    expires_at_ms: u64,
}

/// The token that was kept for this account, read beside the agent that has the directory.
pub fn session_token(state_dir: &Path, account: &Account) -> Option<SecretString> {
    let bytes = Directory::open(state_dir).ok()?.read("session").ok()??;
    let stored: StoredSession = serde_json::from_slice(&bytes).ok()?;
    stored.is_of(account).then(|| stored.token.into())
}

impl StoredSession {
    fn is_of(&self, account: &Account) -> bool {
        self.place == Place::of(account) && self.token.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

const SECRET_MODE: u32 = 0o600;
/// All that has a name in a state directory.
const FILES: [&str; 7] =
    ["lock", "rotation-lock", "secret", "secret.next", "secret.previous", "registered", "session"];

impl Identity {
    /// Opens the directory, makes it if it is missing, and keeps every other agent out of it.
    ///
    /// # Errors
    /// `IdentityError`
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let directory = Directory::open_or_make(path);
        let directory = directory.map_err(|error| failed("make or open", path, error));
        let entered = directory.and_then(|directory| {
            inspect(&directory, path)?;
            lock(&directory, "lock")
        });
        let lock = entered.map_err(|error| error.of_directory(path))?;
        let lock = lock.ok_or_else(|| IdentityError::InUse(path.to_owned()))?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Whether another directory has come in the place of this one, such as a file system that was mounted
    /// late. One that is gone is no other one.
    pub fn is_replaced(&self) -> bool {
        let there = fs::metadata(self.file("lock"));
        match (self.lock.metadata(), there) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) != (there.dev(), there.ino()),
            // Without a lock: one that no agent of ours has used yet, or has been taken from elsewhere.
            (Ok(_), Err(_)) => self.path.join("secret").exists(),
            (Err(_), _) => false,
        }
    }

    /// The secrets, which `spoke-agent rotate` may be at as well.
    pub fn secrets(&self) -> Secrets {
        Secrets::of(&self.path)
    }

    /// Whether there is a secret, be it good or not.
    pub fn has_secret(&self) -> bool {
        self.has("secret")
    }

    /// The device's own secret, made now if there is none and the device was never registered.
    ///
    /// # Errors
    /// `IdentityError`; a secret that is there is never replaced.
    pub fn secret(&self) -> Result<SecretString, IdentityError> {
        match self.secrets().present()? {
            Some(secret) => Ok(secret),
            None => self.make_secret(),
        }
    }

    /// Whether this device is registered as this client at this auth service, as far as is known.
    pub fn is_registered(&self, account: &Account) -> bool {
        self.read::<Place>("registered").is_some_and(|place| place == Place::of(account))
    }

    /// As whom else, and where, the device is registered.
    pub fn registered_elsewhere(&self, account: &Account) -> Option<(String, String)> {
        let place = self.read::<Place>("registered").filter(|place| *place != Place::of(account));
        place.map(|place| (place.client, place.auth))
    }

    /// Remembers that it is.
    ///
    /// # Errors
    /// `IdentityError` when the file cannot be written.
    pub fn record_registered(&self, account: &Account) -> Result<(), IdentityError> {
        self.write("registered", &Place::of(account), 0o644)
    }

    /// The session that was kept for this account, if there is one that can be read.
    pub fn session(&self, account: &Account) -> Option<Session> {
        let stored = self.read::<StoredSession>("session")?;
        stored.is_of(account).then(|| Session {
            token: stored.token.into(),
            issued_at_ms: stored.issued_at_ms,
            expires_at_ms: stored.expires_at_ms,
        })
    }

    /// Keeps a session over restarts.
    ///
    /// # Errors
    /// `IdentityError` when the file cannot be written.
    pub fn record_session(
        &self,
        account: &Account,
        session: &Session,
    ) -> Result<(), IdentityError> {
        let stored = StoredSession {
            place: Place::of(account),
            token: session.token.expose_secret().to_owned(),
            issued_at_ms: session.issued_at_ms,
            expires_at_ms: session.expires_at_ms,
        };
        self.write("session", &stored, SECRET_MODE)
    }

    /// Forgets the session: its token is good for nothing.
    ///
    /// # Errors
    /// `IdentityError` when the file cannot be removed.
    pub fn forget_session(&self) -> Result<(), IdentityError> {
        let removed = self.directory().and_then(|directory| directory.remove("session"));
        removed.map_err(|error| failed("remove", &self.file("session"), error))
    }

    fn make_secret(&self) -> Result<SecretString, IdentityError> {
        let path = self.file("secret");
        if ["registered", "session"].iter().any(|name| self.has(name)) {
            return Err(IdentityError::Gone(path));
        }
        let secret = self.secrets().make_present()?;
        info!(path = %path.display(), "made this device's own secret, since there was none");
        Ok(secret)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opened each time: it may be gone, or another one, since the start.
    fn directory(&self) -> Result<Directory, FileError> {
        Directory::open(&self.path)
    }

    fn has(&self, name: &str) -> bool {
        self.directory().is_ok_and(|directory| directory.has(name))
    }

    /// What can be had again is treated as not there where it makes no sense.
    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        let path = self.file(name);
        match self.directory().and_then(|directory| directory.read(name)) {
            Ok(Some(bytes)) => {
                let parsed = serde_json::from_slice(&bytes);
                if parsed.is_err() {
                    // The parser's own words may quote what is in it.
                    let (path, bytes, follows) = (path.display(), bytes.len(), without(name));
                    warn!(%path, bytes, follows, "this state file is damaged and passed over");
                }
                parsed.ok()
            }
            Ok(None) => None,
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                let (path, error) = (path.display(), error_chain(&error));
                let follows = without(name);
                warn!(%path, error, follows, "this state file cannot be read and is passed over");
                None
            }
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T, mode: u32) -> Result<(), IdentityError> {
        let text = serde_json::to_vec(value).expect("plain words and numbers serialise");
        let written = self.directory().and_then(|directory| directory.write(name, &text, mode));
        written.map_err(|error| failed("write", &self.file(name), error))
    }
}

impl Place {
    fn of(account: &Account) -> Self {
        Self { client: account.client.to_string(), auth: account.auth.to_string() }
    }
}

/// What follows where this file of the state directory says nothing.
fn without(name: &str) -> &'static str {
    match name {
        "session" => "the agent logs in again, and writes it anew",
        "registered" => {
            "whether this device is registered is asked of auth, and written down again with the \
             next login"
        }
        "secret.next" => {
            "a rotation that was begun is forgotten: `spoke-agent rotate` begins another one"
        }
        "secret.previous" => {
            "an auth that comes back with its state of before the last rotation refuses this device"
        }
        _ => "nothing, unless it is needed",
    }
}

/// The lock of this name in a directory, held until it is dropped; none where somebody else has it.
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

/// Refuses a directory in which a link or the like has the name of a file of ours, before anything is done.
fn inspect(directory: &Directory, path: &Path) -> Result<(), IdentityError> {
    directory.inspect(&FILES).map_err(|error| failed("look into", path, error))
}

/// Others could have read it: that is said, and ended.
fn tighten(file: &File, path: &Path) {
    if is_open_to_others(file) {
        warn!(
            path = %path.display(),
            "the device's secret could be read by others; its mode is 0600 again"
        );
        // Read-only file systems keep their modes.
        let _ = file.set_permissions(Permissions::from_mode(SECRET_MODE));
    }
}

fn failed(action: &'static str, path: &Path, error: FileError) -> IdentityError {
    match error {
        FileError::Io(source) => IdentityError::Io { action, path: path.to_owned(), source },
        FileError::Planted(planted) => IdentityError::Planted(planted),
    }
}

#[cfg(test)]
mod tests;
